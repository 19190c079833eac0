"""Singular values and dominant directions of a matrix, without an SVD of the whole matrix.

The eigenvectors of the Gram matrix of the smaller side are all that truncation needs: with V_k the
dominant ones, the truncated matrix is `D V_k V_k^T` (or `V_k V_k^T D`), applied block by block.

The matrix is float32, and every part of it is widened as it comes: the Gram matrix, its
eigenvectors, hence the effective rank and k, and the product with the projector are float64.
(Float32 would do almost everywhere, but not where base and truncated delta nearly cancel.)

A Gram matrix squares the condition number: singular values below about 1e-8 of the largest drown
in rounding. Where those could matter, the well-determined part is projected out and the rest, which
then is the largest of its own Gram matrix, is decomposed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, exp, log
from typing import Protocol

import torch
from torch import Tensor

# Eigenvalues of a Gram matrix are good to about this share of the largest.
_EPSILON = 2.0**-50
# Singular values above this share of the largest are kept; those below are decomposed again if
# their uncertainty could change the effective rank by more than the tolerance, relatively.
_RELIABLE = 1e-6
_TOLERANCE = 1e-10
_MAX_ROUNDS = 4
# Elements worked on at once: with their products they stay in a second-level cache of 2 MB.
_BLOCK = 1 << 17
_GRAM_BLOCK = 1 << 18
_DEVICE_BLOCK = 1 << 24  # of a card, which is slow at small ones

Cut = tuple[slice, slice]


class Matrix(Protocol):
    """What is decomposed: a float32 tensor [rows, columns], or what gives its parts on demand."""

    @property
    def shape(self) -> Sequence[int]:
        """Rows and columns."""

    @property
    def device(self) -> torch.device:
        """Where the parts are."""

    def __getitem__(self, cut: Cut, /) -> Tensor:
        """The part that lies in these rows and columns."""


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


class NotFinite(ValueError):
    """The matrix has NaN or infinite elements."""


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


def decompose(matrix: Matrix) -> Spectrum:
    """Spectrum of a matrix; see the module for how.

    Raises:
        NotFinite: the matrix has NaN or infinite elements.
    """
    return _decompose(matrix, _gram(matrix))


def singular_values(matrix: Matrix) -> Tensor:
    """The values of `decompose(matrix)` alone, in about a third of the time.

    Raises:
        NotFinite: the matrix has NaN or infinite elements.
    """
    gram = _gram(matrix)
    values = _roots(torch.linalg.eigvalsh(gram, UPLO="U"))
    return values if _certain(values, values.sum()) else _decompose(matrix, gram).values


def _decompose(matrix: Matrix, gram: Tensor) -> Spectrum:
    rows = _smaller_is_rows(matrix)
    sigma, basis = _eigen(gram)
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
        sigma, basis = _eigen(_gram(matrix, onto=rest))
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
    return _roots(squares), gram.T.flip(1)


def _roots(squares: Tensor) -> Tensor:
    return squares.flip(0).clamp_min(0).sqrt()


def _smaller_is_rows(matrix: Matrix) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def _gram(matrix: Matrix, onto: Tensor | None = None) -> Tensor:
    """Upper triangle of the float64 Gram matrix of the smaller side, or of its projection."""
    size = min(matrix.shape) if onto is None else onto.shape[1]
    gram = torch.zeros(size, size, dtype=torch.float64, device=matrix.device)
    for _, wide in _blocks(matrix, _GRAM_BLOCK):
        _add_outer(gram, wide if onto is None else onto.T @ wide)
    # A sum of squares of float32 is finite in float64 unless one of them is not.
    if not bool(gram.diagonal().sum().isfinite()):
        raise NotFinite
    return gram


def _add_outer(gram: Tensor, wide: Tensor) -> None:
    """Add the upper triangle of wide @ wide.T in bands: half of a Gram product is redundant."""
    size = len(gram)
    band = max(64, size // 16)
    for first in range(0, size, band):
        last = min(first + band, size)
        gram[first:last, first:].addmm_(wide[first:last], wide[first:].T)


def _blocks(matrix: Matrix, elements: int) -> Iterator[tuple[Cut, Tensor]]:
    """Cut along the larger side: where, and the part in float64 as [smaller side, length]."""
    rows = _smaller_is_rows(matrix)
    smaller, larger = sorted(matrix.shape)
    if matrix.device.type != "cpu":
        elements = _DEVICE_BLOCK
    step = max(1, elements // max(1, smaller))
    for start in range(0, larger, step):
        run = slice(start, min(start + step, larger))
        cut = (slice(None), run) if rows else (run, slice(None))
        part = matrix[cut].to(torch.float64, copy=True)
        yield cut, part if rows else part.T


def damp_tail(
    matrix: Matrix, spectrum: Spectrum, k: int, gamma: float
) -> Iterator[tuple[Cut, Tensor]]:
    """Multiply all singular values after the first k by gamma.

    That is `gamma D + (1 - gamma) P D` with the projector P on the first k directions, or
    `D - (1 - gamma) Q D` with its complement Q, whichever has fewer directions.

    Args:
        matrix: what was decomposed.
        spectrum: of the same matrix.
        k: how many directions are kept.
        gamma: factor on the others.

    Yields:
        Rows and columns, and what lies there in float64; together, every element once.
    """
    few = k <= len(spectrum.values) - k
    basis = spectrum.vectors[:, :k] if few else spectrum.vectors[:, k:]
    kept, added = (gamma, 1 - gamma) if few else (1.0, gamma - 1)
    for cut, wide in _blocks(matrix, _BLOCK):
        damped = wide.addmm_(basis, basis.T @ wide, beta=kept, alpha=added)
        yield cut, damped if spectrum.rows else damped.T
