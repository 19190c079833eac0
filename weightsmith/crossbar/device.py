"""What a device model is: constants, and pure functions of conductances and given normal draws.

Conductances are float32 arrays in microsiemens, and so is what the functions return. No function
draws anything itself: the caller supplies an array of standard normal deviates of the same shape,
so a formula can be tested exactly.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from weightsmith.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float = NDArray[np.float32]


class Cell(StrEnum):
    """How a weight lies on devices.

    PAIR: two devices, one of which holds the magnitude and the other the lowest conductance.
    SINGLE: one device, with the tile's smallest weight at g_min and its largest at g_max.
    SIGNED: a model of the weight as a whole, as if there were negative conductances.
    STORED: bits in digital memory, no conductance at all.
    """

    PAIR = "pair"
    SINGLE = "single"
    SIGNED = "signed"
    STORED = "stored"


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device whose programming misses its target by a normal error.

    Attributes:
        name: as the command line has it.
        source: who measured or fitted the constants.
        cell: how a weight lies on it.
        g_max, g_min: the range that weights are mapped onto, in microsiemens.
        devices: physical devices behind one conductance.
    """

    name: str
    source: str
    cell: Cell = Cell.PAIR
    g_max: float
    g_min: float = 0.0
    devices: int = 1

    @property
    def drifts(self) -> bool:
        """Whether it is known how time changes the conductance."""
        return False

    @property
    def reads(self) -> bool:
        """Whether its 1/f noise is known."""
        return False

    def at(self, seconds: float | None) -> Device:
        """The model that holds so long after programming; None is as early as it has data.

        Raises:
            UsageError: it has no data for that time.
        """
        if seconds and not self.drifts:
            raise UsageError(
                f"{self.name} has no data on time",
                expected="no --time, or 0s",
                got=f"{seconds:g} seconds",
            )
        return self

    def sigma(self, x: Float) -> Float:
        """Standard deviation of programming, in microsiemens, at the target x = g / g_max."""
        raise NotImplementedError

    def program(self, target: Float, noise: Float) -> Float:
        """What programming reaches: the target and a normal error, but nothing below zero."""
        import numpy as np

        reached: Float = self.sigma(target * (1 / self.g_max))
        reached *= noise
        reached += target
        return np.maximum(reached, 0, out=reached)

    def drift(
        self, target: Float, programmed: Float, seconds: float, noise: Float, strength: float = 1.0
    ) -> Float:
        """The conductance so long after programming.

        Args:
            target: what was to be programmed.
            programmed: what was reached.
            seconds: since the end of programming, greater than 0.
            noise: one deviate for each device, for how it differs from others.
            strength: factor on the effect.
        """
        raise NotImplementedError

    def read(self, programmed: Float, drifted: Float, seconds: float, noise: Float) -> Float:
        """The conductance with the 1/f noise that has accumulated, as one frozen sample."""
        raise NotImplementedError

    def limit(self, g: Float) -> Float:
        """What drift and 1/f noise cannot leave: nothing conducts less than not at all."""
        import numpy as np

        return np.maximum(g, 0)

    def record(self) -> dict[str, Any]:
        """All constants, for provenance."""
        return asdict(self)
