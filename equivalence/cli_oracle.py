"""The commands that test the verdict itself: `search`, `faults` and `notebook`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from equivalence.blocks.spec import BlockSpec
from equivalence.cli_options import DTypeName, Format, FormName, ModeName, Output, Quiet, Seed, takes_fields, takes_spec
from equivalence.cli_output import bar, progress, replay, show_document, show_sheet, writable


@takes_fields
def search(
    fields: dict[str, Any],
    examples: Annotated[int, typer.Option(help="How many cases are drawn.", min=1)] = 100,
    seed: Seed = 0,
    mode: Annotated[ModeName | None, typer.Option(help="Drawn if left out.")] = None,
    dtype: Annotated[DTypeName | None, typer.Option(help="Drawn if left out.")] = None,
    left: Annotated[FormName | None, typer.Option(help="Drawn if left out.")] = None,
    right: Annotated[FormName | None, typer.Option(help="Drawn if left out.")] = None,
    weights_seed: Annotated[int | None, typer.Option(help="Of the weights; drawn if left out.", min=0)] = None,
    max_channels: Annotated[int, typer.Option(help="Most channels that are drawn.")] = 8,
    max_cardinality: Annotated[int, typer.Option(help="Most branches that are drawn.")] = 4,
    max_width: Annotated[int, typer.Option(help="Greatest width that is drawn.")] = 4,
    format: Format = "text",  # noqa: A002  # the option is --format
    output: Output = None,
    quiet: Quiet = False,
) -> int:
    """Check random blocks in random modes and dtypes; what is given is not drawn."""
    writable(output)
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
    with bar("checking", examples) as step:
        from equivalence.testing.search import search as run

        campaign = run(cases, examples=examples, seed=seed, step=step)
    document = campaign.document(replay(), seed)
    show_document(document, format, output, quiet=quiet)
    return document.verdict.exit_status


@takes_spec
def faults(
    spec: BlockSpec,
    fault: Annotated[list[str] | None, typer.Option(help="Only this one; may be given several times.")] = None,
    seed: Seed = 0,
    format: Format = "text",  # noqa: A002  # the option is --format
    output: Output = None,
    quiet: Quiet = False,
) -> int:
    """Plant known mistakes in each form and show what catches them."""
    writable(output)
    with progress("loading"):
        from equivalence.blocks.forms import FORMS
        from equivalence.report.faults import kill_sheet
        from equivalence.verdict.faults import CATALOGUE, fault_named
        from equivalence.verdict.faults.kill import kill_table
    chosen = [fault_named(name) for name in fault] if fault else list(CATALOGUE.values())
    trials = []
    with bar("planting faults", len(chosen) * len(FORMS)) as step:
        for trial in kill_table(spec, chosen, seed):
            trials.append(trial)
            step(trial)
    sheet = kill_sheet(trials, spec, replay(), seed)
    show_sheet(sheet, format, output, quiet=quiet)
    return sheet.exit_status


def notebook(
    seed: Seed = 0,
    format: Format = "text",  # noqa: A002  # the option is --format
    output: Output = None,
    quiet: Quiet = False,
) -> int:
    """Explain why the seed notebook's structures differ, and the least change that makes them agree."""
    writable(output)
    with progress("judging the notebook's structures"):
        from equivalence.report.notebook import notebook_sheet
        from equivalence.verdict.notebook import explain

        sheet = notebook_sheet(explain(seed), replay(), seed)
    show_sheet(sheet, format, output, quiet=quiet)
    return sheet.exit_status
