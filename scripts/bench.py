"""Speed and memory, as ratios within one run, because machines are shared and noisy.

Every figure is a median; what is compared is run in turns, so that both sides see the same noise.
Nothing here is asserted: a figure is read by a person.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import itertools
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable  # noqa: TC003  # typer reads annotations
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from equivalence import BlockSpec, check, compare, locate, transfer
from equivalence.blocks.forms import FORMS, Block
from equivalence.blocks.recognize import find_blocks
from equivalence.blocks.reference import reference
from equivalence.verdict.faults import CATALOGUE
from equivalence.verdict.faults.kill import Bench, kill_table
from equivalence.verdict.forms import Setting, build_forms
from equivalence.verdict.memory import Memory
from equivalence.verdict.network import check_network
from equivalence.verdict.prove import default_shapes, prove_shapes
from equivalence.weights.checkpoint import convert_checkpoint
from equivalence.weights.correspondence import gather
from equivalence.weights.plan import plan_of

if TYPE_CHECKING:
    from equivalence.arithmetic.floating import Mode

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
    done = subprocess.run([sys.executable, "-c", f"{code}\n{measured}"], capture_output=True, text=True, check=True)
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
        (taken,) = seconds(lambda module=module: subprocess.run(module, capture_output=True, check=False), repeat=3)
        table.add_row(" ".join(command), f"{taken:.2f}")
    console.print(table)


def cpu_seconds(command: list[str], folder: str) -> float:
    """User and system time of a process, which neighbours on a machine hardly change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def bench_pytest() -> None:
    """Runs of pytest with the plugin installed and not used, against without it (at most 50 ms more)."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_nothing.py").write_text("def test_nothing(): pass\n")
        # Hypothesis' own plugin takes longer than all the rest, and is not what is measured.
        bare = [sys.executable, "-m", "pytest", "-q", "-p", "no:hypothesispytest"]
        runs = [bare, [*bare, "-p", "no:equivalence"]]
        for command in runs:
            cpu_seconds(command, folder)
        taken = [[1e3 * cpu_seconds(command, folder) for command in runs] for _ in range(25)]
    installed, without = (statistics.median(times) for times in zip(*taken, strict=True))
    more = statistics.median(a - b for a, b in taken)
    table = Table("pytest", "CPU (ms)", "more than without (ms)")
    table.add_row("with the plugin", f"{installed:.0f}", f"{more:.0f}")
    table.add_row("-p no:equivalence", f"{without:.0f}", "")
    console.print(table)


def bench_table2() -> None:
    """Time and peak memory of each form at the five cardinalities of Table 2, 56×56, batch 1."""
    table = Table("template", "form", "parameters", "eval (ms)", "train step (ms)", "eval (MB)", "train (MB)")
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


def three_forms(spec: BlockSpec = SEED_SPEC) -> list[Block]:
    """The forms of one block with corresponding weights."""
    blocks = build_forms(spec, Setting())
    for source, target in itertools.pairwise(blocks):
        transfer(source, target)
    return blocks


def all_forward(blocks: list[Block], inputs: torch.Tensor) -> Callable[[], object]:
    """One bare float32 forward of each form: a single look."""
    runs = [forward(block, inputs) for block in blocks]
    return lambda: [run() for run in runs]


def prove_forms(blocks: list[Block], mode: Mode = "eval", *, gradients: bool = False) -> float:
    """Prove per-branch = concatenated = grouped; returns log2 of the probability of error."""
    memory, errors = Memory(), []
    for left, right in itertools.pairwise(blocks):
        shapes = default_shapes(left, right)
        proof = prove_shapes(left, right, shapes, mode, "given", gradients=gradients, seed=0, memory=memory)
        if not proof:
            raise RuntimeError(f"the forms were not proved equal: {proof}")
        errors.append(proof.log2_error)
    return max(errors)


def check_forms(blocks: list[Block], mode: Mode) -> None:
    """The whole ladder for all three pairs."""
    memory = Memory()
    for left, right in itertools.combinations(blocks, 2):
        check(left, right, mode=mode, memory=memory)


def bench_proof() -> None:
    """Proof of the three forms for every input, against one look at 56×56 (at most 1.0)."""
    blocks, inputs = three_forms(), torch.randn(1, 256, 56, 56)
    table = Table("proof of three forms", "error below", "ms", "of one look")
    for name, run in {
        "outputs": lambda: prove_forms(blocks),
        "outputs and input gradient": lambda: prove_forms(blocks, gradients=True),
        "training": lambda: prove_forms(blocks, "train", gradients=True),
    }.items():
        proof, look = seconds(run, all_forward(blocks, inputs), repeat=5)
        error = f"2^{run():.0f}"
        table.add_row(name, error, f"{proof * 1e3:.0f}", f"{proof / look:.2f}")
    console.print(table)


def bench_ladder() -> None:
    """The whole ladder for three pairs, both modes with gradients, against one look (at most 40)."""
    blocks, inputs = three_forms(), torch.randn(1, 256, 56, 56)
    table = Table("ladder", "seconds", "of one look")

    def both() -> None:
        check_forms(blocks, "eval")
        check_forms(blocks, "train")

    for name, run in {
        "eval": lambda: check_forms(blocks, "eval"),
        "train": lambda: check_forms(blocks, "train"),
        "both modes": both,
    }.items():
        taken, look = seconds(run, all_forward(blocks, inputs), repeat=3)
        table.add_row(name, f"{taken:.2f}", f"{taken / look:.1f}")
    console.print(table)


def bench_growth() -> None:
    """Cost of a proof with cardinality and with weights: it should grow linearly."""
    table = Table("block", "weights", "proof (ms)", "per branch (ms)", "per 1000 weights (ms)")
    specs = [BlockSpec(in_channels=256, cardinality=c, width=4) for c in (1, 4, 16, 64)]
    specs += [BlockSpec(in_channels=c, cardinality=c // 8, width=4) for c in (64, 256, 1024)]
    for spec in specs:
        blocks = three_forms(spec)
        (taken,) = seconds(lambda blocks=blocks: prove_forms(blocks), repeat=3)
        weights = sum(p.numel() for p in blocks[2].parameters())
        ms = taken * 1e3
        name = f"{spec.in_channels} channels, {spec.template}"
        per = [f"{ms / spec.cardinality:.1f}", f"{ms / weights * 1e3:.2f}"]
        table.add_row(name, f"{weights:,}", f"{ms:.0f}", *per)
    console.print(table)


def bench_fractions() -> None:
    """One output pixel by exact fractions (NumPy reference) against the proof for every input."""
    blocks = three_forms()
    canonical = gather("grouped", dict(blocks[2].state_dict()), SEED_SPEC.cardinality)
    exact = np.vectorize(Fraction, otypes=[object])
    weights = {
        name: exact(tensor.double().numpy()) if tensor.is_floating_point() else tensor.numpy()
        for name, tensor in canonical.items()
        if "norm" not in name
    }
    spec = dataclasses.replace(SEED_SPEC, norm="none")
    x = exact(torch.randn(1, 256, 1, 1).double().numpy())
    start = time.perf_counter()
    reference(spec, weights, x)
    pixel = time.perf_counter() - start
    (proof,) = seconds(lambda: prove_forms(blocks), repeat=3)
    table = Table("what", "seconds", "ratio")
    table.add_row("one pixel of one input, one form, without norms, by fractions", f"{pixel:.2f}", "")
    table.add_row("proof for every input, three forms", f"{proof:.3f}", f"{pixel / proof:.1f}")
    pixels = 3 * 56 * 56
    table.add_row(
        "(all pixels of one 56×56 input, three forms)", f"{pixel * pixels:.0f}", f"{pixel * pixels / proof:.0f}"
    )
    console.print(table)


def bench_small() -> None:
    """Full checks of small specs a second on one core, evaluation mode (at least 20)."""
    torch.set_num_threads(1)
    table = Table("spec", "form pair", "ms", "checks a second")
    for spec in (
        BlockSpec(in_channels=4, cardinality=2, width=2),
        BlockSpec(in_channels=16, cardinality=4, width=4),
        BlockSpec(in_channels=16, cardinality=8, width=2),
    ):
        a, b, c = three_forms(spec)
        for left, right in ((a, c), (b, c), (c, c)):
            shape = spec.input_shape(batch=1, size=7)
            (taken,) = seconds(lambda p=left, q=right, s=shape: check(p, q, input_shape=s), repeat=5)
            pair = f"{left.form} / {right.form}"
            name = f"{spec.in_channels} channels, {spec.template}"
            table.add_row(name, pair, f"{taken * 1e3:.0f}", f"{1 / taken:.1f}")
    console.print(table)


def close_in_float64(left: Block, right: Block, inputs: torch.Tensor, mode: Mode) -> bool:
    """What `assert_close` says of both outputs in float64, its most careful use."""
    wide = [copy.deepcopy(side).double().train(mode == "train") for side in (left, right)]
    try:
        with torch.no_grad():
            torch.testing.assert_close(*(side(inputs.double()) for side in wide))
    except AssertionError:
        return False
    return True


def bench_faults() -> None:
    """The whole kill table of the seed's block (at most 60 s); each first kill against `assert_close` in float64."""
    start, used = time.perf_counter(), time.process_time()
    trials = list(kill_table(SEED_SPEC, CATALOGUE.values()))
    whole, used = time.perf_counter() - start, time.process_time() - used
    bench, rows = Bench(SEED_SPEC), []
    for trial in (trial for trial in trials if trial.outcome == "killed"):
        fault = CATALOGUE[trial.fault]
        planted, partner = fault.plant(bench.forms[trial.form]), bench.forms[trial.partner]
        start = time.perf_counter()
        passes = close_in_float64(partner, planted, bench.x, fault.mode)
        rows.append((trial.group, trial.seconds, time.perf_counter() - start, passes))
    table = Table("kind", "killed", "first kill (s), median", "greatest", "assert_close in float64 (s)", "which passes")
    for kind in ("all", *dict.fromkeys(group for group, *_ in rows)):
        own = [row[1:] for row in rows if kind in ("all", row[0])]
        kills, closes, passes = zip(*own, strict=True)
        middle = [f"{statistics.median(kills):.3f}", f"{max(kills):.2f}", f"{statistics.median(closes):.3f}"]
        table.add_row(kind, str(len(own)), *middle, f"{sum(passes)}")
    console.print(table)
    console.print(f"whole table, {len(trials)} trials: {whole:.1f} s, {used:.1f} s of CPU")


