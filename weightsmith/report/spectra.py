"""Singular values of matrices and of what lies between two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weightsmith.spectral import effective_rank, singular_values
from weightsmith.statistics import Float

RANKS = (1, 4, 16, 64)  # how many directions of a delta the report asks about


@dataclass(frozen=True)
class PairSpectra:
    """Spectra of two matrices and of their difference.

    Attributes:
        erank_a, erank_b, erank_delta: effective ranks.
        values: [r] float64, the singular values of the difference, largest first.
    """

    erank_a: float
    erank_b: float
    erank_delta: float
    values: NDArray[np.float64]

    def energy(self, rank: int) -> float | None:
        """Share of the squared Frobenius norm in the first `rank` directions of the difference.

        None where there is no difference.
        """
        squares = self.values**2
        total = squares.sum()
        return float(squares[:rank].sum() / total) if total else None

    def facts(self) -> dict[str, Any]:
        """For JSON, with stable keys."""
        return {
            "erank_a": self.erank_a,
            "erank_b": self.erank_b,
            "erank_delta": self.erank_delta,
            "energy": {str(rank): self.energy(rank) for rank in RANKS},
        }


def pair_spectra(a: Float, b: Float) -> PairSpectra:
    """Decompose two finite float32 matrices [out, in] and their difference; `a` becomes that."""
    erank_a, erank_b = erank_of(a), erank_of(b)
    np.subtract(a, b, out=a)
    values = singular_values(torch.from_numpy(a))
    return PairSpectra(erank_a, erank_b, effective_rank(values), values.numpy())


def erank_of(matrix: Float) -> float:
    """Effective rank of a finite float32 matrix [out, in]."""
    return effective_rank(singular_values(torch.from_numpy(matrix)))
