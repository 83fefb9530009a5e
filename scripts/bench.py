"""Speed and memory, as ratios within one run, because machines are shared and noisy.

Every figure is a median; what is compared is run in turns, so that both sides see the same noise.
Nothing here is asserted: a figure is read by a person.
"""

from __future__ import annotations

import itertools
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable  # noqa: TC003  # typer reads annotations
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from equivalence import BlockSpec, compare, transfer
from equivalence.blocks.forms import FORMS, Block
from equivalence.blocks.recognize import find_blocks
from equivalence.verdict.forms import Setting, build_forms
from equivalence.verdict.network import check_network
from equivalence.weights.checkpoint import convert_checkpoint, plan_of

SEED_SPEC = BlockSpec(in_channels=256, cardinality=32, width=4)
# Templates of about equal cost, 256 → 256 channels: Xie et al. 2016, Table 2.
TABLE_2 = ("1x64d", "2x40d", "4x24d", "8x14d", "32x4d")
console = Console()


def seconds(*runs: Callable[[], object], repeat: int = 9) -> list[float]:
    """Median seconds of each run, the runs taking turns."""
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeat):
        for run, taken in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def peak_megabytes(code: str) -> float:
    """Greatest resident memory of a fresh interpreter that runs the code, in MB."""
    # Unlike getrusage's figure, this one does not start from the parent's.
    measured = "print(next(s for s in open('/proc/self/status') if 'VmHWM' in s).split()[1])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{measured}"], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1]) / 1024


def forward(block: torch.nn.Module, inputs: torch.Tensor) -> Callable[[], object]:
    """A bare forward without gradients."""

    def run() -> object:
        with torch.no_grad():
            return block(inputs)

    return run


def bench_compare() -> None:
    """`compare` of outputs against the two bare forwards (at most 1.10)."""
    blocks, inputs = build_forms(SEED_SPEC, Setting()), torch.randn(1, 256, 56, 56)
    table = Table("pair", "compare (ms)", "two forwards (ms)", "ratio")
    for a, b in itertools.combinations(blocks, 2):
        transfer(a, b)
        whole, left, right = seconds(
            lambda a=a, b=b: compare(a, b, inputs, stages=False),
            forward(a, inputs),
            forward(b, inputs),
        )
        bare = left + right
        name = f"{a.form} / {b.form}"
        table.add_row(name, f"{whole * 1e3:.1f}", f"{bare * 1e3:.1f}", f"{whole / bare:.2f}")
    console.print(table)


def bench_transfer() -> None:
    """`transfer` of the seed's block against a bare per-branch forward at 56×56 (at most 0.25)."""
    blocks, inputs = build_forms(SEED_SPEC, Setting()), torch.randn(1, 256, 56, 56)
    table = Table("transfer", "ms", "of a per-branch forward")
    for a, b in itertools.product(blocks, repeat=2):
        moved, bare = seconds(lambda a=a, b=b: transfer(a, b), forward(blocks[0], inputs))
        table.add_row(f"{a.form} → {b.form}", f"{moved * 1e3:.1f}", f"{moved / bare:.2f}")
    console.print(table)


def bench_memory() -> None:
    """Peak memory of the whole report against the largest bare forward (at most 1.5)."""
    loaded = peak_megabytes("import torch")
    forwards = {
        name: peak_megabytes(
            "import torch; from equivalence.blocks.forms import FORMS; "
            "from equivalence import BlockSpec\n"
            f"block = FORMS[{name!r}](BlockSpec(in_channels=256, cardinality=32, width=4)).eval()\n"
            "with torch.no_grad(): block(torch.randn(1, 256, 56, 56))"
        )
        for name in FORMS
    }
    report = peak_megabytes(
        "from equivalence.cli import main; import sys; sys.argv = ['equivalence', 'report']; main()"
    )
    table = Table("process", "peak (MB)", "above torch loaded (MB)", "of the largest forward")
    largest = max(forwards.values())
    for name, peak in {"torch loaded": loaded, **forwards, "whole report": report}.items():
        table.add_row(name, f"{peak:.0f}", f"{peak - loaded:.0f}", f"{peak / largest:.2f}")
    console.print(table)


def bench_startup() -> None:
    """`equivalence --help` (at most 0.6 s, no torch), a second `scripts/report` (at most 8 s)."""
    table = Table("command", "seconds")
    for command in (["equivalence", "--help"], ["equivalence", "report"]):
        module = [sys.executable, "-m", *command]
        (taken,) = seconds(
            lambda module=module: subprocess.run(module, capture_output=True, check=False), repeat=3
        )
        table.add_row(" ".join(command), f"{taken:.2f}")
    console.print(table)


