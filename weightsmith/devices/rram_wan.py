"""Resistive memory of the NeuRRAM chip, at the three times that were measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from weightsmith.crossbar.curves import polynomial
from weightsmith.crossbar.device import Device
from weightsmith.errors import UsageError

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Float

DAY = 86400
# Microsiemens, by seconds after programming; of x^0, x^1, ...
MEASURED = {
    1: (0.348, 16.030, -43.853, 45.393, -16.815),
    DAY: (0.701, 22.086, -50.773, 47.095, -16.458),
    2 * DAY: (0.782, 20.274, -43.507, 37.062, -11.934),
}


@dataclass(frozen=True, kw_only=True)
class RramWan(Device):
    """Deviation from the target at 1 s, 1 day and 2 days: Wan et al., Nature 2022.

    Constants of aihwkit 1.1.0, ReRamWan2022NoiseModel, in microsiemens, fitted at g_max = 40. There
    is no law in time: each time has its own standard deviation around the target. CrossSim has
    another fit to the same chip, with 1.05 instead of 0.35 microsiemens at zero.

    Attributes:
        seconds: after programming; one of those measured.
        coefficients: c_i of sigma = sum c_i x^i at that time, in microsiemens.
    """

    name: str = "rram-wan"
    source: str = "Wan et al., Nature 2022; constants of aihwkit 1.1.0, ReRamWan2022NoiseModel"
    g_max: float = 40.0
    seconds: int = 1
    coefficients: tuple[float, ...] = MEASURED[1]

    def at(self, seconds: float | None) -> RramWan:
        """See Device."""
        if seconds is None:
            return self
        if seconds not in MEASURED:
            raise UsageError(
                f"{self.name} has no data for that time",
                expected="--time 1s, 1d or 2d",
                got=f"{seconds:g} seconds",
            )
        return replace(self, seconds=int(seconds), coefficients=MEASURED[int(seconds)])

    def sigma(self, x: Float) -> Float:
        """See Device; at the time that was asked for."""
        return polynomial(self.coefficients, x)


DEVICE = RramWan()
