"""Resistive memory with a conductive metal oxide on hafnium oxide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.crossbar.device import Cell, Device
from weightsmith.errors import UsageError

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Float


@dataclass(frozen=True, kw_only=True)
class RramCmo(Device):
    """CMO/HfOx devices of IBM Research Zurich: Falcone et al., as in aihwkit 1.1.0.

    Constants of ReRamCMONoiseModel with an acceptance of 0.2 % in programming; conductances and
    what is added to them in microsiemens, g as it is and not relative to g_max. One device holds a
    weight: the tile's smallest weight is at g_min, its largest at g_max.

    Attributes:
        base, slope: sigma of programming = base + slope g.
        shift: the mean moves by shift ln t, t in seconds.
        spread, spread_growth: standard deviation of relaxation = spread + spread_growth ln t.
        read_scale: 1/f noise = read_scale log10(g) sqrt(ln((t + t_read) / (2 t_read))).
        t_read: seconds that one reading takes.
        earliest: seconds from which the laws in ln t are used.
    """

    name: str = "rram-cmo"
    source: str = "Falcone et al.; constants of aihwkit 1.1.0, ReRamCMONoiseModel, acceptance 0.2 %"
    cell: Cell = Cell.SINGLE
    g_max: float = 88.2
    g_min: float = 9.0
    base: float = 0.00081107
    slope: float = 0.00106879
    shift: float = -0.08900206
    spread: float = 0.41183342
    spread_growth: float = 0.04201137
    read_scale: float = 0.0277316483
    t_read: float = 1e-6
    earliest: float = 1.0

    @property
    def drifts(self) -> bool:
        """See Device."""
        return True

    @property
    def reads(self) -> bool:
        """See Device."""
        return True

    def at(self, seconds: float | None) -> RramCmo:
        """See Device."""
        if seconds and seconds < self.earliest:
            raise UsageError(
                f"{self.name} has no data between programming and {self.earliest:g} s",
                got=f"{seconds:g} seconds",
            )
        return self

    def sigma(self, x: Float) -> Float:
        """See Device."""
        return x * (self.slope * self.g_max) + self.base

    def program(self, target: Float, noise: Float) -> Float:
        """See Device; there is no floor, for targets are far from zero."""
        result: Float = target + self.sigma(target * (1 / self.g_max)) * noise
        return result

    def drift(
        self, target: Float, programmed: Float, seconds: float, noise: Float, strength: float = 1.0
    ) -> Float:
        """See Device: relaxation, the same at every conductance."""
        del target
        ln_t = math.log(seconds)
        spread = self.spread + self.spread_growth * ln_t
        moved: Float = programmed + strength * self.shift * ln_t + noise * (strength * spread)
        return moved

    def read(self, programmed: Float, drifted: Float, seconds: float, noise: Float) -> Float:
        """See Device; not known at the time of programming."""
        del programmed
        if not seconds:
            return drifted
        growth = math.sqrt(math.log((seconds + self.t_read) / (2 * self.t_read)))
        logarithm: Float = np.log10(drifted)
        return drifted + logarithm * np.float32(self.read_scale * growth) * noise

    def limit(self, g: Float) -> Float:
        """See Device; the range of weights."""
        return np.clip(g, self.g_min, self.g_max)


DEVICE = RramCmo()