def bench_locate() -> None:
    """CPU time of `locate` against that of the check that failed (at most 5)."""
    bench = Bench(SEED_SPEC)
    table = Table("fault", "in", "check (s)", "locate (s)", "ratio")
    for form, name in itertools.product(
        FORMS, ("expand-axis-0", "one-ulp-in-transform", "gradient-cut", "norm-frozen")
    ):
        fault, partner = CATALOGUE[name], "grouped" if form == "concatenated" else "concatenated"
        left, right = bench.forms[partner], fault.plant(bench.forms[form])
        start = time.process_time()
        check(left, right, mode=fault.mode, place=False)
        checked = time.process_time()
        locate(left, right, mode=fault.mode)
        check_s, locate_s = checked - start, time.process_time() - checked
        table.add_row(name, form, f"{check_s:.1f}", f"{locate_s:.1f}", f"{locate_s / check_s:.2f}")
    console.print(table)


def networks() -> dict[str, tuple[str, int]]:
    """Code that builds each network, and the size of its input: published ones where torchvision is there."""
    if importlib.util.find_spec("torchvision") is None:
        built = (
            "torch.nn.Sequential(*(Grouped(BlockSpec(in_channels=256, cardinality=32, width=4)) for _ in range(16)))"
        )
        return {"16 blocks of the seed's": (f"from equivalence import BlockSpec, Grouped\nnetwork = {built}", 56)}
    names = ("resnext50_32x4d", "resnext101_64x4d")
    return {name: (f"import torchvision\nnetwork = torchvision.models.{name}()", 224) for name in names}


