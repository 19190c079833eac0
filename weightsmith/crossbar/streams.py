"""Which random numbers belong to what: one stream for each use of each tensor.

A draw depends on (seed, tensor, copy, role, effect) through the key of its stream, and on the row
and column of the weight through the counter; on nothing else. The draws themselves are those of
kernels/draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.kernels import draws

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Streams:
    """The streams of one tensor.

    Attributes:
        seed: the user's.
        tensor: its name.
        part: of the tensor, where it lies on devices in parts.
    """

    seed: int
    tensor: str
    part: str = ""

    def key(self, copy: int, role: str, effect: str) -> int:
        """The key of one stream: 8 bytes of a hash; no part contains the separator but a name."""
        text = f"{self.seed}/{copy}/{self.part}{role}/{effect}/{self.tensor}"
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")

    def normals(
        self, copy: int, role: str, effect: str, first_row: int, shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Standard normal deviates for rows of the tensor from `first_row` on."""
        out = np.empty(shape, np.float32)
        draws.draw_normals(out, self.key(copy, role, effect), first_row)
        return out

    def bits(
        self, copy: int, role: str, effect: str, first_row: int, shape: tuple[int, int]
    ) -> NDArray[np.uint32]:
        """32 random bits for each element."""
        out = np.empty(shape, np.uint32)
        draws.draw_bits(out, self.key(copy, role, effect), first_row)
        return out


def threshold(probability: float) -> int:
    """How many of the 2^32 values of 32 random bits an event of that probability takes."""
    return round(probability * 2**32)
