"""Split a matrix into two thin ones: D ~ B A, with B [out, k] and A [k, in].

With D = U S V^T, B = U_k sqrt(S_k) and A = sqrt(S_k) V_k^T: the best approximation of rank k in the
Frobenius norm (Eckart and Young, 1936), its singular values shared evenly between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from weightsmith.errors import UsageError
from weightsmith.spectral import Spectrum, decompose, effective_rank, rank_for_energy, rank_of

_BLOCK = 1 << 22  # elements of the matrix widened to float64 at once


@dataclass(frozen=True)
class RankRule:
    """How many directions to keep of each matrix.

    Attributes:
        kind: "fixed", "erank" (k = ceil(eRank)) or "energy".
        value: the rank, or the share of the squared Frobenius norm.
    """

    kind: Literal["fixed", "erank", "energy"]
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> RankRule:
        """Read `16`, `erank` or `energy=0.9`.

        Raises:
            UsageError: it is none of them.
        """
        try:
            if text == "erank":
                return cls("erank")
            if text.startswith("energy="):
                share = float(text.removeprefix("energy="))
                if 0 < share <= 1:
                    return cls("energy", share)
            elif text.isascii() and (rank := int(text)) >= 1:
                return cls("fixed", rank)
        except ValueError:
            pass
        raise UsageError(
            f"--rank {text}", expected="a number from 1, erank, or energy=SHARE up to 1"
        )

    def of(self, values: Tensor) -> int:
        """The rank for singular values [r], largest first; 0 for a zero matrix."""
        if len(values) == 0 or values[0] == 0:
            return 0
        if self.kind == "erank":
            return rank_of(values)
        if self.kind == "energy":
            return rank_for_energy(values, self.value)
        return min(int(self.value), len(values))


@dataclass(frozen=True)
class Factors:
    """Two thin matrices and what they hold.

    Attributes:
        b, a: float32 [out, k] and [k, in].
        energy: share of the squared Frobenius norm in their product, before they are rounded.
        erank: effective rank of the whole matrix.
    """

    b: Tensor
    a: Tensor
    energy: float
    erank: float

    @property
    def rank(self) -> int:
        """The number k."""
        return self.b.shape[1]


def factorise(matrix: Tensor, rule: RankRule) -> Factors:
    """Factors of a finite float32 matrix [out, in]; of rank 0 if it is zero."""
    spectrum = decompose(matrix)
    values = spectrum.values
    rank = rule.of(values)
    total = float((values**2).sum())
    b, a = _split(matrix, spectrum, rank)
    energy = float((values[:rank] ** 2).sum()) / total if total else 1.0
    return Factors(b, a, energy, effective_rank(values))


def _split(matrix: Tensor, spectrum: Spectrum, rank: int) -> tuple[Tensor, Tensor]:
    basis, root = spectrum.vectors[:, :rank], spectrum.values[:rank].sqrt()
    known = (basis * root).float()
    # The other side is the matrix seen in that basis; directions without length stay zero.
    inverse = torch.where(root > 0, 1 / root, torch.zeros_like(root))
    wide = matrix if spectrum.rows else matrix.T
    other = torch.empty(rank, wide.shape[1], dtype=torch.float32)
    step = max(1, _BLOCK // max(1, len(wide)))
    for start in range(0, wide.shape[1], step):
        block = wide[:, start : start + step].double()
        other[:, start : start + step] = (basis.T @ block) * inverse[:, None]
    b, a = (known, other) if spectrum.rows else (other.T, known.T)
    return b.contiguous(), a.contiguous()
