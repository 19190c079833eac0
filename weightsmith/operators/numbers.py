"""Coefficients as people type them: exact decimals, rounded once where arithmetic needs them."""

import struct
from decimal import Decimal, InvalidOperation
from fractions import Fraction

_MAX_EXPONENT = 100


def decimal(text: str) -> Decimal:
    """Read a finite decimal number, in one normal form (0.80 is 0.8).

    Raises:
        ValueError: anything else.
    """
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError("not a number") from None
    if not number.is_finite():
        raise ValueError("not a finite number")
    normal = number.normalize() or Decimal(0)  # there is one zero
    if abs(normal.adjusted()) > _MAX_EXPONENT:
        raise ValueError("far beyond the range of float32")
    return Decimal(format(normal, "f"))  # 100, not 1E+2


def natural(text: str) -> int:
    """Read an integer from 0 on.

    Raises:
        ValueError: anything else.
    """
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("not an integer from 0 on")
    return int(text)


def count(text: str) -> int:
    """Read an integer from 1 on.

    Raises:
        ValueError: anything else.
    """
    if not natural(text):
        raise ValueError("not an integer from 1 on")
    return int(text)


def float32(number: Decimal | Fraction) -> float:
    """The nearest float32, ties to even, rounded once from the exact number.

    Going through float64 would round twice, so its neighbours are candidates too.

    Raises:
        ValueError: too large for float32.
    """
    try:
        (bits,) = struct.unpack("<I", struct.pack("<f", float(number)))
    except OverflowError:
        raise ValueError(f"{number} is too large for float32") from None
    exact = Fraction(number)
    neighbours = [b for b in (bits - 1, bits, bits + 1) if b >= 0 and b & 0x7F800000 != 0x7F800000]

    def distance(candidate: int) -> tuple[Fraction, int]:
        return abs(Fraction(_from_bits(candidate)) - exact), candidate & 1

    return _from_bits(min(neighbours, key=distance))


def _from_bits(bits: int) -> float:
    value: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return value
