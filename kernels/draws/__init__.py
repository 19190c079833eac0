"""Draws that depend on a key and a position only: as many streams as there are keys, in any order.

`draw_bits` and `draw_normals` fill an array of [rows, columns]; what they put at a place depends on
the key, on the row (`first_row` is that of the array's first) and on the column, not on the size
of the array.
"""

from weightsmith.kernels import elementwise

__all__ = ["draw_bits", "draw_normals"]

# One warning about a missing native module is enough: elementwise gives it.
if elementwise.native:
    from weightsmith.kernels import _native

    draw_bits, draw_normals = _native.draws.draw_bits, _native.draws.draw_normals
else:
    from weightsmith.kernels.draws.reference import draw_bits, draw_normals
