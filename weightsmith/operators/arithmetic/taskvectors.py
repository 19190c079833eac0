"""Add task vectors to a base: trimmed, elected, averaged; block by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weightsmith.kernels import elementwise
from weightsmith.operators.arithmetic.blends import PIECE, as_bytes, pieces
from weightsmith.operators.arithmetic.trimming import difference, keeper_of, not_finite
from weightsmith.operators.taskvectors import Mix
from weightsmith.operators.unit import Block, Unit

Array = NDArray[np.float32]


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
    weights = [np.float32(weight) for weight in mix.weights]
    overflows = 0
    for first, (out, origin, *tuned) in pieces([unit.out, base, *models]):
        vectors = []
        for model, keeper, weight in zip(tuned, keepers, weights, strict=True):
            vector = difference(model, origin)
            if keeper is not None:
                keeper.apply(vector, first)
            vector *= weight
            vectors.append(vector)
        total = vectors[0].copy()
        for vector in vectors[1:]:
            total += vector
        if not np.isfinite(total).all():
            raise not_finite(unit.name)
        if mix.elect:
            total = _agreeing(vectors, weights, total, normalize=mix.normalize)
        total *= np.float32(mix.scale)
        with np.errstate(over="ignore"):  # counted when it is stored
            overflows += out.store(origin.float32() + total)
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


def _agreeing(
    vectors: list[Array], weights: list[np.float32], total: Array, *, normalize: bool
) -> Array:
    """The sum, or weighted mean, of the elements that have the sign of `total`; 0 is positive."""
    positive = total >= 0
    merged, divisor = np.zeros_like(total), np.zeros_like(total)
    for vector, weight in zip(vectors, weights, strict=True):
        agrees = np.where(positive, vector > 0, vector < 0)
        merged += vector * agrees
        if normalize:
            divisor += agrees * weight
    if normalize:
        divisor[divisor == 0] = 1
        merged /= divisor
    return merged
