"""Reading blocks out of any module: their spec, and where each of their tensors lives.

Guarantee: nothing is concluded from the name of a class, a module or a parameter. The module is run
twice on a tiny input, as in evaluation and as in training, and left as it was; what the tensors did
says what the block is. A block is recognised only if both runs show the same one, and whatever
cannot be taken as three equivalent forms is refused with the reason and the place.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn

from equivalence.blocks.recognition.core import Finder
from equivalence.blocks.recognition.errors import RecognitionError as RecognitionError
from equivalence.blocks.recognition.reading import counted, fields, places
from equivalence.blocks.recognition.refusals import Refusal, refusals
from equivalence.blocks.recognition.surroundings import around, enclosing, shortcut_places, trains_alike
from equivalence.blocks.recognition.trace import trace
from equivalence.blocks.recognition.units import Unit, units
from equivalence.blocks.spec import BlockSpec, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from equivalence.blocks.place import Place
    from equivalence.blocks.recognition.assemble import Core


@dataclasses.dataclass(frozen=True, eq=False)
class RecognizedBlock:
    """A block in somebody's module.

    Attributes:
        module: the submodule that computes it.
        path: where it is in the module that was searched, "" for that module itself.
        spec: what it is; its shortcut is "none" where a spec cannot say what is around the core.
        places: where each quantity of the correspondence lives in `module`, by the name of its row.
        plain: whether the spec says all of it; else what is around the core stays as it is.
        reduce_stride: stride of the 1×1 reduce, where the stride sits there and not in the transform.
        units: the submodules that compute its steps; none if its steps are no submodules.
        input_shape: `(N, C, H, W)` that it was given in the run.
        rest: names in `module` of all other tensors, in the order of their first use.
    """

    module: nn.Module
    path: str
    spec: BlockSpec
    places: Mapping[str, Place]
    plain: bool
    reduce_stride: int
    units: tuple[Unit, ...]
    input_shape: tuple[int, ...]
    rest: tuple[str, ...] = ()

    @property
    def names(self) -> set[str]:
        """The names in `module` of all tensors of the block."""
        return {n for place in self.places.values() for n in place.names(self.spec.cardinality)}

    def __str__(self) -> str:
        where = self.path or type(self.module).__name__
        stride = f", stride {self.reduce_stride} in the reduce" if self.reduce_stride > 1 else ""
        kept = "" if self.plain else ", in surroundings that stay as they are"
        return f"{where}: {self.spec.template}, {self.spec.in_channels} → {self.spec.out_channels}{stride}{kept}"


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found: blocks in the order in which they run, and what was refused.

    Attributes:
        blocks: the recognised blocks.
        refused: what looks like a block and is none that has three forms.
        leaves: names of all parameters and buffers in the order of their first use.
    """

    blocks: tuple[RecognizedBlock, ...]
    refused: tuple[Refusal, ...]
    leaves: tuple[str, ...]

    def refusal(self) -> RecognitionError:
        """Why there is no block, as an error."""
        if self.refused:
            return RecognitionError(self.refused[0].reason, self.refused[0].place)
        return RecognitionError("no reduce → transform → expand in it: there is no block here")


def recognize(module: nn.Module, input_shape: Sequence[int] | None = None) -> RecognizedBlock:
    """Read the one block that a module computes.

    >>> block = nn.Sequential(
    ...     nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.ReLU(),
    ...     nn.Conv2d(6, 8, 1), nn.ReLU(),
    ... )
    >>> found = recognize(block, input_shape=(1, 8, 5, 5))
    >>> found.spec.template, found.spec.norm, found.spec.shortcut
    ('2x3d', 'none', 'none')
    >>> found.places["transform.conv.weight"]
    Place(path='2.weight', axes='(c o) i ...', listed=())

    Args:
        module: any module of one input; it is left as it was.
        input_shape: `(N, C, H, W)` of an input that it takes; guessed from its weights by default.

    Returns:
        the block.

    Raises:
        RecognitionError: with the reason and the place, if the module is not one such block.
    """
    found = find_blocks(module, input_shape)
    if not found.blocks:
        raise found.refusal()
    if len(found.blocks) > 1:
        places_ = ", ".join(block.path for block in found.blocks[:3])
        raise RecognitionError(f"{len(found.blocks)} blocks in it ({places_}, …): recognise them one by one")
    return found.blocks[0]