def built(code: str) -> torch.nn.Module:
    """The network that the code leaves behind, in evaluation mode."""
    left: dict[str, torch.nn.Module] = {}
    exec(f"import torch\n{code}", left)  # code of this file, which other processes run too
    return left["network"].eval()


def bench_recognition() -> None:
    """Recognition of a whole network against one forward of it, batch 1 (at most 5)."""
    table = Table("network", "recognition (s)", "forward (s)", "ratio")
    for name, (code, size) in networks().items():
        network = built(code)
        channels = 3 if size == 224 else 256
        inputs = torch.randn(1, channels, size, size)
        found, bare = seconds(lambda n=network: find_blocks(n), forward(network, inputs), repeat=5)
        table.add_row(name, f"{found:.2f}", f"{bare:.2f}", f"{found / bare:.2f}")
    console.print(table)


def bench_certificate() -> None:
    """Every block of a network proved in all forms for all weights, against one forward, batch 1 (at most 10)."""
    table = Table("network", "certificate (s)", "forward (s)", "ratio", "weights (MB)", "peak (MB)", "of weights")
    loaded = peak_megabytes("import torch, equivalence.verdict.network")
    for name, (code, size) in networks().items():
        network = built(code)
        inputs = torch.randn(1, 3 if size == 224 else 256, size, size)
        proved, bare = seconds(
            lambda n=network: check_network(n, whole=False, gradients=False), forward(network, inputs), repeat=1
        )
        weights = sum(t.numel() * t.element_size() for t in network.state_dict().values()) / 2**20
        check = "from equivalence.verdict.network import check_network as c; c(network, whole=False, gradients=False)"
        peak = peak_megabytes(f"import torch\n{code}\nnetwork.eval()\n{check}") - loaded
        figures = [f"{proved:.2f}", f"{bare:.2f}", f"{proved / bare:.1f}", f"{weights:.0f}", f"{peak:.0f}"]
        table.add_row(name, *figures, f"{peak / weights:.2f}")
    console.print(table)


