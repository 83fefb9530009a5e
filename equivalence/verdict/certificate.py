"""The certificate of a network's blocks: each is the same function in every form.

Guarantee: a block is called equivalent to its form only by a proof: either its own, for all weights,
or that of another block of the same kind (same spec, same code path of tensors) together with a
comparison of its weights under the correspondence, bit by bit; the report says which.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from equivalence.arithmetic.floating import compare
from equivalence.blocks.forms import FORMS
from equivalence.verdict.memory import Memory
from equivalence.verdict.modules import base_dtype, device_of, widest_dtype
from equivalence.verdict.prove import located_in, prove_shapes
from equivalence.verdict.verdict import Evidence, Report, Verdict
from equivalence.weights.conversion import is_in
from equivalence.weights.convert import convert
from equivalence.weights.correspondence import gather
from equivalence.weights.sides import side_of, tensors_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from equivalence.arithmetic.floating import Mode
    from equivalence.blocks.recognize import RecognizedBlock
    from equivalence.verdict.modules import Shape
    from equivalence.verdict.prove import Proof


@dataclasses.dataclass(frozen=True)
class Asked:
    """How modules are compared.

    Attributes:
        mode: "eval" or "train".
        seed: of everything that is drawn.
        gradients: whether the input's gradient is proved in evaluation mode too.
    """

    mode: Mode = "eval"
    seed: int = 0
    gradients: bool = True

    @property
    def backward(self) -> bool:
        """Whether gradients are needed: training is made of them."""
        return self.gradients or self.mode == "train"


@dataclasses.dataclass(frozen=True)
class Certifier:
    """Proves blocks equal to their other forms, each kind of block once.

    Attributes:
        asked: how.
    """

    asked: Asked = Asked()
    _proved: dict[object, tuple[str, Proof]] = dataclasses.field(default_factory=dict)

    def reports(self, block: RecognizedBlock) -> Iterator[Report]:
        """One report for each form that the block is not in."""
        memory = Memory()
        located_in(block, block.input_shape, memory)
        for form in FORMS:
            if form != own_form(block):
                yield self._report(block, form, memory)

    def _report(self, block: RecognizedBlock, form: str, memory: Memory) -> Report:
        converted = convert(block, form)
        name = block.path or type(block.module).__name__
        how, proof = self._proof(block, converted, form, name, memory)
        same = _same_bits(block, converted)
        sure = 2.0**proof.log2_bound if proof else None
        evidence = (
            *(
                Evidence("field", experiment, agreed, f"{proof}; {how}", sure)
                for experiment, agreed in proof.by_experiment
            ),
            Evidence("floating", "weights", same, f"weights correspond bit by bit: {'yes' if same else 'no'}"),
        )
        if proof and same:
            verdict, reason = Verdict.EQUIVALENT, f"{how}; weights correspond bit by bit"
        else:
            verdict, reason = Verdict.UNDECIDED, str(proof) if not proof else "weights do not correspond bit by bit"
        mode, seed = self.asked.mode, self.asked.seed
        x = torch.randn(shapes_of(block)[0], generator=torch.Generator().manual_seed(seed))
        x = x.to(device_of(block.module), base_dtype(block.module))
        quantities = compare(block.module, converted, x, mode=mode, stages=False, seed=seed).quantities
        dtype = str(base_dtype(block.module)).removeprefix("torch.")
        left = f"{name} ({block.spec.template})"
        return Report(left, form, "transferred", mode, dtype, quantities, evidence, verdict, reason)

    def _proof(
        self, block: RecognizedBlock, converted: nn.Module, form: str, name: str, memory: Memory
    ) -> tuple[str, Proof]:
        """In which way the block is proved, and the proof."""
        key = (_kind(block), form)
        if key in self._proved:
            prover, proof = self._proved[key]
            return f"the proof of {prover}, which has the same spec and code", proof
        mode, seed = self.asked.mode, self.asked.seed
        proof = prove_shapes(
            block.module,
            converted,
            shapes_of(block),
            mode,
            "all",
            gradients=self.asked.backward,
            seed=seed,
            memory=memory,
        )
        self._proved[key] = name, proof
        return "its own proof for all weights", proof


def own_form(block: RecognizedBlock) -> str | None:
    """The form that a block is cut like, if it is one."""
    return next((form for form in FORMS if is_in(block, form)), None)


def shapes_of(block: RecognizedBlock) -> tuple[Shape, ...]:
    """Small inputs of both parities with corners, edges and an interior, N of 2 and 1."""
    size = max(2, block.spec.dilation * (block.spec.kernel_size - 1) + block.spec.stride)
    sizes = [size + axis % 2 for axis in range(block.spec.spatial_dims)]
    return (2, block.input_shape[1], *sizes), (1, block.input_shape[1], *[2 * size + 1 - s for s in sizes])


def _same_bits(block: RecognizedBlock, converted: nn.Module) -> bool:
    """Whether both sides hold the same bits in the canonical arrangement, and around the block."""
    sides = (side_of(block), side_of(converted, block.input_shape))
    canonical = []
    for side in sides:
        tensors = dict(tensors_of(side.module))
        located = side.blocks[0]
        own = {n: tensors[n] for n in located.names if n in tensors}
        rest = {str(i): tensors[name] for i, name in enumerate(side.rest)}
        canonical.append(gather(located.column, own, located.spec.cardinality) | rest)
    left, right = canonical
    return all(name in right and _bits_equal(left[name], right[name]) for name in left)


def _bits_equal(left: Tensor, right: Tensor) -> bool:
    a, b = (t.contiguous().view(torch.uint8) if t.dim() else t.reshape(1).view(torch.uint8) for t in (left, right))
    return left.dtype == right.dtype and torch.equal(a, b)


def _kind(block: RecognizedBlock) -> object:
    """What blocks share that one proof is for: spec, surroundings, and how tensors are cut."""
    module = block.module
    cut = tuple((row, place.axes, place.per_branch) for row, place in block.places.items())
    # What is around a core is code, which nothing but running it tells: such a block is proved by itself.
    code = (type(module), repr(module)) if block.plain else id(module)
    dtypes = base_dtype(module), widest_dtype(module)
    return block.spec, block.plain, block.reduce_stride, cut, dtypes, code