def find_blocks(module: nn.Module, input_shape: Sequence[int] | None = None) -> Found:
    """All blocks of a network, in the order in which they run.

    >>> from equivalence import Grouped
    >>> spec = BlockSpec(in_channels=4, cardinality=2, width=2)
    >>> [str(block) for block in find_blocks(nn.Sequential(Grouped(spec), Grouped(spec))).blocks]
    ['0: 2x2d, 4 → 4', '1: 2x2d, 4 → 4']

    Args:
        module: any module of one input; it is left as it was.
        input_shape: `(N, C, H, W)` of an input that it takes; guessed from its weights by default.

    Raises:
        RecognitionError: if the module cannot be run on such an input.
    """
    x = example(module, input_shape)
    evaluated, trained = (Finder(_traced(module, x, training=training)) for training in (False, True))
    cores = evaluated.cores()
    again = {_key(trained, core): core for core in trained.cores()}
    blocks: list[RecognizedBlock] = []
    for core in cores:
        node = core.steps["expand"][0]
        try:
            other = again.get(_key(evaluated, core))
            if other is None:
                raise RecognitionError(_in_training(trained), evaluated.trace.place(node), 7)
            blocks.append(_read(module, evaluated, core, (trained, other), cores))
        except RecognitionError as error:
            evaluated.failures.append((error, set(core.nodes)))
        except SpecError as error:
            place = evaluated.trace.place(node)
            evaluated.failures.append((RecognitionError(str(error), place, 7), set(core.nodes)))
    kept = [core for core in cores if any(_key(evaluated, core) <= _whole(block) for block in blocks)]
    return Found(tuple(blocks), tuple(refusals(evaluated, kept)), tuple(_by_use(module, evaluated)))


def _whole(block: RecognizedBlock) -> set[str]:
    return {f"{block.path}.{name}" if block.path else name for name in block.names}


def _key(finder: Finder, core: Core) -> frozenset[str]:
    """A core is known by the weights of its convolutions."""
    nodes = [node for name in ("reduce.conv", "transform.conv", "expand") for node in core.steps[name]]
    return frozenset(finder.trace.names.get(node.argument("weight").value, "?") for node in nodes)


def _in_training(trained: Finder) -> str:
    said = max((error for error, _ in trained.failures), key=lambda error: error.progress, default=None)
    return f"in training mode it is another block: {said.reason if said else 'no block is seen'}"


def _read(
    module: nn.Module, finder: Finder, core: Core, trained: tuple[Finder, Core], cores: list[Core]
) -> RecognizedBlock:
    read, reduce_stride = fields(finder, core, trained)
    counters = counted(trained[0])
    located = places(finder, core, counters)
    owned = [name for place in located.values() for name in place.names(core.cardinality)]
    _unshared(finder, owned, core)
    calls = enclosing(finder, core, cores)
    plain = None
    for call in calls:
        plain = around(finder, core, call) if reduce_stride == 1 else None
        if plain is not None and trains_alike(trained, call, plain):
            break
        plain = None
    else:
        call = next((c for c in calls if all(n.startswith(f"{c.path}.") or not c.path for n in owned)), calls[-1])
    if plain is not None:
        located |= shortcut_places(finder, plain, counters)
    spec = BlockSpec(**read, shortcut=plain.shortcut if plain else "none")
    prefix = f"{call.path}." if call.path else ""
    names = {name for place in located.values() for name in place.names(core.cardinality)}
    if stray := sorted(name for name in names if not name.startswith(prefix)):
        raise RecognitionError(f"{stray[0]} lives outside of the submodule that uses it", call.path, 7)
    parts = units(finder, core, module, set(owned))
    return RecognizedBlock(
        module=module.get_submodule(call.path),
        path=call.path,
        spec=spec,
        places={row: _relative(place, prefix) for row, place in located.items()},
        plain=plain is not None and _complete(module.get_submodule(call.path), names, prefix),
        reduce_stride=reduce_stride,
        units=tuple(dataclasses.replace(u, path=u.path.removeprefix(prefix) if prefix else u.path) for u in parts),
        input_shape=finder.trace.shapes[core.source] if not call.input_shape else call.input_shape,
        rest=tuple(n.removeprefix(prefix) for n in _by_use(module, finder) if n.startswith(prefix) and n not in names),
    )


