"""How a weight becomes targets of devices, and how what they reached becomes an error of it.

A weight is a sum over its devices: W = low + step * sum_k factor_k (g_k - g_min). So the error of a
weight is the same sum over what the devices missed, plus what rounding to levels left over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.crossbar.device import Cell, Device
from weightsmith.crossbar.scale import Range

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Float

_LEAST_RANGE = 1e-30  # the inverse of a smaller one may be too large for float32


@dataclass(frozen=True)
class Target:
    """A device of each weight.

    Attributes:
        role: which, in the names of streams.
        factor: its part in the weight, with its sign.
        g: what it is to be programmed to, in microsiemens, [rows, columns].
    """

    role: str
    factor: float
    g: Float


@dataclass(frozen=True)
class Mapping:
    """How weights are mapped.

    Attributes:
        device: onto what.
        levels: conductances a device can be asked for, evenly spaced; 0 for any.
        slices: devices (or pairs) that share the digits of a weight; needs levels.
    """

    device: Device
    levels: int = 0
    slices: int = 1

    @property
    def per_weight(self) -> int:
        """Devices for each weight, physical ones; a model of weights stands for a pair."""
        roles = 1 if self.device.cell in (Cell.SINGLE, Cell.STORED) else 2
        return roles * self.slices * self.device.devices

    def step(self, scale: Range) -> Float:
        """Weight per microsiemens, by tile; 0 for one without a range, which so stays as it is."""
        top = scale.high - scale.low if self.device.cell is Cell.SINGLE else scale.high
        top = np.where(top < _LEAST_RANGE, np.float32(0), top)
        return top * np.float32(1 / (self.device.g_max - self.device.g_min))

    def conductances(self, weights: Float, scale: Range) -> Float:
        """Weights in microsiemens above g_min, negative ones below zero."""
        step = self.step(scale)
        inverse = np.divide(1, step, out=np.zeros_like(step), where=step > 0)
        if self.device.cell is Cell.SINGLE:
            weights = weights - scale.spread(scale.low)
        return weights * scale.spread(inverse)

    def digits(self, x: Float) -> Iterator[tuple[float, Float]]:
        """(factor, part of x) of each slice; without levels, x itself."""
        if not self.levels:
            yield 1.0, x
            return
        span, base = self.device.g_max - self.device.g_min, self.levels
        most = base**self.slices - 1
        code = np.rint(x * np.float32(most / span)).astype(np.int32)  # half to even
        for k in range(self.slices):
            digit = np.fmod(code, base)
            yield base**k * (base - 1) / most, digit * np.float32(span / (base - 1))
            code = (code - digit) // base

    def targets(self, x: Float) -> tuple[Float | None, list[Target]]:
        """(what rounding to levels leaves over of x, or None; the devices and their targets)."""
        left = x.copy() if self.levels else None
        targets = []
        for k, (factor, part) in enumerate(self.digits(x)):
            if left is not None:
                left -= factor * part
            if self.device.cell is Cell.PAIR:
                targets.append(Target(f"{k}+", factor, self._above(np.maximum(part, 0))))
                targets.append(Target(f"{k}-", -factor, self._above(np.maximum(-part, 0))))
            else:
                targets.append(Target(f"{k}", factor, self._above(part)))
        return left, targets

    def _above(self, part: Float) -> Float:
        return part + self.device.g_min if self.device.g_min else part
