"""Stored numbers some of whose bits have flipped: digital memory on devices that err."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weightsmith.crossbar.streams import threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from weightsmith.crossbar.chip import Place


def flip_bits(stored: NDArray[Any], rate: float, place: Place) -> NDArray[Any]:
    """Flip each bit of unsigned integers [rows, columns] with probability `rate`."""
    result = stored.copy()
    shape = (stored.shape[0], stored.shape[1])
    for bit in range(8 * stored.itemsize):
        drawn = place.streams.bits(place.copy, f"{bit}", "flip", place.first_row, shape)
        flipped = drawn < threshold(rate)
        result ^= flipped.astype(stored.dtype) << stored.dtype.type(bit)
    return result
