"""Phase-change memory as IBM's analog-foundation-models scores language models on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.crossbar.curves import polynomial
from weightsmith.crossbar.device import Cell, Device

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Float


@dataclass(frozen=True, kw_only=True)
class PcmAfm(Device):
    """A normal error on the signed weight, with one draw for each weight and no pair.

    Constants of the script apply_noise_model.py in IBM/analog-foundation-models (commit 4f4c505),
    where the unit of g is such that the largest weight is 180. The script rounds sigma through
    float16; here it stays float32, which differs by about 1e-3 of it.

    Attributes:
        knee: |g| from which the second polynomial holds.
        below, above: coefficients of sigma in g, from degree 0 on, in the unit of g.
        least: results whose target is smaller in size are 0.
    """

    name: str = "pcm-afm"
    source: str = "IBM/analog-foundation-models, commit 4f4c505, apply_noise_model.py"
    cell: Cell = Cell.SIGNED
    g_max: float = 180.0
    knee: float = 52.5
    below: tuple[float, ...] = (
        2.5797410660159494,
        0.22419685954327148,
        -0.00371581208142707,
        2.939751381126213e-05,
    )
    above: tuple[float, ...] = (
        2.110295720240385,
        0.2453487119885723,
        -0.003054993405157235,
        1.2329755395573392e-05,
    )
    least: float = 0.6

    def sigma(self, x: Float) -> Float:
        """See Device; of the size of x."""
        g = np.abs(x) * np.float32(self.g_max)
        return np.where(g > self.knee, polynomial(self.above, g), polynomial(self.below, g))

    def program(self, target: Float, noise: Float) -> Float:
        """See Device; there is no floor, but what is nearly zero becomes zero."""
        reached = target + self.sigma(target * (1 / self.g_max)) * noise
        return np.where(np.abs(target) < self.least, np.float32(0), reached)


DEVICE = PcmAfm()