def bench_table2() -> None:
    """Time and peak memory of each form at the five cardinalities of Table 2, 56×56, batch 1."""
    table = Table(
        "template", "form", "parameters", "eval (ms)", "train step (ms)", "eval (MB)", "train (MB)"
    )
    inputs = torch.randn(1, 256, 56, 56)
    loaded = peak_megabytes("import torch")
    for template in TABLE_2:
        spec = BlockSpec.from_template(template, in_channels=256)
        for name, form in FORMS.items():
            block = form(spec)
            count = sum(p.numel() for p in block.parameters())

            def step(block: Block = block) -> None:
                block.train()(inputs).sum().backward()

            (trained,) = seconds(step, repeat=5)
            (evaluated,) = seconds(forward(block.eval(), inputs), repeat=5)
            build = (
                "import torch; from equivalence.blocks.forms import FORMS; "
                "from equivalence import BlockSpec\n"
                f"b = FORMS[{name!r}](BlockSpec.from_template({template!r}, in_channels=256))\n"
                "x = torch.randn(1, 256, 56, 56)\n"
            )
            memory = [
                peak_megabytes(build + "with torch.no_grad(): b.eval()(x)") - loaded,
                peak_megabytes(build + "b.train()(x).sum().backward()") - loaded,
            ]
            times = [f"{evaluated * 1e3:.1f}", f"{trained * 1e3:.1f}"]
            table.add_row(template, name, f"{count:,}", *times, *(f"{m:.0f}" for m in memory))
    console.print(table)


def stacked(blocks: int) -> torch.nn.Sequential:
    """A network of the seed's blocks, for want of published ones in this environment."""
    return torch.nn.Sequential(*(FORMS["grouped"](SEED_SPEC) for _ in range(blocks))).eval()


def bench_recognition() -> None:
    """Recognition of a network of 16 blocks against one forward of it at 56×56 (at most 5)."""
    network, inputs = stacked(16), torch.randn(1, 256, 56, 56)
    found, bare = seconds(lambda: find_blocks(network), forward(network, inputs), repeat=3)
    table = Table("recognition (s)", "forward (s)", "ratio")
    table.add_row(f"{found:.2f}", f"{bare:.2f}", f"{found / bare:.2f}")
    console.print(table)


def bench_certificate() -> None:
    """Proofs for all weights of a network of 16 blocks against one forward at 56×56 (at most 10)."""
    network, inputs = stacked(16), torch.randn(1, 256, 56, 56)
    proved, bare = seconds(lambda: check_network(network, whole=False), forward(network, inputs), repeat=1)
    table = Table("certificate (s)", "forward (s)", "ratio")
    table.add_row(f"{proved:.2f}", f"{bare:.2f}", f"{proved / bare:.1f}")
    console.print(table)


def bench_checkpoint() -> None:
    """A safetensors file of 8 of the seed's blocks, against a copy of it."""
    network = stacked(8)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a.safetensors"), Path(folder, "b.safetensors")
        save_file(network.state_dict(), source)
        with torch.device("meta"):
            plan = plan_of(stacked(8), "per-branch")
        convert, copy = seconds(
            lambda: convert_checkpoint(source, target, plan), lambda: shutil.copy(source, target), repeat=3
        )
        table = Table("file (MB)", "convert (s)", "copy (s)", "ratio")
        table.add_row(f"{source.stat().st_size / 1e6:.0f}", f"{convert:.2f}", f"{copy:.2f}", f"{convert / copy:.1f}")
    console.print(table)


BENCHMARKS = {
    name.removeprefix("bench_"): run
    for name, run in globals().copy().items()
    if name.startswith("bench_")
}


def main(names: list[str] = typer.Argument(None, help=", ".join(BENCHMARKS))) -> None:  # noqa: B008  # typer's idiom
    """Run the named benchmarks, all by default."""
    if unknown := set(names or ()) - BENCHMARKS.keys():
        raise typer.BadParameter(f"{sorted(unknown)}; there are {', '.join(BENCHMARKS)}")
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in names or BENCHMARKS:
        console.print(f"\n[bold]{name}[/bold]: {BENCHMARKS[name].__doc__}")
        BENCHMARKS[name]()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(f"\npeak memory of this run: {used:.0f} MB")


if __name__ == "__main__":
    typer.run(main)
