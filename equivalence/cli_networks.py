"""The commands about other people's code: `check` modules that a name says, `convert` checkpoints.

Guarantee: what a target's own code raises is told in one line with the target's name; nothing that
is read from a checkpoint is run.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import json
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from equivalence.cli_options import Format, FormName, Mode, Output, Quiet, Seed
from equivalence.cli_output import progress, replay, show_document, writable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from equivalence.cli_options import ModeName
    from equivalence.verdict.verdict import Report

Target = Annotated[str, typer.Argument(help="module:callable, or path.py:callable, that returns a module.")]


def check(
    a: Target,
    b: Annotated[str | None, typer.Argument(help="Another one, to compare the first with.")] = None,
    args: Annotated[str, typer.Option(help="Arguments of the callables: a JSON object or list.")] = "{}",
    weights: Annotated[
        Literal["given", "random"], typer.Option(help="As the callable gives them, or drawn at random.")
    ] = "given",
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Move the weights of the first into the second.")
    ] = False,
    input_shape: Annotated[str | None, typer.Option(help="Such as 1,3,64,64; guessed by default.")] = None,
    mode: Mode = "eval",
    seed: Seed = 0,
    format: Format = "text",  # noqa: A002  # the option is --format
    output: Output = None,
    quiet: Quiet = False,
) -> int:
    """Verify a network you use against its converted selves, or compare two implementations."""
    writable(output)
    shape = _shape(input_shape)
    with progress("checking") as status:
        from equivalence.report.document import Document
        from equivalence.verdict.network import check_network

        left = _built(a, args, weights, seed)
        if b is None:
            said = getattr(status, "update", lambda _: None)
            examined = check_network(left, input_shape=shape, mode=mode, seed=seed, progress=said)
            results, notes = examined.results, examined.notes
        else:
            right = _built(b, args, weights, seed + 1 if transfer else seed)
            results, notes = _pair(left, right, (a, b), shape, mode, seed, transfer=transfer)
    document = Document(replay(), seed, None, results, notes)
    show_document(document, format, output, quiet=quiet)
    return document.verdict.exit_status


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A checkpoint: safetensors or torch.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The new checkpoint, of the same format.")],
    model: Annotated[str, typer.Option(help="module:callable or path.py:callable of the network.")],
    to: Annotated[FormName, typer.Option(help="The form of its blocks.")],
    back: Annotated[bool, typer.Option("--back", help="IN has that form: convert it back.")] = False,
    args: Annotated[str, typer.Option(help="Arguments of the callable: a JSON object or list.")] = "{}",
) -> int:
    """Convert a checkpoint so that the network's blocks are in another form, or back."""
    with progress("converting"), _ended_as_interrupted():
        from equivalence.weights.checkpoint import convert_checkpoint
        from equivalence.weights.plan import plan_of

        plan = plan_of(_without_data(model, args), to, back=back)
        done = convert_checkpoint(source, target, plan)
    print(done)
    for path, reason in plan.record.skipped:
        print(f"  {path or 'the module'}: left as it is: {reason}")
    return 0


def _without_data(target: str, args: str) -> nn.Module:
    """The module that a target names; only its names and shapes are needed, so no weights are made."""
    import torch

    from equivalence.blocks.recognition.dataless import WithoutData

    try:
        with torch.device("meta"), WithoutData():
            return load(target, args)
    except ValueError:  # it may want numbers while it is built
        return load(target, args)


@contextlib.contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Being told to end is an interruption: what was begun is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only that one is told
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def load(target: str, args: str = "{}") -> nn.Module:
    """The module that a target names.

    Args:
        target: "package.module:callable" or "path.py:callable".
        args: a JSON object of keyword arguments, or a JSON list of positional ones.

    Raises:
        ValueError: with one line, if it cannot be had.
    """
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise ValueError(f"target (={target!r}) must look like module:callable or path.py:callable")
    try:
        given = json.loads(args)
    except json.JSONDecodeError as error:
        raise ValueError(f"--args (={args!r}) must be JSON: {error}") from None
    positional, named = (given, {}) if isinstance(given, list) else ([], given)
    if not isinstance(named, dict):
        raise ValueError(f"--args (={args!r}) must be a JSON object or list")
    holder: Any = _imported(where)
    for part in name.split("."):
        if not hasattr(holder, part):
            raise ValueError(f"{where} has no {name}; check the spelling")
        holder = getattr(holder, part)
    module = holder if not callable(holder) or _is_module(holder) else _called(holder, target, positional, named)
    if not _is_module(module):
        raise ValueError(f"{target} returned a {type(module).__name__}, but must return a torch.nn.Module")
    return module  # type: ignore[no-any-return]  # a module, as was just seen


def _imported(where: str) -> Any:
    path = Path(where)
    try:
        if path.suffix != ".py":
            if "" not in sys.path:
                sys.path.insert(0, "")  # a user's own module is where the command is run
            return importlib.import_module(where)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ValueError(f"{where} is no file")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"{where} cannot be imported: {error}; install it, or check the spelling") from None
    except Exception as error:  # somebody else's code may raise anything
        raise ValueError(f"{where} cannot be imported: {type(error).__name__}: {error}") from None
    return module


def _called(function: Any, target: str, positional: list[Any], named: dict[str, Any]) -> Any:
    try:
        return function(*positional, **named)
    except Exception as error:  # likewise
        takes = ""
        if isinstance(error, TypeError) and not inspect.isbuiltin(function):
            takes = "; give its arguments with --args"
        raise ValueError(f"{target} fails: {type(error).__name__}: {error}{takes}") from None


def _is_module(value: Any) -> bool:
    from torch import nn

    return isinstance(value, nn.Module)


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        shape = tuple(int(part) for part in text.strip("()[] ").replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if len(shape) < 3 or min(shape, default=0) < 1:
        raise ValueError(f"--input-shape (={text!r}) must look like 1,3,64,64")
    return shape


def _built(target: str, args: str, weights: str, seed: int) -> nn.Module:
    from equivalence.arithmetic.preserve import seed_everything
    from equivalence.blocks.initialize import as_if_trained

    seed_everything(seed)
    module = load(target, args)
    return as_if_trained(module, seed) if weights == "random" else module


def _pair(
    left: nn.Module,
    right: nn.Module,
    names: tuple[str, str],
    shape: tuple[int, ...] | None,
    mode: ModeName,
    seed: int,
    *,
    transfer: bool,
) -> tuple[tuple[Report, ...], tuple[str, ...]]:
    import dataclasses

    from equivalence import check as verify
    from equivalence.blocks.recognize import example
    from equivalence.weights.transfer import transfer as move

    notes = (str(move(left, right)),) if transfer else ()
    size = shape or (1, *example(left).shape[1:])
    report = verify(left, right, input_shape=size, mode=mode, seed=seed)
    weights = "transferred" if transfer else "as given"
    return (dataclasses.replace(report, left=names[0], right=names[1], weights=weights),), notes
