"""What a core says of its block: the spec, and where every parameter and buffer lives.

Guarantee: geometry is that of the operations as they ran, and names are those of the tensors that
were read, so no attribute of a class is believed. A block whose three convolutions or norms disagree
on what a spec says once is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equivalence.blocks.place import Place
from equivalence.blocks.recognition.errors import RecognitionError
from equivalence.blocks.recognition.norms import fields as norm_fields
from equivalence.blocks.recognition.norms import is_batch_norm, vectors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from equivalence.blocks.recognition.assemble import Core
    from equivalence.blocks.recognition.core import Finder
    from equivalence.blocks.recognition.dataflow import Node

CONVOLUTION = ("weight", "bias")


def fields(finder: Finder, core: Core, trained: tuple[Finder, Core]) -> tuple[dict[str, Any], int]:
    """The fields of the spec but shortcut, and the stride of the reduce convolutions.

    Args:
        finder, core: in evaluation mode.
        trained: the same in training mode.

    Raises:
        RecognitionError: if the block is none that a spec can say.
    """
    trace = finder.trace
    steps = core.steps
    transform = _alike(finder, steps["transform.conv"], "transform", ("stride", "padding", "dilation"))
    reduce = _alike(finder, steps["reduce.conv"], "reduce", ("stride", "padding"))
    kernel = _one(finder, steps["transform.conv"][0], "kernel", finder.kernel(steps["transform.conv"][0]))
    place = trace.place(steps["transform.conv"][0])
    if kernel % 2 == 0 or transform["padding"] != transform["dilation"] * (kernel - 1) // 2:
        raise RecognitionError(
            f"the transform has kernel {kernel}, dilation {transform['dilation']} and padding "
            f"{transform['padding']}, but it must be odd and padded by dilation × (kernel − 1) / 2",
            place,
            6,
        )
    if reduce["padding"]:
        raise RecognitionError("the 1×1 reduce is padded", trace.place(steps["reduce.conv"][0]), 6)
    said = {
        "in_channels": trace.shapes[core.source][1],
        "out_channels": trace.shapes[core.result][1],
        "cardinality": core.cardinality,
        "width": core.width,
        "kernel_size": kernel,
        "stride": transform["stride"],
        "dilation": transform["dilation"],
        "bias": tuple(
            _any_bias(finder, steps[name]) or (name == "expand" and core.bias is not None)
            for name in ("reduce.conv", "transform.conv", "expand")
        ),
        "activation": core.activation,
        "spatial_dims": len(trace.shapes[core.source]) - 2,
    }
    return said | norm_fields(finder, core, trained), reduce["stride"]


def places(finder: Finder, core: Core, counters: Mapping[str, str]) -> dict[str, Place]:
    """Where every quantity of the core lives, by the name of its row.

    Args:
        finder, core: what was found.
        counters: as `counted` returns them.

    Raises:
        RecognitionError: if a weight is computed, or serves twice.
    """
    found: dict[str, Place] = {}
    for step, nodes in core.steps.items():
        convolution = step.endswith(("conv", "expand"))
        for quantity in CONVOLUTION if convolution else vectors(nodes[0]):
            names = [finder.channels.leaf(node, quantity) for node in nodes]
            if names != [None] * len(names):
                found[f"{step}.{quantity}"] = _place(_complete(finder, nodes, names, step), _axes(step, quantity))
        if is_batch_norm(nodes[0]):
            kept = [counters.get(finder.channels.leaf(node, "running_mean") or "") for node in nodes]
            if any(name is not None for name in kept):
                found[f"{step}.num_batches_tracked"] = _place(_complete(finder, nodes, kept, step), ("", "c"))
    if core.bias is not None:
        found["expand.bias"] = Place(core.bias, "o")
    return found


def _axes(step: str, quantity: str) -> tuple[str, str]:
    """The arrangement where one tensor holds all branches, and where each branch has its own."""
    if step == "expand":
        return ("o (c i) ...", "c o i ...") if quantity == "weight" else ("o", "c o")
    if step == "norm":
        return ("o", "o")
    return ("(c o) i ...", "c o i ...") if quantity == "weight" and step.endswith("conv") else ("(c o)", "c o")


def _place(names: list[str], axes: tuple[str, str]) -> Place:
    return Place(names[0], axes[0]) if len(names) == 1 else Place("", axes[1], tuple(names))


def _complete(finder: Finder, nodes: list[Node], names: Iterable[str | None], step: str) -> list[str]:
    names = list(names)
    if None in names:
        place = finder.trace.place(nodes[names.index(None)])
        raise RecognitionError(
            f"branches have different shapes: some hold a tensor in {step} that others lack", place, 6
        )
    return [str(name) for name in names]


def counted(trained: Finder) -> dict[str, str]:
    """The counter of batches of every norm, by the name of its running mean.

    A norm counts just before it normalises, on a counter that lives where its statistics do.
    """
    trace = trained.trace
    found: dict[str, str] = {}
    waiting: list[str] = []
    for node in trace.nodes:
        reads = node.inputs
        if node.op == "add" and reads and reads[0] in trace.names and trace.shapes[reads[0]] == ():
            waiting.append(trace.names[reads[0]])
        elif is_batch_norm(node) and (mean := trained.channels.leaf(node, "running_mean")):
            own = [name for name in waiting if name.rpartition(".")[0] == mean.rpartition(".")[0]]
            found |= {mean: own[-1]} if own else {}
            waiting = []
    return found


def _any_bias(finder: Finder, nodes: list[Node]) -> bool:
    return any(finder.channels.leaf(node, "bias") is not None for node in nodes)


def _alike(finder: Finder, nodes: list[Node], stage: str, names: tuple[str, ...]) -> dict[str, int]:
    """Geometry that all branches share, one number for all axes."""
    seen = {tuple((name, tuple(node.argument(name))) for name in names) for node in nodes}
    kernels = {finder.kernel(node) for node in nodes}
    place = finder.trace.place(nodes[0])
    if len(seen) > 1 or len(kernels) > 1:
        raise RecognitionError(f"branches have different shapes: {stage} convolutions differ in geometry", place, 6)
    return {name: _one(finder, nodes[0], name, values) for name, values in seen.pop()}


def _one(finder: Finder, node: Node, what: str, values: tuple[int, ...]) -> int:
    if len(set(values)) > 1:
        raise RecognitionError(f"{what} {values} differs between axes", finder.trace.place(node), 6)
    return int(values[0])
