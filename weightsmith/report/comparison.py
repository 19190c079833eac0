"""Hold two checkpoints against each other, tensor by tensor, without loading either."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from weightsmith.checkpoint.remote import read_all_ahead
from weightsmith.checkpoint.source import Source
from weightsmith.errors import Mismatch
from weightsmith.report.blocks import Reader, cut
from weightsmith.report.names import Place, counts, place_of
from weightsmith.report.pairs import Pair, Pairing
from weightsmith.statistics import PairSums

if TYPE_CHECKING:
    from weightsmith.report.spectra import PairSpectra


@dataclass(frozen=True)
class Compared:
    """One tensor of both checkpoints; `spectra` where they were asked for and it is a matrix."""

    pair: Pair
    sums: PairSums
    spectra: PairSpectra | None = None

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.pair.name

    @property
    def place(self) -> Place:
        """Where in the model it sits."""
        return place_of(self.name)

    def facts(self) -> dict[str, Any]:
        """For JSON, with stable keys."""
        sums, place = self.sums, self.place
        return {
            "name": self.name,
            "layer": place.layer,
            "module": place.module,
            "shape": list(self.pair.a.shape),
            "dtype_a": self.pair.a.dtype,
            "dtype_b": self.pair.b.dtype,
            "elements": sums.elements,
            "sigma": sums.sigma,
            "unchanged": sums.unchanged / sums.elements if sums.elements else 1.0,
            "norm_a": sqrt(sums.square_a),
            "norm_b": sqrt(sums.square_b),
            "norm_delta": sqrt(sums.square_delta),
            "cosine": sums.cosine,
        } | (self.spectra.facts() if self.spectra else {})


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints held against each other.

    Attributes:
        a, b: what they are called.
        tensors: those that were compared, in the order in which they were read.
        apart: names of the others and why.
    """

    a: str
    b: str
    tensors: tuple[Compared, ...]
    apart: dict[str, str] = field(default_factory=dict)

    @property
    def mean_sigma(self) -> float | None:
        """Mean of sigma over tensors, skipping biases and norms; None if there are no others."""
        return mean([each.sums.sigma for each in self.tensors if counts(each.name)])

    def facts(self) -> dict[str, Any]:
        """For JSON, with stable keys."""
        return {
            "a": self.a,
            "b": self.b,
            "mean_sigma": self.mean_sigma,
            "tensors": [each.facts() for each in self.tensors],
            "not_compared": [{"name": n, "reason": r} for n, r in self.apart.items()],
        }


def compare(
    a: Source,
    b: Source,
    pairing: Pairing,
    *,
    spectrum: bool,
    tick: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Read the pairs of A and B and compare them.

    Args:
        a, b: the checkpoints.
        pairing: what of them to compare.
        spectrum: whether to decompose matrices too, which takes them into memory one at a time.
        tick: told the bytes read for each tensor.

    Raises:
        Mismatch: every pair has NaN or infinite elements.
    """
    left, right = Reader(a), Reader(b)
    read_all_ahead(a, (pair.a for pair in pairing.pairs))
    read_all_ahead(b, (pair.b for pair in pairing.pairs))
    tensors: list[Compared] = []
    apart = dict(pairing.apart)
    for pair in pairing.pairs:
        matrix = spectrum and len(pair.a.shape) >= 2 and pair.a.numel > 0
        compared = _matrices(left, right, pair) if matrix else _blocks(left, right, pair)
        if compared.sums.finite:
            tensors.append(compared)
        else:
            apart[pair.name] = "has NaN or infinite elements"
        tick(pair.a.nbytes + pair.b.nbytes)
    for source in (a, b):
        source.finish()
    if not tensors:
        raise Mismatch("no tensor is finite in both", file=b.label)
    return Comparison(a.label, b.label, tuple(tensors), apart)


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean, or None of nothing."""
    return sum(values) / len(values) if values else None


def _blocks(left: Reader, right: Reader, pair: Pair) -> Compared:
    blocks = zip(left.blocks(pair.a), right.blocks(pair.b), strict=True)
    return Compared(pair, sum((PairSums.of(x, y) for x, y in blocks), PairSums()))


def _matrices(left: Reader, right: Reader, pair: Pair) -> Compared:
    from weightsmith.report.spectra import pair_spectra

    a, b = left.matrix(pair.a), right.matrix(pair.b)
    blocks = zip(cut(a), cut(b), strict=True)
    sums = sum((PairSums.of(x, y) for x, y in blocks), PairSums())
    # Decomposed in float32, whose range the difference of two finite numbers can leave.
    decomposable = sums.finite and sqrt(sums.square_delta) < np.finfo(np.float32).max
    return Compared(pair, sums, pair_spectra(a, b) if decomposable else None)
