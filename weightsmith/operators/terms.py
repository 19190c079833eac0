"""What is added to a tensor: terms of a scale and a change, each made of the inputs of a unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from weightsmith.operators.operator import Slot
from weightsmith.operators.unit import Block


class Kind(StrEnum):
    """How a part of a change comes from its inputs, all widened to float32.

    DELTA is D as stored. DIFFERENCE is tuned - base. BITS is (base xor D) - base. SCALED is
    factor * D. LOW_RANK is factor * B A, or its transpose. RESTORE is no change but the result
    itself: base xor D.
    """

    DELTA = "delta"
    DIFFERENCE = "difference"
    BITS = "bits"
    SCALED = "scaled"
    LOW_RANK = "low-rank"
    RESTORE = "restore"


@dataclass(frozen=True)
class Part:
    """One part of a change.

    Attributes:
        kind: the formula.
        slots: what it is made of: (D), (tuned, base), (D, base) or (A, B).
        factor: of SCALED and LOW_RANK, a float32.
        transposed: whether LOW_RANK is (B A)^T.
        inputs: which inputs of the unit the slots are, once they are placed.
    """

    kind: Kind
    slots: tuple[Slot, ...]
    factor: float = 1.0
    transposed: bool = False
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Term:
    """`scale`, a float32, times the sum of the parts, in their order."""

    scale: float
    parts: tuple[Part, ...]

    @property
    def direct(self) -> bool:
        """Whether one kernel adds it, from its inputs as they are stored."""
        return [part.kind for part in self.parts] in ([Kind.DELTA], [Kind.DIFFERENCE])


def placed(
    first: Sequence[Slot], terms: Sequence[Term]
) -> tuple[tuple[Slot, ...], tuple[Term, ...]]:
    """The slots of a tensor, each once, and the terms with the places of theirs among them."""
    slots = list(dict.fromkeys([*first, *(s for t in terms for p in t.parts for s in p.slots)]))

    def place(part: Part) -> Part:
        return replace(part, slots=(), inputs=tuple(map(slots.index, part.slots)))

    return tuple(slots), tuple(replace(term, parts=tuple(map(place, term.parts))) for term in terms)


def by_rows(terms: Sequence[Term]) -> bool:
    """Whether any part needs whole rows."""
    return any(part.kind is Kind.LOW_RANK for term in terms for part in term.parts)


def add_directly(out: Block, to: Block, term: Term, inputs: Sequence[Block]) -> int:
    """out = to + scale * change, for a term that is direct; `out` may be `to`.

    Returns how many finite values overflowed.
    """
    from weightsmith.kernels import elementwise

    target = (out.data, out.dtype, to.data, to.dtype, term.scale)
    first, *base = inputs
    if not base:
        return elementwise.axpy(*target, first.data, first.dtype)
    return elementwise.graft(*target, first.data, first.dtype, base[0].data, base[0].dtype)


def restore(out: memoryview, delta: Block, base: Block) -> None:
    """The weights that a lossless delta stands for, bit by bit."""
    from weightsmith.kernels import elementwise

    elementwise.xor(out, base.data, delta.data)
