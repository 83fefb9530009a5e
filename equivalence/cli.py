"""The command line: arguments in, exit status out.

Guarantee: results go to stdout, progress and messages to stderr; the exit status is 0 for
equivalent, 1 for different, 2 for undecided or a mistake in usage, 130 for Ctrl-C; a user's mistake
is one line, never a traceback; a file is written whole or not at all. Nothing here imports torch
before a command needs it, so that help answers at once.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from typer.exceptions import TyperException

from equivalence import cli_networks
from equivalence.blocks.spec import BlockSpec, Norm, Shortcut, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from equivalence.report.document import Document
    from equivalence.report.sheet import Sheet


Mode = Literal["eval", "train"]
Format = Literal["text", "json", "markdown", "html"]
Form = Literal["per-branch", "concatenated", "grouped"]
DType = Literal["float64", "float32", "float16", "bfloat16"]

INTERRUPTED = 130

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class UsageError(TyperException):
    """A user's mistake, said in one line."""


@app.callback(invoke_without_command=True)
def _equivalence(context: typer.Context) -> None:
    """\b
    Examples:
      equivalence report                        the seed's block: 256 channels, 32x4d, 56x56
      equivalence report --template 8x14d --mode train --gradients
      equivalence report --format json --output report.json
      equivalence check torchvision.models:resnext50_32x4d
      equivalence convert in.safetensors out.safetensors --model my.py:net --to per-branch
      equivalence show                          layers, shapes and parameters of each form
      equivalence show --notebook               the same for the notebook's three structures
      equivalence search --examples 100         random blocks, modes and dtypes; the worst is shown
      equivalence faults --fault one-ulp-in-expand   would this mistake be caught?
      equivalence notebook                      why the seed notebook's structures differ

    Says whether two network blocks are the same function, and how it knows.

    Exit status: 0 equivalent, 1 different, 2 undecided or a mistake in usage.
    """  # noqa: D301, D400  # examples come first in help
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


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


