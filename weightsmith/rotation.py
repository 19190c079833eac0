"""Random rotations that spread every channel over all others, applied without a matrix.

Q = diag(s) (C_m x H_p), with random signs s, n = m p, p the largest power of two in n, H_p the
Hadamard matrix of Sylvester's order over sqrt(p), and C_m the Hartley matrix
C[i, j] = (cos(2 pi i j / m) + sin(2 pi i j / m)) / sqrt(m), which is 1 for m = 1. No element of Q
is larger than sqrt(2 / n), and a vector costs about n (m + log2 p) additions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_BLOCK = 1 << 16  # elements that are turned at once: they stay in the cache


@dataclass(frozen=True)
class Rotation:
    """A rotation of `count * repeat` blocks of `size` channels, each of its own.

    Attributes:
        size: n, the channels that are mixed with each other.
        seed: of the signs.
        label: tells rotations of one seed apart.
        count: number of different blocks.
        repeat: how often each stands in a row, as where heads share keys and values.
    """

    size: int
    seed: int
    label: str
    count: int = 1
    repeat: int = 1

    @property
    def width(self) -> int:
        """Channels of all blocks together."""
        return self.size * self.count * self.repeat

    def signs(self) -> Array:
        """+1 or -1 for each channel, from SHAKE-256 of seed and label: the same everywhere."""
        import numpy as np

        bits = self.size * self.count
        data = shake_256(f"{self.seed}:{self.label}".encode()).digest(-(-bits // 8))
        drawn = np.unpackbits(np.frombuffer(data, np.uint8))[:bits].reshape(self.count, 1, -1)
        return np.repeat(1.0 - 2.0 * drawn, self.repeat, axis=1).reshape(-1)

    def left(self, matrix: Array) -> None:
        """Q^T X in place; X is [width, k], contiguous."""
        import numpy as np

        matrix *= self.signs()[:, None]
        for block in matrix.reshape(-1, self.size, matrix.shape[1]):
            step = max(1, _BLOCK // self.size)
            for start in range(0, block.shape[1], step):
                part = np.ascontiguousarray(block[:, start : start + step])
                _turn(part)
                block[:, start : start + step] = part

    def right(self, matrix: Array) -> None:
        """X Q in place; X is [k, width], contiguous."""
        import numpy as np

        matrix *= self.signs()
        rows = matrix.reshape(-1, self.size)
        step = max(1, _BLOCK // self.size)
        for start in range(0, len(rows), step):
            part = np.ascontiguousarray(rows[start : start + step].T)
            _turn(part)
            rows[start : start + step] = part.T


def _turn(x: Array) -> None:
    """(C_m x H_p) X in place; both are symmetric. The order of operations never depends on k."""
    import numpy as np

    size, columns = x.shape
    power = size & -size
    if power < size:
        mixed = x.reshape(size // power, -1)
        mixed[:] = _sum_in_order(_hartley(size // power), mixed)
    spare = np.empty(x.size // 2)
    span = 1
    while span < power:
        pairs = x.reshape(-1, 2, span * columns)
        first, second = pairs[:, 0], pairs[:, 1]
        total = spare.reshape(first.shape)
        np.add(first, second, out=total)
        np.subtract(first, second, out=second)
        first[:] = total
        span *= 2
    x *= power**-0.5


def _sum_in_order(matrix: Array, x: Array) -> Array:
    """Matrix times X; a library's product may add up in an order that depends on the shape."""
    import numpy as np

    result = np.zeros_like(x)
    for column, row in zip(matrix.T, x, strict=True):
        result += column[:, None] * row
    return result


@lru_cache
def _hartley(m: int) -> Array:
    import numpy as np

    angles = 2 * np.pi * (np.outer(np.arange(m), np.arange(m)) % m) / m
    result: Array = (np.cos(angles) + np.sin(angles)) / np.sqrt(m)
    return result
