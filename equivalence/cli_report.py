"""The commands about one block: `report` compares its three forms, `show` prints them."""

from __future__ import annotations

from typing import Annotated

import typer

from equivalence.blocks.spec import BlockSpec
from equivalence.cli_options import Batch, DTypeName, Format, Mode, Output, Quiet, Seed, Size, takes_spec
from equivalence.cli_output import progress, replay, show_document, writable, write


@takes_spec
def report(
    spec: BlockSpec,
    size: Size = 56,
    batch: Batch = 1,
    mode: Mode = "eval",
    dtype: Annotated[DTypeName, typer.Option(help="In which the blocks run.")] = "float32",
    seed: Seed = 0,
    gradients: Annotated[bool, typer.Option("--gradients", help="Compare them too.")] = False,
    device: Annotated[str, typer.Option(help="Where the blocks run, such as cuda.")] = "cpu",
    mapping: Annotated[bool, typer.Option("--mapping", help="Print which tensor went where.")] = False,
    format: Format = "text",  # noqa: A002  # the option is --format
    output: Output = None,
    quiet: Quiet = False,
) -> int:
    """Compare the three forms of a block, before and after weights are transferred."""
    writable(output)
    with progress("building three forms"):
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
    document = Document(replay(), seed, spec, results, notes)
    show_document(document, format, output, quiet=quiet)
    return document.verdict.exit_status


@takes_spec
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
    writable(output)
    with progress("building the blocks"):
        from equivalence.report import layers

        shown = layers.notebook(batch) if notebook else layers.forms(spec, batch, size)
    write(shown, output)
    return 0
