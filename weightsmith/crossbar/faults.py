"""Devices that cannot be programmed: stuck at the highest or at the lowest conductance.

We say stuck on and stuck off: the literature uses SA0 and SA1 in both senses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.crossbar.streams import threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from weightsmith.crossbar.device import Device, Float


@dataclass(frozen=True)
class Stuck:
    """How likely a device is stuck, at which end of its range.

    Attributes:
        on: probability of being stuck at g_max.
        off: probability of being stuck at g_min.
    """

    on: float = 0.0
    off: float = 0.0

    def __bool__(self) -> bool:
        return self.on > 0 or self.off > 0

    def apply(self, g: Float, device: Device, bits: NDArray[np.uint32]) -> Float:
        """Conductances with the stuck devices at their ends; one draw decides, so none is both."""
        g = np.where(bits < threshold(self.off), np.float32(device.g_min), g)
        # Where no device is stuck on, the bound is 2^32, which no draw reaches.
        return np.where(bits >= 2**32 - threshold(self.on), np.float32(device.g_max), g)
