"""Which submodule is running: asked for only when an error has to name it, as hooks cost time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

_running: list[str] = []
_active = 0


@contextmanager
def locating(module: nn.Module) -> Iterator[None]:
    """While active, errors raised inside a submodule's forward name the submodule's path."""
    global _active
    handles = []
    for name, submodule in module.named_modules():

        def enter(_module: nn.Module, _inputs: object, path: str = name) -> None:
            _running.append(path)

        def leave(_module: nn.Module, _inputs: object, _output: object) -> None:
            _running.pop()

        handles.append(submodule.register_forward_pre_hook(enter))
        handles.append(submodule.register_forward_hook(leave))
    depth = len(_running)
    _active += 1
    try:
        yield
    finally:
        _active -= 1
        del _running[depth:]
        for handle in handles:
            handle.remove()


def current_submodule() -> str | None:
    return _running[-1] if _active and _running else None
