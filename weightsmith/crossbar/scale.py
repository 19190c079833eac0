"""How large weights are mapped onto conductances: by row and tile, by row, or by tensor.

A tile is what one crossbar holds of a row: at most so many inputs. Tiles of a row differ by at most
one input in width, the wider ones first, as IBM's analog-foundation-models splits them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Float


def tile_widths(columns: int, tile: int) -> list[int]:
    """Widths of the tiles of a row; `tile` is the most inputs of one, 0 for any number.

    >>> tile_widths(1000, 512)
    [500, 500]
    """
    count = -(-columns // tile) if tile else 1
    base, wider = divmod(columns, max(1, count))
    return [base + 1] * wider + [base] * (count - wider)


@dataclass(frozen=True)
class Range:
    """The weights that are mapped onto a device's range.

    Attributes:
        low, high: of each row and tile, [rows, tiles] or [1, 1].
        widths: of the tiles.
    """

    low: Float
    high: Float
    widths: list[int]

    @classmethod
    def of(cls, weights: Float, tile: int, *, symmetric: bool) -> Range:
        """The range of each row and tile: [-max|W|, max|W|] if symmetric, else [min W, max W].

        NaN and infinity in the weights are in the range too.
        """
        widths = tile_widths(weights.shape[1], tile)
        if symmetric:
            high = _by_tile(np.max, np.abs(weights), widths)
            return cls(-high, high, widths)
        low, high = (_by_tile(end, weights, widths) for end in (np.min, np.max))
        return cls(low, high, widths)

    @classmethod
    def common(cls, ranges: Sequence[Range]) -> Range:
        """One range for all rows and tiles."""
        low = min(each.low.min() for each in ranges)
        high = max(each.high.max() for each in ranges)
        width = sum(ranges[0].widths)
        return cls(np.full((1, 1), low, np.float32), np.full((1, 1), high, np.float32), [width])

    @property
    def finite(self) -> bool:
        """Whether all weights are."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    def spread(self, values: Float) -> Float:
        """A value for each tile as one that broadcasts against the weights."""
        if len(self.widths) == 1:
            return values
        return np.repeat(values, self.widths, axis=1)


def _by_tile(end: Callable[..., Float], weights: Float, widths: list[int]) -> Float:
    """The least or the greatest weight of each tile, [rows, tiles]."""
    if widths[0] == widths[-1]:
        return end(weights.reshape(-1, widths[0]), axis=1).reshape(len(weights), -1)
    ends = pairwise([0, *accumulate(widths)])
    return np.stack([end(weights[:, a:b], axis=1) for a, b in ends], axis=1)
