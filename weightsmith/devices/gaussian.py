"""No device at all: a normal error of one size, relative to the largest weight of the tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.crossbar.device import Cell, Device

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Float


@dataclass(frozen=True, kw_only=True)
class Gaussian(Device):
    """W + relative * max|W| * N: what papers on language models sweep as device noise.

    That the noise is relative to the largest weight of a row and tile is our reading; arXiv
    2603.13725, which asks the same question, gives its formula in parts that we have not seen.

    Attributes:
        relative: standard deviation as a part of the range.
    """

    name: str = "gaussian"
    source: str = "our reading; additive mode of IBM's analog-foundation-models"
    cell: Cell = Cell.SIGNED
    g_max: float = 1.0
    relative: float = 0.02

    def sigma(self, x: Float) -> Float:
        """See Device."""
        return np.full_like(x, self.relative * self.g_max)

    def program(self, target: Float, noise: Float) -> Float:
        """See Device; there is no floor."""
        result: Float = target + noise * (self.relative * self.g_max)
        return result


DEVICE = Gaussian()