def _by_use(module: nn.Module, finder: Finder) -> list[str]:
    """The names of all tensors in the order of their first use; what is never used comes last."""
    used = finder.trace.leaves
    held = [name for name, _ in module.named_parameters()] + [name for name, _ in module.named_buffers()]
    return list(dict.fromkeys([*used, *held]))


def _complete(module: nn.Module, names: set[str], prefix: str) -> bool:
    """Whether the block's tensors are all that its module holds."""
    held = [*module.named_parameters(), *module.named_buffers()]
    return all(f"{prefix}{name}" in names for name, _ in held)


def _relative(place: Place, prefix: str) -> Place:
    listed = tuple(name.removeprefix(prefix) for name in place.listed)
    return dataclasses.replace(place, path=place.path.removeprefix(prefix), listed=listed)


def _unshared(finder: Finder, names: list[str], core: Core) -> None:
    """Every tensor of a block is one tensor of its own, used once."""
    place = finder.trace.place(core.steps["transform.conv"][0])
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RecognitionError(f"{twice} is shared between branches or stages", place, 7)
    used = finder.trace.leaves
    for name in names:
        if used.count(name) > 1:
            raise RecognitionError(f"{name} is used elsewhere too: its weights are shared", place, 7)


def example(module: nn.Module, input_shape: Sequence[int] | None = None) -> Tensor:
    """A small input that the module takes, `(2, C, H, W)` by default.

    Raises:
        RecognitionError: if none is found.
    """
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise RecognitionError(f"it is a {type(module).__name__} around the network; give its .module")
    if isinstance(module, torch.jit.ScriptModule):
        raise RecognitionError("it is a TorchScript program; give the module that it was made from")
    tensors = [*module.parameters(), *module.buffers()]
    like = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))
    if input_shape is not None:
        # In training mode a norm needs more than one value for each channel.
        return _drawn(torch.zeros((max(2, input_shape[0]), *input_shape[1:]), dtype=like.dtype, device=like.device))
    said: Exception | None = None
    for shape in _guesses(tensors):
        x = torch.zeros(shape, dtype=like.dtype, device=like.device)
        try:
            with torch.no_grad():
                trace(module, x, training=False)
        except Exception as error:  # whatever a module raises says that it does not take the input
            said = error
            continue
        return _drawn(x)
    why = f": {str(said).splitlines()[0]}" if said and str(said) else ""
    raise RecognitionError(f"it takes no input whose shape its weights suggest; give input_shape{why}")


def _drawn(x: Tensor) -> Tensor:
    """The tensor, filled where it has data."""
    return x if x.is_meta else x.normal_(generator=torch.Generator(x.device).manual_seed(0))


def _guesses(tensors: list[Tensor]) -> Iterator[tuple[int, ...]]:
    """Shapes that the convolutions among the weights could start from, the smaller ones first."""
    weights = [t.shape for t in tensors if t.dim() in (3, 4, 5)]
    channels = dict.fromkeys((shape[1], len(shape) - 2) for shape in weights)
    for size in (8, 32, 64, 224):
        for count, dims in channels:
            yield (2, count, *[size] * dims)


def _traced(module: nn.Module, x: Tensor, *, training: bool) -> Trace:
    try:
        return trace(module, x, training=training)
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        mode = "training" if training else "evaluation"
        raise RecognitionError(f"it fails on input {tuple(x.shape)} in {mode} mode: {said}") from error


if TYPE_CHECKING:
    from equivalence.blocks.recognition.dataflow import Trace
