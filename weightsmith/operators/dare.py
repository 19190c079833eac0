"""dare: drop elements of task vectors at random and rescale the others (arXiv 2311.03099)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar

from weightsmith.operators.blending import Numbers, shares
from weightsmith.operators.numbers import natural
from weightsmith.operators.operator import option
from weightsmith.operators.registry import register
from weightsmith.operators.taskvectors import TaskVectors, Trim, trims_of
from weightsmith.selection import Values


def key_of(seed: int, model: int, tensor: str) -> int:
    """The key of the draws for a tensor of a model (numbered from 0): 8 bytes of a hash."""
    digest = blake2b(f"{seed}/dare/{model}/{tensor}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@register
@dataclass(frozen=True, kw_only=True)
class Dare(TaskVectors):
    """Add task vectors to BASE of which a random share stays, rescaled.

    Each element of MODEL - BASE stays with probability `density`, and is then divided by it. With
    --elect, signs are elected as in ties. Names, sidecar files and sharding are those of BASE.
    """

    name: ClassVar[str] = "dare"
    examples: ClassVar[str] = """
    weightsmith dare base/ maths/ code/ --density 0.1 --weight 0.5 -o merged/
    weightsmith dare base/ maths/ code/ --density 0.5 --elect --seed 7 -o merged/
    """

    density: Values[Numbers] = option(
        "--density",
        "the probability that an element stays, for each MODEL, or one for all",
        default="0.1",
        convert=shares,
        per_tensor=True,
        metavar="D,D,...",
    )
    rescale: str = option(
        "--rescale",
        "what stays is divided by the density, or multiplied so that the sum of absolute values "
        "of the tensor is as before, or left alone",
        default="density",
        choices=("density", "l1", "none"),
        metavar="density|l1|none",
    )
    seed: int = option("--seed", "of the draws", default=0, metavar="N", convert=natural)
    elect: bool = option("--elect", "elect signs, as ties does", default=False)
    normalize: bool = option(
        "--normalize", "divide by the weights of what was added", default=False
    )

    @property
    def elects(self) -> bool:
        """See TaskVectors."""
        return self.elect

    @property
    def normalizes(self) -> bool:
        """See TaskVectors."""
        return self.normalize

    def trims(self, names: Sequence[str], count: int) -> dict[str, tuple[Trim | None, ...]]:
        """See TaskVectors."""

        def drawn(name: str, number: int, density: float) -> Trim:
            return Trim(density, key_of(self.seed, number, name), self.rescale)

        return trims_of(self.density, names, count, drawn)
