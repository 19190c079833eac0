"""Singular values and dominant directions of a matrix, without an SVD of the whole matrix.

The eigenvectors of the Gram matrix of the smaller side are all that truncation needs: with V_k the
dominant ones, the truncated matrix is `D V_k V_k^T` (or `V_k V_k^T D`), applied block by block.

The matrix is float32. What decides is float64: the Gram matrix, its eigenvectors, hence the
effective rank and k. Where the CPU has a matrix unit, integers give the same Gram matrix, but for
its last bits. The product with the projector is float32, but for the few places where base
and truncated delta nearly cancel.

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

from weightsmith.kernels import sliced_gram

# Eigenvalues of a Gram matrix are good to about this share of the largest.
_EPSILON = 2.0**-50
# Singular values above this share of the largest are kept; those below are decomposed again if
# their uncertainty could change the effective rank by more than the tolerance, relatively.
_RELIABLE = 1e-6
_TOLERANCE = 1e-10
_MAX_ROUNDS = 4
# Elements worked on at once: in float64 they fill a second-level cache of 2 MB.
_BLOCK = 1 << 18
_DEVICE_BLOCK = 1 << 24  # of a card, which is slow at small ones
# Above this share of the largest element of delta, half a step of a bfloat16 sum (2^-9 of it) is
# four times what float32 can lose there (2^-24 of the largest, and some): below, the sum is redone.
_CANCELLED = 2.0**-13

# The largest share of a squared norm that slices may cut off. Singular values move by the norm of
# what is cut off at most, relatively by 1e-11; eRank by less, as what is cut off has no direction.
_CUT = 2.0**-72

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
    sliced = _sliced_gram(matrix) if onto is None else None
    if sliced is not None:
        return sliced
    size = min(matrix.shape) if onto is None else onto.shape[1]
    gram = torch.zeros(size, size, dtype=torch.float64, device=matrix.device)
    for wide in _blocks(matrix):
        _add_outer(gram, wide if onto is None else onto.T @ wide)
    # A sum of squares of float32 is finite in float64 unless one of them is not.
    if not bool(gram.diagonal().sum().isfinite()):
        raise NotFinite
    return gram


def _sliced_gram(matrix: Matrix) -> Tensor | None:
    """The same, faster, if the CPU can and slices hold all that matters.

    They hold differences of bfloat16 to the last bit, but for a few of very small weights.
    """
    if matrix.device.type != "cpu" or not sliced_gram.available():
        return None
    gram = torch.zeros(min(matrix.shape), min(matrix.shape), dtype=torch.float64)
    by_rows, threads = _smaller_is_rows(matrix), torch.get_num_threads()
    for cut in _cuts(matrix, sliced_gram.DEPTH):
        block = matrix[cut].contiguous()
        share = sliced_gram.add(gram.numpy(), block.numpy(), by_rows, threads)
        if not share <= _CUT:  # or not a number
            return None
    return gram


def _add_outer(gram: Tensor, wide: Tensor) -> None:
    """Add the upper triangle of wide @ wide.T in bands: half of a Gram product is redundant."""
    size = len(gram)
    band = max(64, size // 16)
    for first in range(0, size, band):
        last = min(first + band, size)
        gram[first:last, first:].addmm_(wide[first:last], wide[first:].T)


def _blocks(matrix: Matrix) -> Iterator[Tensor]:
    """The matrix in float64, cut along the larger side, as [smaller side, length]."""
    for cut in _cuts(matrix):
        part = matrix[cut].double()
        yield part if _smaller_is_rows(matrix) else part.T


def _cuts(matrix: Matrix, multiple: int = 1) -> Iterator[Cut]:
    """Cut along the larger side into parts that are worked on at once, of a multiple in length."""
    smaller, larger = sorted(matrix.shape)
    block = _BLOCK if matrix.device.type == "cpu" else _DEVICE_BLOCK
    step = max(1, block // (multiple * max(1, smaller))) * multiple
    for start in range(0, larger, step):
        run = slice(start, min(start + step, larger))
        yield (slice(None), run) if _smaller_is_rows(matrix) else (run, slice(None))


def add_damped(
    base: Matrix, delta: Matrix, spectrum: Spectrum, k: int, gamma: float, *, exact: bool = False
) -> Iterator[tuple[Cut, Tensor]]:
    """`base + delta` with all singular values of delta after the first k multiplied by gamma.

    Damped is `gamma D + (1 - gamma) P D` with the projector P on the first k directions, or
    `D - (1 - gamma) Q D` with its complement Q, whichever has fewer directions. In float32 its
    error is some 2^-24 of the largest element of D. Where base and damped delta nearly cancel, that
    could be much of their sum, so these lines are done again in float64.

    Args:
        base: what is added to.
        delta: what was decomposed, of the same shape.
        spectrum: of delta.
        k: how many directions are kept.
        gamma: factor on the others.
        exact: everything in float64, and one rounding to float32.

    Yields:
        Rows and columns, and what lies there in float32; together, every element once.
    """
    few = k <= len(spectrum.values) - k
    basis = (spectrum.vectors[:, :k] if few else spectrum.vectors[:, k:]).contiguous()
    kept, added = (gamma, 1 - gamma) if few else (1.0, gamma - 1)
    single = basis.float()

    def damped(part: Tensor, basis: Tensor) -> Tensor:
        left, right = (basis, basis.T @ part) if spectrum.rows else (part @ basis, basis.T)
        return torch.addmm(part, left, right, beta=kept, alpha=added)

    for cut in _cuts(delta):
        part = delta[cut]
        anchor = base[cut].to(part)
        total = damped(part, single).add_(anchor)
        least = total.abs().amin(int(not spectrum.rows))
        largest = torch.maximum(part.amax(), -part.amin())  # a third of the time of abs().max()
        again = (least < _CANCELLED * largest) | exact
        if bool(again.any()):
            lines = (slice(None), again) if spectrum.rows else (again, slice(None))
            double = damped(part[lines].double(), basis)
            total[lines] = double.add_(anchor[lines]).float()
        yield cut, total
