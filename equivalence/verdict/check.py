"""The whole ladder of evidence, and the verdict that follows from it.

Guarantee: EQUIVALENT only if the field proves every experiment at every shape and nothing else
contradicts it. DIFFERENT only with a witness that rounding cannot explain, integers on which a
kernel is wrong, or another output shape or dtype. Everything else is UNDECIDED, with the reason.
Both modules are left as they were found, and the same seed gives the same report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from equivalence.blocks.forms import Block
from equivalence.verdict.ladder import Ladder
from equivalence.verdict.memory import Memory
from equivalence.verdict.modules import base_dtype
from equivalence.verdict.names import chosen
from equivalence.verdict.verdict import Report

if TYPE_CHECKING:
    from collections.abc import Collection

    from equivalence.arithmetic.floating import Mode
    from equivalence.verdict.evaluate import Weights
    from equivalence.verdict.modules import Shape


def check(
    left: nn.Module,
    right: nn.Module,
    *,
    input_shape: Shape | None = None,
    mode: Mode = "eval",
    weights: Weights = "given",
    experiments: Collection[str] | None = None,
    seed: int = 0,
    memory: Memory | None = None,
    place: bool = True,
) -> Report:
    """Say whether two modules are the same function, and how that is known.

    >>> from equivalence import BlockSpec, Grouped, PerBranch, transfer
    >>> spec = BlockSpec(in_channels=8, cardinality=2, width=3)
    >>> a, c = PerBranch(spec), Grouped(spec)
    >>> check(a, c).verdict
    <Verdict.DIFFERENT: 'different'>
    >>> _ = transfer(a, c)
    >>> report = check(a, c, input_shape=(2, 8, 6, 6))
    >>> bool(report), report.verdict.name
    (True, 'EQUIVALENT')

    Args:
        left, right: any two modules built from ordinary convolutional-network operations.
        input_shape: `(N, C, H, W)`; a second shape of other parity and batch is checked too. Forms
            of a block need none.
        mode: "eval", or "train" for batch statistics, running statistics and a step of SGD.
        weights: "given", or "all" to prove two forms of one spec for every weight.
        experiments: what is compared, such as `("outputs",)`; all that the mode can show by default.
        seed: of everything that is drawn.
        memory: shared by checks of the same modules, lets each be run once; their weights must not
            change in between.
        place: whether to say where two modules part that are not proved equal.

    Returns:
        the report; printed, it is the full text, and its truth value is that of EQUIVALENT.

    Raises:
        TypeError: if one of them is no module.
        RejectedInput: if a module fails on the input or returns no tensor; names side and place.
        ValueError: if an experiment is unknown in the mode.
    """
    for side, module in (("left", left), ("right", right)):
        if not isinstance(module, nn.Module):
            raise TypeError(f"{side} is a {type(module).__name__}, but must be a torch.nn.Module")
    wanted = chosen(experiments, mode)
    ladder = Ladder(left, right, input_shape, mode, weights, seed, wanted, memory or Memory())
    verdict, reason = ladder.climb()
    return Report(
        left=_name(left),
        right=_name(right),
        weights="as given" if weights == "given" else "all",
        mode=mode,
        dtype=str(base_dtype(left, right)).removeprefix("torch."),
        quantities=ladder.quantities,
        evidence=tuple(ladder.evidence),
        verdict=verdict,
        reason=reason,
        place=ladder.located() if place and ladder.unproved else None,
    )


def assert_equivalent(
    left: nn.Module,
    right: nn.Module,
    *,
    input_shape: Shape | None = None,
    mode: Mode = "eval",
    weights: Weights = "given",
    experiments: Collection[str] | None = None,
    seed: int = 0,
) -> None:
    """Raise unless `check` says EQUIVALENT; the first line of the error is the whole verdict.

    >>> assert_equivalent(nn.ReLU(), nn.ReLU6(), input_shape=(1, 2, 3, 3))
    Traceback (most recent call last):
        ...
    AssertionError: ReLU / ReLU6: DIFFERENT...

    Args:
        left, right, input_shape, mode, weights, experiments, seed: as for `check`.

    Raises:
        AssertionError: with the verdict in its first line and the full report below.
    """
    options = {"input_shape": input_shape, "mode": mode, "weights": weights, "experiments": experiments, "seed": seed}
    report = check(left, right, **options)  # type: ignore[arg-type]  # each under its own name
    if not report:
        again = ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
        raise AssertionError(f"{report.headline}\n{report}again: check(left, right, {again})")


def _name(module: nn.Module) -> str:
    return module.form if isinstance(module, Block) else type(module).__name__
