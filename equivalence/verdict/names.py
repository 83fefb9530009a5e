"""What the experiments are called.

Guarantee: naming an experiment, as a marker or an option does, loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

OUTPUTS = "outputs"
INPUT_GRADIENT = "input gradient"
SECOND_CALL = "outputs of a second call"
AFTER_TRAINING = "outputs after a training step"
AFTER_SGD = "outputs after an SGD step"

# What each mode can show of any two modules; forms of a block are told apart by more.
EXPERIMENTS = {
    "eval": (OUTPUTS, INPUT_GRADIENT, SECOND_CALL),
    "train": (OUTPUTS, INPUT_GRADIENT, AFTER_TRAINING, AFTER_SGD),
}


def chosen(experiments: Collection[str] | None, mode: str) -> tuple[str, ...] | None:
    """The experiments that were asked for, or None for all.

    >>> chosen({"input gradient", "outputs"}, "eval")
    ('outputs', 'input gradient')

    Raises:
        ValueError: if the mode is unknown, one of them is unknown in it, or there is none.
    """
    if mode not in EXPERIMENTS:
        raise ValueError(f"mode (={mode!r}) must be 'eval' or 'train'")
    if experiments is None:
        return None
    known = EXPERIMENTS[mode]
    if isinstance(experiments, str) or not experiments or not set(experiments) <= set(known):
        raise ValueError(f"experiments (={experiments!r}) must be some of {known} in mode {mode!r}")
    return tuple(name for name in known if name in experiments)
