"""From targets to what the devices hold at a given time: one sample of a chip.

Program, stick, drift, 1/f noise, stick again: the state of each device is kept from the first step
to the last, and read back only at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from weightsmith.crossbar.cells import Mapping, Target
from weightsmith.crossbar.faults import Stuck

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Float
    from weightsmith.crossbar.streams import Streams


@dataclass(frozen=True)
class Place:
    """Which rows of which tensor are on the devices, and which copy of them.

    Attributes:
        streams: the tensor's draws.
        copy: number of the copy, from 0.
        first_row: of the tensor.
    """

    streams: Streams
    copy: int
    first_row: int


@dataclass(frozen=True)
class Chip:
    """What happens to devices.

    Attributes:
        mapping: of weights onto devices.
        seconds: since the end of programming.
        stuck: probabilities of faults.
        program, drift, read: factors on the effects; 0 leaves one out, and its draws.
    """

    mapping: Mapping
    seconds: float = 0.0
    stuck: Stuck = field(default_factory=Stuck)
    program: float = 1.0
    drift: float = 1.0
    read: float = 0.0

    @property
    def ages(self) -> bool:
        """Whether anything happens after programming."""
        drifts = self.mapping.device.drifts and self.seconds > 0 and self.drift > 0
        return drifts or self.read > 0

    def errors(self, x: Float, place: Place) -> tuple[Float, Float]:
        """What is lost of weights in microsiemens: (after programming, at the end).

        An error is the weight minus what the devices hold, and +0 where nothing happened.
        """
        left, targets = self.mapping.targets(x)
        fresh = final = left
        for target in targets:
            programmed, held = self._conductances(target, place)
            final = _add(final, target, held)
            fresh = _add(fresh, target, programmed) if self.ages else final
        assert fresh is not None
        assert final is not None
        return fresh, final

    def _conductances(self, target: Target, place: Place) -> tuple[Float, Float]:
        device, g = self.mapping.device, target.g
        shape = (g.shape[0], g.shape[1])

        def noise(effect: str, factor: float) -> Float:
            drawn = place.streams.normals(place.copy, target.role, effect, place.first_row, shape)
            return drawn if factor == 1 else np.multiply(drawn, np.float32(factor), out=drawn)

        faults = (
            place.streams.bits(place.copy, target.role, "stuck", place.first_row, shape)
            if self.stuck
            else None
        )
        if self.program:
            g = device.program(g, noise("program", self.program))
        if faults is not None:
            g = self.stuck.apply(g, device, faults)
        programmed = g
        if not self.ages:
            return programmed, programmed
        if device.drifts and self.seconds > 0 and self.drift > 0:
            g = device.drift(target.g, programmed, self.seconds, noise("drift", 1), self.drift)
        if self.read:
            g = device.read(programmed, g, self.seconds, noise("read", self.read))
        g = device.limit(g)
        if faults is not None:
            g = self.stuck.apply(g, device, faults)
        return programmed, g


def _add(error: Float | None, target: Target, held: Float) -> Float:
    """The error with what one more device has missed, in memory of its own."""
    missed = target.g - held
    if abs(target.factor) != 1:
        missed *= np.float32(abs(target.factor))
    if error is None:
        # 0 - 0 is +0, and so is what devices without any error give.
        return missed if target.factor > 0 else np.subtract(0, missed, out=missed)
    combine = np.add if target.factor > 0 else np.subtract
    combine(error, missed, out=missed)
    return missed
