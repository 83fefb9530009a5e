"""What an arithmetic raises when it cannot answer exactly. Never a guess, never a silent fallback to floats."""

from __future__ import annotations


class UnsupportedOperation(RuntimeError):
    """An operation has no exact meaning in this arithmetic, so a module that uses it is undecided.

    `operation` is the operation's full name, `submodule` the dotted path of the module that called it
    (None unless the caller asked for it with `locating`), `reason` the rule that was broken.
    """

    def __init__(self, operation: str, reason: str, submodule: str | None = None) -> None:
        self.operation = operation
        self.reason = reason
        self.submodule = submodule
        where = "" if submodule is None else f" in submodule {submodule or '(root)'!r}"
        super().__init__(f"{operation}{where}: {reason}")


class NonFiniteValue(UnsupportedOperation, ValueError):
    """A constant is inf or nan, which no ring contains."""

    def __init__(self, name: str, value: float) -> None:
        super().__init__(
            f"embedding of {name}",
            f"the value {value} is not a real number; replace it by a finite one",
        )


class RedrawPrimes(ArithmeticError):
    """A module divides by an integer that one of the drawn primes divides: draw again with another seed."""


class RejectedInput(ValueError):
    """A module cannot be run on the input, or returns something that cannot be compared."""
