"""The product of two thin matrices, as a low-rank adapter stores a change of weights.

`product` has one order of summation, so a part of the rows gives the bits that the whole gives.
"""

from weightsmith.kernels import elementwise

__all__ = ["product"]

# One warning about a missing native module is enough: elementwise gives it.
if elementwise.native:
    from weightsmith.kernels import _native

    product = _native.low_rank.product
else:
    from weightsmith.kernels.low_rank.reference import product
