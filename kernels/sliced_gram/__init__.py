"""Gram products in slices of 8 bits, for CPUs with a matrix unit; README.md has the arithmetic.

The reference is slower than a product in float64: it does not stand in where none is `available`.
"""

from weightsmith.kernels import elementwise
from weightsmith.kernels.sliced_gram.reference import DEPTH

__all__ = ["DEPTH", "add", "available"]

# One warning about a missing native module is enough: elementwise gives it.
if elementwise.native:
    from weightsmith.kernels import _native

    add, available = _native.sliced_gram.add, _native.sliced_gram.available
else:
    from weightsmith.kernels.sliced_gram.reference import add

    def available() -> bool:
        """Whether the native kernel can run here."""
        return False
