"""Add terms to a tensor, or add up the parts of one: run by run, in scratch that is used again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from weightsmith.dtypes import DTYPES
from weightsmith.kernels import elementwise, low_rank
from weightsmith.operators.terms import Kind, Part, Term, add_directly, restore
from weightsmith.operators.unit import Block, Unit

Float = NDArray[np.float32]
# Elements at a time: scratch of this length stays in the second-level cache.
_RUN = 1 << 17


def add_terms(unit: Unit) -> int:
    """out = (((first input + s1 d1) + s2 d2) + ...) in float32, rounded once into out's dtype.

    Each d is the sum of a term's parts. Returns how many finite values overflowed.
    """
    terms: tuple[Term, ...] = unit.parameters
    step = _step(unit)
    changes = [_Change(unit, term, step) for term in terms]
    scratch = np.empty(step if len(terms) > 1 else 0, np.float32)
    overflows = 0
    for start, stop in _runs(unit, step):
        so_far = _cut(unit.inputs[0], start, stop)
        for change in changes[:-1]:
            target = _float_block(scratch[: stop - start])
            change.add(target, so_far, start, stop)
            so_far = target
        out = _cut(unit.out, start, stop)
        overflows += changes[-1].add(out, so_far, start, stop)
    return overflows


def add_parts(unit: Unit) -> int:
    """out = the sum of the parts of the only term: what an adapter changes, as a delta."""
    (term,) = unit.parameters
    step = _step(unit)
    change = _Change(unit, term, step)
    return sum(
        _cut(unit.out, start, stop).store(change.of(start, stop))
        for start, stop in _runs(unit, step)
    )


class _Change:
    """The change of one term, over the elements of a unit, `step` at a time at most."""

    def __init__(self, unit: Unit, term: Term, step: int) -> None:
        self._parts = [
            (part, tuple(unit.inputs[place] for place in part.inputs)) for part in term.parts
        ]
        self._factors = {
            index: _factors(unit, part, inputs)
            for index, (part, inputs) in enumerate(self._parts)
            if part.kind is Kind.LOW_RANK
        }
        self._term = term
        self._step = step
        self._scratch: Float | None = None

    def add(self, out: Block, to: Block, start: int, stop: int) -> int:
        """out = to + scale * change; `out` may be `to`. Returns how many values overflowed."""
        if self._term.direct:
            inputs = [_cut(block, start, stop) for block in self._parts[0][1]]
            return add_directly(out, to, self._term, inputs)
        change = _float_block(self.of(start, stop))
        stored = Term(self._term.scale, (Part(Kind.DELTA, ()),))
        return add_directly(out, to, stored, [change])

    def of(self, start: int, stop: int) -> Float:
        """The sum of the parts in float32; valid until the next call."""
        total = self._part(0, start, stop)
        with np.errstate(all="ignore"):
            for index in range(1, len(self._parts)):
                total = total + self._part(index, start, stop)
        return total

    def _part(self, index: int, start: int, stop: int) -> Float:
        part, inputs = self._parts[index]
        if index == 0 and self._scratch is None:
            self._scratch = np.empty(self._step, np.float32)
        out = np.empty(self._step, np.float32) if index or self._scratch is None else self._scratch
        out = out[: stop - start]
        if part.kind is Kind.LOW_RANK:
            left, right = self._factors[index]
            columns = right.shape[1]
            rows = slice(start // columns, stop // columns)
            low_rank.product(out.reshape(-1, columns), left[rows], right, part.factor)
            return out
        first, *base = (_cut(block, start, stop) for block in inputs)
        if part.kind is Kind.BITS:
            weights = memoryview(bytearray(len(first.data)))
            restore(weights, first, base[0])
            first = Block(base[0].dtype, weights, first.shape)
        if base:
            elementwise.difference(
                _bytes(out), "F32", first.data, first.dtype, base[0].data, base[0].dtype
            )
            return out
        elementwise.cast(_bytes(out), "F32", first.data, first.dtype)
        if part.kind is Kind.SCALED:
            with np.errstate(all="ignore"):
                out *= np.float32(part.factor)
        return out


def _factors(unit: Unit, part: Part, inputs: Sequence[Block]) -> tuple[Float, Float]:
    """What the unit's rows are the product of: left [rows, rank], right [rank, columns].

    A is [rank, in] and whole. Of B [out, rank] the same rows are there or, where the result is
    transposed, all; the unit's rows are then those of A^T.
    """
    a, b = inputs
    if not part.transposed:
        return b.float32(), a.float32()
    rows, columns = unit.out.shape
    first = unit.start // columns
    words = np.frombuffer(a.data, f"u{DTYPES[a.dtype].bits // 8}").reshape(a.shape)
    needed = np.ascontiguousarray(words[:, first : first + rows].T)
    left = Block(a.dtype, _bytes(needed), needed.shape).float32()
    return left, np.ascontiguousarray(b.float32().T)


def _size(unit: Unit) -> int:
    return len(unit.out.data) * 8 // DTYPES[unit.out.dtype].bits


def _step(unit: Unit) -> int:
    columns = unit.out.shape[-1] if len(unit.out.shape) > 1 else 1
    return min(_size(unit), max(1, _RUN // columns) * columns)


def _runs(unit: Unit, step: int) -> Iterator[tuple[int, int]]:
    """Elements [start, stop), whole rows where the unit is made of rows."""
    size = _size(unit)
    return ((start, min(start + step, size)) for start in range(0, size, step))


def _cut(block: Block, start: int, stop: int) -> Block:
    width = DTYPES[block.dtype].bits // 8
    return Block(block.dtype, block.data[start * width : stop * width], (stop - start,))


def _float_block(array: Float) -> Block:
    return Block("F32", _bytes(array), array.shape)


def _bytes(array: NDArray[np.generic]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
