"""Devices as phase-change memory is usually described, by constants alone.

Programming error of a polynomial standard deviation, drift by a power of time whose exponent
differs from device to device, 1/f noise that accumulates. The form, not the constants, is that of
aihwkit's inference models (Nandakumar et al., ICECS 2019); x is g / g_max throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.crossbar.curves import Curve, polynomial
from weightsmith.crossbar.device import Device

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Float


@dataclass(frozen=True, kw_only=True)
class PowerLaw(Device):
    """A device that drifts by a power of time.

    Attributes:
        coefficients: c_i of the programming error sigma = sum c_i x^i, in microsiemens.
        t_0: seconds after programming at which the exponents were fitted.
        nu_mean, nu_std: mean and standard deviation of the drift exponent; None: no drift.
        t_read: seconds that one reading takes.
        q: 1/f noise relative to the conductance, without its growth in time; None: not known.
    """

    coefficients: tuple[float, ...]
    t_0: float = 20.0
    nu_mean: Curve | None = None
    nu_std: Curve | None = None
    t_read: float = 250e-9
    q: Curve | None = None

    @property
    def drifts(self) -> bool:
        """See Device."""
        return self.nu_mean is not None

    @property
    def reads(self) -> bool:
        """See Device."""
        return self.q is not None

    def sigma(self, x: Float) -> Float:
        """See Device."""
        return polynomial(self.coefficients, x)

    def exponent(self, target: Float, noise: Float) -> Float:
        """The drift exponent of each device: normal, folded at zero."""
        assert self.nu_mean is not None
        x = target * (1 / self.g_max)
        mean = self.nu_mean(x)
        return np.abs(mean if self.nu_std is None else mean + self.nu_std(x) * noise)

    def drift(
        self, target: Float, programmed: Float, seconds: float, noise: Float, strength: float = 1.0
    ) -> Float:
        """See Device: g (t / t_0)^-nu."""
        power = -strength * math.log((seconds + self.t_0) / self.t_0)
        result: Float = programmed * np.exp(self.exponent(target, noise) * power)
        return result

    def read(self, programmed: Float, drifted: Float, seconds: float, noise: Float) -> Float:
        """See Device: sigma = |g| q sqrt(ln((t + t_read) / (2 t_read)))."""
        assert self.q is not None
        t = seconds + self.t_0
        growth = math.sqrt(math.log((t + self.t_read) / (2 * self.t_read)))
        relative: Float = np.multiply(self.q(programmed * (1 / self.g_max)), np.float32(growth))
        result: Float = drifted + drifted * relative * noise
        return result