def bench_checkpoint() -> None:
    """A safetensors file of 330 MB converted, against a copy of it (at most 3); memory over torch (at most 64 MB)."""
    build = (
        "import torch; from equivalence import BlockSpec, Grouped\n"
        "spec = BlockSpec(in_channels=2048, cardinality=32, width=32)\n"
        "def network(): return torch.nn.Sequential(*(Grouped(spec) for _ in range(18))).eval()\n"
    )
    held: dict[str, Any] = {}
    exec(build, held)
    table = Table("conversion", "file (MB)", "s", "copy (s)", "ratio", "copy until on disk (s)", "ratio", "memory (MB)")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{name}.safetensors") for name in "abc"]
        Path(folder, "net.py").write_text(build)
        save_file(held["network"]().state_dict(), paths[0])
        with torch.device("meta"):
            empty = held["network"]()
        loaded = peak_megabytes("import torch")
        for source, target, back in ((paths[0], paths[1], False), (paths[1], paths[2], True)):
            plan = plan_of(empty, "per-branch", back=back)
            convert_checkpoint(source, target, plan)
            # A conversion waits until the disk has the file, which a plain copy does not.
            taken, copied, on_disk = seconds(
                lambda source=source, target=target, plan=plan: convert_checkpoint(source, target, plan),
                lambda source=source: shutil.copy(source, Path(folder, "copy")),
                lambda source=source: copy_to_disk(source, Path(folder, "copy")),
                repeat=5,
            )
            arguments = [
                "convert",
                str(source),
                str(target),
                "--model",
                f"{folder}/net.py:network",
                "--to",
                "per-branch",
            ]
            used = peak_megabytes(f"from equivalence.cli import main; main({arguments + ['--back'] * back})") - loaded
            figures = [f"{taken:.2f}", f"{copied:.2f}", f"{taken / copied:.1f}", f"{on_disk:.2f}"]
            what = "back to grouped" if back else "grouped → per-branch"
            size = f"{source.stat().st_size / 1e6:.0f}"
            table.add_row(what, size, *figures, f"{taken / on_disk:.1f}", f"{used:.0f}")
    console.print(table)


def copy_to_disk(source: Path, target: Path) -> None:
    """Copy a file and wait until the disk has it."""
    shutil.copy(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())


BENCHMARKS = {name.removeprefix("bench_"): run for name, run in globals().copy().items() if name.startswith("bench_")}


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
