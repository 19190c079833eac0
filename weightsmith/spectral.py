"""Singular values and dominant directions of a matrix, without an SVD of the whole matrix.

The eigenvectors of the Gram matrix of the smaller side are all that truncation needs: with V_k the
dominant ones, the truncated matrix is `D V_k V_k^T` (or `V_k V_k^T D`), applied block by block.

Everything after the difference is float64: the Gram matrix, its eigenvectors, hence the effective
rank and k, the product with the projector, and the sum with the base. (Float32 would do almost
everywhere, but not where base and truncated delta nearly cancel.)

A Gram matrix squares the condition number: singular values below about 1e-8 of the largest drown
in rounding. Where those could matter, the well-determined part is projected out and the rest, which
then is the largest of its own Gram matrix, is decomposed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from math import ceil, exp, log

import torch
from torch import Tensor

# Eigenvalues of a Gram matrix are good to about this share of the largest.
_EPSILON = 2.0**-50
# Singular values above this share of the largest are kept; those below are decomposed again if
# their uncertainty could change the effective rank by more than the tolerance, relatively.
_RELIABLE = 1e-6
_TOLERANCE = 1e-10
_MAX_ROUNDS = 4
_BLOCK = 1 << 19  # elements of the larger side worked on at once


@dataclass(frozen=True)
class Spectrum:
    """Spectral decomposition of a matrix over its smaller side.

    Attributes:
        values: [r] float64, singular values, largest first, r = min(rows, columns).
        vectors: [r, r] float64, singular vectors of the smaller side as columns.
        rows: whether the smaller side is that of the rows.
    """

    values: Tensor
    vectors: Tensor
    rows: bool


def effective_rank(values: Tensor, epsilon: float = 1e-9) -> float:
    """exp of the entropy of the normalised singular values (arXiv 2509.23595).

    Args:
        values: [r] singular values.
        epsilon: added inside the logarithm, as the paper's script does; it matters only for
            spectra with very many tiny values.

    Returns:
        Between 1 and r; 0 for a zero matrix.
    """
    total = values.double().sum()
    if total == 0:
        return 0.0
    p = values.double() / total
    return exp(-float((p * torch.log(p + epsilon)).sum()))


def rank_of(values: Tensor) -> int:
    """k = ceil(eRank), at least 1 and at most r; 0 for a zero matrix."""
    return min(ceil(effective_rank(values)), len(values))


def rank_for_energy(values: Tensor, share: float) -> int:
    """The least k whose singular values hold `share` of the squared Frobenius norm."""
    energy = torch.cumsum(values.double() ** 2, 0)
    if len(values) == 0 or energy[-1] == 0:
        return 0
    return min(int(torch.searchsorted(energy, share * energy[-1])) + 1, len(values))


def decompose(matrix: Tensor) -> Spectrum:
    """Spectrum of a float32 matrix [rows, columns]; see the module for how."""
    rows = matrix.shape[0] <= matrix.shape[1]
    sigma, basis = _eigen(_gram(matrix, rows=rows))
    if _certain(sigma, sigma.sum()):
        return Spectrum(sigma, basis, rows)
    values, vectors, size = sigma, basis, len(sigma)
    found = 0
    for _ in range(_MAX_ROUNDS):
        found += int((sigma > _RELIABLE * sigma[0]).sum())
        if found == size:
            break
        # However rough their values, the other vectors span what is orthogonal to those found.
        rest = vectors[:, found:]
        sigma, basis = _eigen(_gram(matrix, rows=rows, onto=rest))
        values[found:], vectors[:, found:] = sigma, rest @ basis
        if _certain(sigma, values.sum()):
            break
    return Spectrum(values, vectors, rows)


def _certain(sigma: Tensor, total: Tensor) -> bool:
    """Whether rounding in the Gram matrix of these values is too small to matter."""
    if len(sigma) == 0 or sigma[0] == 0:
        return True
    error = _EPSILON * sigma[0] ** 2
    uncertainty = torch.minimum(error / (2 * sigma), error.sqrt()).nan_to_num().sum()
    return bool(uncertainty * log(len(sigma) + 1) <= _TOLERANCE * total)


def _eigen(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values, largest first, and vectors from the upper triangle of a Gram matrix.

    LAPACK's workspace is twice the size of the matrix already, so the vectors take the memory of
    `gram`: transposed, for LAPACK counts by columns and torch would otherwise copy twice.
    """
    squares = torch.empty(len(gram), dtype=gram.dtype, device=gram.device)
    torch.linalg.eigh(gram.T, UPLO="L", out=(squares, gram.T))
    return squares.flip(0).clamp_min(0).sqrt(), gram.T.flip(1)


def _gram(matrix: Tensor, *, rows: bool, onto: Tensor | None = None) -> Tensor:
    """Upper triangle of the float64 Gram matrix of the smaller side, or of its projection."""
    size = min(matrix.shape) if onto is None else onto.shape[1]
    gram = torch.zeros(size, size, dtype=torch.float64, device=matrix.device)
    for block in _blocks(matrix, rows=rows):
        wide = (block if rows else block.T).double()
        _add_outer(gram, wide if onto is None else onto.T @ wide)
    return gram


def _add_outer(gram: Tensor, wide: Tensor) -> None:
    """Add the upper triangle of wide @ wide.T in bands: half of a Gram product is redundant."""
    size = len(gram)
    band = max(64, size // 16)
    for first in range(0, size, band):
        last = min(first + band, size)
        gram[first:last, first:].addmm_(wide[first:last], wide[first:].T)


def _blocks(matrix: Tensor, *, rows: bool) -> list[Tensor]:
    """Views of the matrix cut along its larger side."""
    size = min(matrix.shape)
    step = max(1, _BLOCK // max(1, size))
    return list(torch.split(matrix, step, dim=1 if rows else 0))


def damp_tail_(
    matrix: Tensor, spectrum: Spectrum, k: int, gamma: float, base: Tensor | None = None
) -> None:
    """Multiply all singular values after the first k by gamma, in place; then add the base.

    That is `gamma D + (1 - gamma) P D` with the projector P on the first k directions, or
    `D - (1 - gamma) Q D` with its complement Q, whichever has fewer directions; in float64,
    rounded to float32 once.

    Args:
        matrix: float32 [rows, columns], changed.
        spectrum: of the same matrix.
        k: how many directions are kept.
        gamma: factor on the others.
        base: [rows, columns] of any float dtype.
    """
    size = len(spectrum.values)
    few = k <= size - k
    basis = spectrum.vectors[:, :k] if few else spectrum.vectors[:, k:]
    bases = [None] if base is None else _blocks(base, rows=spectrum.rows)
    for block, added in zip(_blocks(matrix, rows=spectrum.rows), cycle(bases)):
        wide = (block if spectrum.rows else block.T).double()
        part = basis @ (basis.T @ wide)
        damped = gamma * wide + (1 - gamma) * part if few else wide - (1 - gamma) * part
        result = damped if spectrum.rows else damped.T
        block.copy_(result if added is None else result + added)