def _takes_spec(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command every option of a spec, and the spec that they describe."""
    own = inspect.signature(command, eval_str=True).parameters
    options = inspect.signature(_spec, eval_str=True).parameters

    @functools.wraps(command)
    def with_options(**values: Any) -> int:
        spec = _spec(**{name: values.pop(name) for name in options})
        return command(spec=spec, **values)

    parameters = [*options.values(), *(p for name, p in own.items() if name != "spec")]
    return _with_parameters(with_options, parameters)


def _takes_fields(command: Callable[..., int]) -> Callable[..., int]:
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


Size = Annotated[int, typer.Option(help="Height and width of the input.", min=1)]
Batch = Annotated[int, typer.Option(help="Number of inputs.", min=1)]
Seed = Annotated[int, typer.Option(help="Of everything drawn.", min=0, max=2**63 - 1)]
Output = Annotated[Path | None, typer.Option(help="Write there, not to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the verdict only.")]


@app.command()
@_takes_spec
def report(
    spec: BlockSpec,
    size: Size = 56,
    batch: Batch = 1,
    mode: Annotated[Mode, typer.Option(help="Running or batch statistics.")] = "eval",
    dtype: Annotated[DType, typer.Option(help="In which the blocks run.")] = "float32",
    seed: Seed = 0,
    gradients: Annotated[bool, typer.Option("--gradients", help="Compare them too.")] = False,
    device: Annotated[str, typer.Option(help="Where the blocks run, such as cuda.")] = "cpu",
    mapping: Annotated[bool, typer.Option("--mapping", help="Print which tensor went where.")] = False,
    format: Annotated[Format, typer.Option(help="Of the result.")] = "text",  # noqa: A002  # the option is --format
    output: Output = None,
    quiet: Quiet = False,
) -> int:
    """Compare the three forms of a block, before and after weights are transferred."""
    _writable(output)
    with _progress("building three forms"):
        from equivalence.verdict.forms import Setting, verify_forms

        setting = Setting(
            size=size,
            batch=batch,
            mode=mode,
            dtype=dtype,
            seed=seed,
            gradients=gradients,
            device=device,
        )
        results, records = verify_forms(spec, setting)
    from equivalence.report.document import Document

    notes = tuple(str(record) for record in records) if mapping else ()
    document = Document(_replay(), seed, spec, results, notes)
    _show(document, format, output, quiet=quiet)
    return document.verdict.exit_status


@app.command()
@_takes_spec
def show(
    spec: BlockSpec,
    size: Size = 56,
    batch: Batch = 1,
    notebook: Annotated[
        bool, typer.Option("--notebook", help="The notebook's structures instead of the forms.")
    ] = False,
    output: Output = None,
) -> int:
    """Print layers, output shapes, parameters and sizes of each form."""
    _writable(output)
    with _progress("building the blocks"):
        from equivalence.report import layers

        shown = layers.notebook(batch) if notebook else layers.forms(spec, batch, size)
    _write(shown, output)
    return 0


@app.command()
@_takes_fields
def search(
    fields: dict[str, Any],
    examples: Annotated[int, typer.Option(help="How many cases are drawn.", min=1)] = 100,
    seed: Seed = 0,
    mode: Annotated[Mode | None, typer.Option(help="Drawn if left out.")] = None,
    dtype: Annotated[DType | None, typer.Option(help="Drawn if left out.")] = None,
    left: Annotated[Form | None, typer.Option(help="Drawn if left out.")] = None,
    right: Annotated[Form | None, typer.Option(help="Drawn if left out.")] = None,
    weights_seed: Annotated[int | None, typer.Option(help="Of the weights; drawn if left out.", min=0)] = None,
    max_channels: Annotated[int, typer.Option(help="Most channels that are drawn.")] = 8,
    max_cardinality: Annotated[int, typer.Option(help="Most branches that are drawn.")] = 4,
    max_width: Annotated[int, typer.Option(help="Greatest width that is drawn.")] = 4,
    format: Annotated[Format, typer.Option(help="Of the result.")] = "text",  # noqa: A002  # the option is --format
    output: Output = None,
    quiet: Quiet = False,
) -> int:
    """Check random blocks in random modes and dtypes; what is given is not drawn."""
    _writable(output)
    from equivalence.testing import names, strategies

    specs = strategies.block_specs(
        max_channels=max_channels, max_cardinality=max_cardinality, max_width=max_width, **fields
    )
    cases = strategies.cases(
        specs,
        modes=[mode] if mode else names.MODES,
        dtypes=[dtype] if dtype else names.DTYPES,
        lefts=[left] if left else names.FORM_NAMES,
        rights=[right] if right else names.FORM_NAMES,
        seed=weights_seed,
    )
    with _bar("checking", examples) as step:
        from equivalence.testing.search import search as run

        campaign = run(cases, examples=examples, seed=seed, step=step)
    document = campaign.document(_replay(), seed)
    _show(document, format, output, quiet=quiet)
    return document.verdict.exit_status


@app.command()
@_takes_spec
def faults(
    spec: BlockSpec,
    fault: Annotated[list[str] | None, typer.Option(help="Only this one; may be given several times.")] = None,
    seed: Seed = 0,
    format: Annotated[Format, typer.Option(help="Of the result.")] = "text",  # noqa: A002  # the option is --format
    output: Output = None,
    quiet: Quiet = False,
) -> int:
    """Plant known mistakes in each form and show what catches them."""
    _writable(output)
    with _progress("planting faults") as progress:
        from equivalence.report.faults import kill_sheet
        from equivalence.verdict.faults import CATALOGUE, fault_named
        from equivalence.verdict.faults.kill import kill_table

        chosen = [fault_named(name) for name in fault] if fault else list(CATALOGUE.values())
        trials = []
        for trial in kill_table(spec, chosen, seed):
            trials.append(trial)
            progress.update(f"{trial.fault} in {trial.form}: {trial.outcome}")
    sheet = kill_sheet(trials, spec, _replay(), seed)
    _show_sheet(sheet, format, output, quiet=quiet)
    return sheet.exit_status


@app.command()
def notebook(
    seed: Seed = 0,
    format: Annotated[Format, typer.Option(help="Of the result.")] = "text",  # noqa: A002  # the option is --format
    output: Output = None,
    quiet: Quiet = False,
) -> int:
    """Explain why the seed notebook's structures differ, and the least change that makes them agree."""
    _writable(output)
    with _progress("judging the notebook's structures"):
        from equivalence.report.notebook import notebook_sheet
        from equivalence.verdict.notebook import explain

        sheet = notebook_sheet(explain(seed), _replay(), seed)
    _show_sheet(sheet, format, output, quiet=quiet)
    return sheet.exit_status


app.command()(cli_networks.check)
app.command()(cli_networks.convert)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Args:
        arguments: those of the process by default.
    """
    try:
        status = app(arguments, prog_name="equivalence", standalone_mode=False)
        sys.stdout.flush()
    except TyperException as error:
        return _mistake(error.format_message())
    except (ValueError, TypeError) as error:
        return _mistake(str(error))
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        return _mistake("not enough memory for this size and batch; ask for less")
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        # The reader left; what remains in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if status == INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return int(status or 0)


def _mistake(message: str) -> int:
    """One line for a user's mistake, and its exit status."""
    print(f"equivalence: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _show(document: Document, form: Format, output: Path | None, *, quiet: bool) -> None:
    """Write the document in its format, coloured if it goes to a terminal that wants it."""
    from equivalence.report import html, json, markdown, text

    if quiet:
        _write(f"{document.verdict.name}\n", output)
    elif form == "text" and output is None:
        _print(text.parts(document))
    else:
        renderer = {"text": text, "json": json, "markdown": markdown, "html": html}[form]
        _write(renderer.render(document), output)


def _show_sheet(sheet: Sheet, form: Format, output: Path | None, *, quiet: bool) -> None:
    """Write the sheet in its format, coloured if it goes to a terminal that wants it."""
    if quiet:
        _write(f"{sheet.conclusion}\n", output)
    elif form == "text" and output is None:
        _print(sheet.parts())
    else:
        render = {"text": sheet.text, "json": sheet.json, "markdown": sheet.markdown, "html": sheet.html}[form]
        _write(render(), output)


def _print(parts: Iterable[RenderableType]) -> None:
    """To a terminal in its colours, or to a pipe without an edge."""
    from rich.console import Console

    from equivalence.report.text import WIDTH_OF_NO_TERMINAL

    console = Console(soft_wrap=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_NO_TERMINAL
    for part in parts:
        console.print(part)


def _write(content: str, output: Path | None) -> None:
    """To stdout, or whole into a file: beside it first, then renamed."""
    if output is None:
        sys.stdout.write(content)
        return
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        draft.write_text(content, encoding="utf-8")
        draft.replace(output)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UsageError(f"cannot write {output}: {error.strerror}") from None


def _writable(output: Path | None) -> None:
    """Say before the work that its result will have nowhere to go."""
    if output is None:
        return
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: folder {output.parent} does not exist; create it")
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder; name a file")


def _progress(what: str) -> Any:
    """A spinner on stderr, on a terminal only."""
    from rich.console import Console

    return Console(stderr=True).status(what)


@contextlib.contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[object], None]]:
    """A progress bar on stderr, on a terminal only; full while a failing case is shrunk."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda _: progress.advance(task)


def _replay() -> str:
    """The command that runs this again."""
    return shlex.join(["equivalence", *sys.argv[1:]])
