"""ties: trim task vectors, elect signs, merge what agrees (TIES-Merging, arXiv 2306.01708)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from weightsmith.operators.blending import Numbers, shares
from weightsmith.operators.operator import option
from weightsmith.operators.registry import register
from weightsmith.operators.taskvectors import TaskVectors, Trim, trims_of
from weightsmith.selection import Values


@register
@dataclass(frozen=True, kw_only=True)
class Ties(TaskVectors):
    """Merge models tuned from BASE by trimming, electing signs, and averaging what agrees.

    Of each MODEL - BASE the largest elements stay, a share of `density`. For each element of the
    model the sign of their weighted sum is elected, and those of that sign are averaged by their
    weights; lambda times that is added to BASE. Names, sidecar files and sharding are BASE's.
    """

    name: ClassVar[str] = "ties"
    examples: ClassVar[str] = """
    weightsmith ties base/ maths/ code/ -o merged/
    weightsmith ties base/ maths/ code/ --density 0.5,0.3 --weight 1,0.5 -o merged/
    """

    density: Values[Numbers] = option(
        "--density",
        "the share of each task vector that stays, separated by commas, or one for all",
        default="0.2",
        convert=shares,
        per_tensor=True,
        metavar="D,D,...",
    )
    rescale: str = option(
        "--rescale",
        "what stays of a task vector is multiplied so that its sum of absolute values is as before",
        default="none",
        choices=("none", "l1"),
        metavar="none|l1",
    )
    no_normalize: bool = option(
        "--no-normalize", "add what agrees up, instead of averaging it", default=False
    )

    @property
    def elects(self) -> bool:
        """See TaskVectors."""
        return True

    @property
    def normalizes(self) -> bool:
        """See TaskVectors."""
        return not self.no_normalize

    def trims(self, names: Sequence[str], count: int) -> dict[str, tuple[Trim | None, ...]]:
        """See TaskVectors."""

        def largest(_name: str, _number: int, density: float) -> Trim:
            return Trim(density, rescale=self.rescale)

        return trims_of(self.density, names, count, largest)
