"""Digital memory whose cells err: bits of the stored numbers flip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weightsmith.crossbar.device import Cell, Device

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Float


@dataclass(frozen=True, kw_only=True)
class BitFlip(Device):
    """Each bit of a weight, as it is stored, flips with one probability, independently.

    A model of memory and not of a crossbar: there is no scale and no conductance (g_max is 1 bit).
    A flip in the exponent can make a weight huge, infinite or NaN, as it would in such a memory.

    Attributes:
        rate: probability of a flip.
    """

    name: str = "bitflip"
    source: str = "ours; the experiment of arXiv 2401.05820 is of this kind, its rates not known"
    cell: Cell = Cell.STORED
    g_max: float = 1.0
    rate: float = 1e-4

    def sigma(self, x: Float) -> Float:
        """See Device: of one stored bit, whatever it holds."""
        result: Float = 0 * x + (self.rate * (1 - self.rate)) ** 0.5
        return result


DEVICE = BitFlip()
