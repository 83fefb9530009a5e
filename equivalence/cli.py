"""The command line: arguments in, exit status out.

Guarantee: results go to stdout, progress and messages to stderr; the exit status is 0 for
equivalent, 1 for different, 2 for undecided or a mistake in usage, 130 for Ctrl-C; a user's mistake
is one line, never a traceback. Nothing here imports torch before a command needs it, so that help
answers at once.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import typer
from typer.exceptions import TyperException

from equivalence import cli_networks, cli_oracle, cli_report

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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


for command in (
    cli_report.report,
    cli_report.show,
    cli_oracle.search,
    cli_oracle.faults,
    cli_oracle.notebook,
    cli_networks.check,
    cli_networks.convert,
):
    app.command()(command)


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
