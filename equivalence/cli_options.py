"""The options that commands share: each is written here once, with its help and its bounds.

Guarantee: every field of a spec is an option of each command about blocks, and what the options
describe is a valid spec or one line that says why not.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from equivalence.blocks.spec import BlockSpec, Norm, Shortcut, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

ModeName = Literal["eval", "train"]
FormatName = Literal["text", "json", "markdown", "html"]
FormName = Literal["per-branch", "concatenated", "grouped"]
DTypeName = Literal["float64", "float32", "float16", "bfloat16"]

Mode = Annotated[ModeName, typer.Option(help="Running or batch statistics.")]
Format = Annotated[FormatName, typer.Option(help="Of the result.")]
Size = Annotated[int, typer.Option(help="Height and width of the input.", min=1)]
Batch = Annotated[int, typer.Option(help="Number of inputs.", min=1)]
Seed = Annotated[int, typer.Option(help="Of everything drawn.", min=0, max=2**63 - 1)]
Output = Annotated[Path | None, typer.Option(help="Write there, not to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the verdict only.")]


def _spec(
    template: Annotated[str, typer.Option(help="Cardinality x width, as in the paper.")] = "32x4d",
    in_channels: Annotated[int, typer.Option(help="Channels of the input.")] = 256,
    out_channels: Annotated[
        int | None, typer.Option(help="Channels of the output; those of the input by default.")
    ] = None,
    cardinality: Annotated[int | None, typer.Option(help="Number of branches, in place of the template's.")] = None,
    width: Annotated[int | None, typer.Option(help="Channels of a branch, in place of the template's.")] = None,
    kernel_size: Annotated[int, typer.Option(help="Odd extent of the transform.")] = 3,
    stride: Annotated[int, typer.Option(help="Stride of the transform.")] = 1,
    dilation: Annotated[int, typer.Option(help="Dilation of the transform.")] = 1,
    bias: Annotated[tuple[bool, bool, bool], typer.Option(help="Of the three convolutions in turn.")] = (
        False,
        False,
        False,
    ),
    norm: Annotated[Norm, typer.Option(help="What follows each convolution.")] = "batch",
    norm_groups: Annotated[int, typer.Option(help="Of a group norm in one branch.")] = 1,
    output_norm_groups: Annotated[int, typer.Option(help="Of a group norm of the output channels.")] = 1,
    eps: Annotated[float, typer.Option(help="Added to variances.")] = 1e-5,
    momentum: Annotated[str, typer.Option(help="Of running statistics; 'none' averages all batches.")] = "0.1",
    activation: Annotated[str, typer.Option(help="Of torch.nn.functional.")] = "relu",
    shortcut: Annotated[Shortcut | None, typer.Option(help="By default identity where shapes allow it.")] = None,
    spatial_dims: Annotated[int, typer.Option(help="1, 2 or 3.")] = 2,
) -> BlockSpec:
    """The block that the options describe."""
    from_template = BlockSpec.from_template(template, in_channels=in_channels)
    return BlockSpec(
        in_channels=in_channels,
        cardinality=from_template.cardinality if cardinality is None else cardinality,
        width=from_template.width if width is None else width,
        out_channels=out_channels,  # type: ignore[arg-type]  # None is the default
        kernel_size=kernel_size,
        stride=stride,
        dilation=dilation,
        bias=bias,
        norm=norm,
        norm_groups=norm_groups,
        output_norm_groups=output_norm_groups,
        eps=eps,
        momentum=_momentum(momentum),
        activation=activation,
        shortcut=shortcut,  # type: ignore[arg-type]  # None is the default
        spatial_dims=spatial_dims,
    )


def _momentum(text: str) -> float | None:
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise SpecError(f"momentum (={text!r}) must be a number or 'none'") from None


def takes_spec(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command every option of a spec, and the spec that they describe."""
    own = inspect.signature(command, eval_str=True).parameters
    options = inspect.signature(_spec, eval_str=True).parameters

    @functools.wraps(command)
    def with_options(**values: Any) -> int:
        spec = _spec(**{name: values.pop(name) for name in options})
        return command(spec=spec, **values)

    parameters = [*options.values(), *(p for name, p in own.items() if name != "spec")]
    return _with_parameters(with_options, parameters)


def takes_fields(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command each field of a spec as an option, and those that were given as `fields`."""
    own = inspect.signature(command, eval_str=True).parameters
    options = {
        name: option.replace(default=None, annotation=_or_none(option.annotation))
        for name, option in inspect.signature(_spec, eval_str=True).parameters.items()
        if name != "template"
    }

    @functools.wraps(command)
    def with_options(**values: Any) -> int:
        given = {name: values.pop(name) for name in options}
        fields = {name: value for name, value in given.items() if value is not None}
        if "momentum" in fields:
            fields["momentum"] = _momentum(fields["momentum"])
        return command(fields=fields, **values)

    parameters = [*(p for name, p in own.items() if name != "fields"), *options.values()]
    return _with_parameters(with_options, parameters)


def _or_none(annotation: Any) -> Any:
    """The type of an option that may be left out."""
    kind, *described = get_args(annotation)
    return Annotated[(kind | None, *described)]


def _with_parameters(command: Callable[..., int], parameters: list[inspect.Parameter]) -> Callable[..., int]:
    """The command with a signature that typer makes options of."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command
