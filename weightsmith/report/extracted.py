"""What an extraction has put into an adapter, and what it could not."""

from dataclasses import dataclass, field
from math import sqrt
from typing import Any


@dataclass(frozen=True)
class Extracted:
    """One weight in the adapter.

    Attributes:
        name: of the tensor.
        rank: the number of directions.
        energy: share of the delta's squared Frobenius norm that they hold.
        erank: effective rank of the delta.
        square: squared Frobenius norm of the delta.
    """

    name: str
    rank: int
    energy: float
    erank: float
    square: float


@dataclass
class Extraction:
    """What went into an adapter and what did not.

    Attributes:
        extracted: the weights that it holds.
        unchanged: names of the tensors in which nothing differs.
        missed: names of those that changed and are not in it, with the reason and the norm of
            their delta (None where there is no delta to speak of).
    """

    extracted: list[Extracted] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    missed: dict[str, tuple[str, float | None]] = field(default_factory=dict)

    @property
    def energy(self) -> float:
        """Share of the squared norm of the whole delta, missed tensors included, in the adapter."""
        held = sum(each.energy * each.square for each in self.extracted)
        missed = sum(norm**2 for _, norm in self.missed.values() if norm is not None)
        total = sum(each.square for each in self.extracted) + missed
        return held / total if total else 1.0

    def facts(self) -> dict[str, Any]:
        """For JSON, with stable keys."""
        return {
            "energy": self.energy,
            "tensors": [
                {
                    "name": each.name,
                    "rank": each.rank,
                    "energy": each.energy,
                    "erank_delta": each.erank,
                    "norm_delta": sqrt(each.square),
                }
                for each in self.extracted
            ],
            "unchanged": self.unchanged,
            "not_captured": [
                {"name": name, "reason": reason, "norm_delta": norm}
                for name, (reason, norm) in self.missed.items()
            ],
        }
