"""Add task vectors to a base: trimmed, elected, averaged; block by block."""

from __future__ import annotations

import numpy as np

from weightsmith.kernels import elementwise, task_vectors
from weightsmith.operators.arithmetic.blends import PIECE, as_bytes, pieces
from weightsmith.operators.arithmetic.trimming import keeper_of, not_finite, subtract
from weightsmith.operators.taskvectors import Mix
from weightsmith.operators.unit import Block, Unit


def add(unit: Unit) -> int:
    """OUT = round(BASE + scale * sum of weight * (MODEL - BASE)), see taskvectors.Mix.

    Returns:
        How many finite results overflow the output dtype.

    Raises:
        WeightsmithError: what would be trimmed or elected is not finite.
    """
    mix: Mix = unit.parameters
    if not mix.elect and not any(mix.trims):
        return _add_whole(unit, mix)
    base, *models = unit.inputs
    keepers = [
        None if trim is None else keeper_of(trim, unit, model)
        for trim, model in zip(mix.trims, models, strict=True)
    ]
    weights = np.array(mix.weights, np.float32)
    scratch = np.empty((len(models) + 1) * PIECE, np.float32)
    overflows = 0
    for first, (out, origin, *tuned) in pieces([unit.out, base, *models]):
        total, *vectors = rows = scratch[: (len(models) + 1) * out.shape[0]].reshape(-1, *out.shape)
        for vector, model, keeper in zip(vectors, tuned, keepers, strict=True):
            subtract(vector, model, origin)
            if keeper is not None:
                keeper.apply(vector, first)
        if task_vectors.combine(total, rows[1:], weights, mix.elect, mix.normalize):
            raise not_finite(unit.name)
        overflows += elementwise.axpy(
            *(out.data, out.dtype, origin.data, origin.dtype),
            *(mix.scale, as_bytes(total), "F32"),
        )
    return overflows


def _add_whole(unit: Unit, mix: Mix) -> int:
    overflows = 0
    scratch = np.empty(PIECE, np.float32)
    for _, (out, base, *models) in pieces([unit.out, *unit.inputs]):
        so_far = base
        total = Block("F32", as_bytes(scratch[: out.shape[0]]), out.shape)
        for number, (model, factor) in enumerate(zip(models, mix.weights, strict=True), start=1):
            target = out if number == len(models) else total
            overflows += elementwise.graft(
                *(target.data, target.dtype, so_far.data, so_far.dtype, factor),
                *(model.data, model.dtype, base.data, base.dtype),
            )
            so_far = total
    return overflows
