"""The ground truth of the draws, in numpy; README.md has the formulas.

Every operation is one on uint32, or one on float32 rounded to nearest even, and in the order of the
native code: both give the same bits.
"""

import math

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Float = NDArray[np.float32]
_ROUNDS = 10


def _f(x: float) -> np.float32:
    return np.float32(x)


def _philox(first_row: int, rows: int, quads: int, key: int) -> list[Words]:
    """Philox4x32-10 of the counters (quad, row, 0): four arrays of [rows, quads]."""
    row = np.arange(first_row, first_row + rows, dtype=np.uint64)[:, None]
    a = np.broadcast_to(np.arange(quads, dtype=np.uint32), (rows, quads))
    b = np.broadcast_to(row.astype(np.uint32), a.shape)
    c = np.broadcast_to((row >> np.uint64(32)).astype(np.uint32), a.shape)
    d = np.zeros_like(a)
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(_ROUNDS):
        p = a.astype(np.uint64) * np.uint64(0xD2511F53)
        q = c.astype(np.uint64) * np.uint64(0xCD9E8D57)
        a, b = (q >> np.uint64(32)).astype(np.uint32) ^ b ^ np.uint32(k0), q.astype(np.uint32)
        c, d = (p >> np.uint64(32)).astype(np.uint32) ^ d ^ np.uint32(k1), p.astype(np.uint32)
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [a, b, c, d]


def _logarithm(u: Float) -> Float:
    """The natural logarithm of numbers in [2^-32, 1]."""
    bits = u.view(np.uint32)
    # u = 2^e m with m in [sqrt(1/2), sqrt(2)): 0x3f3504f3 is the float32 next to sqrt(1/2).
    e = (bits - np.uint32(0x3F3504F3)).view(np.int32) >> np.int32(23)
    m = (bits - (e << np.int32(23)).view(np.uint32)).view(np.float32)
    s = (m - _f(1)) / (m + _f(1))
    z = s * s
    ninth, seventh, fifth, third = (_f(1) / _f(n) for n in (9, 7, 5, 3))
    series = (((ninth * z + seventh) * z + fifth) * z + third) * z
    twice = s + s
    result: Float = e.astype(np.float32) * _f(math.log(2)) + (twice + twice * series)
    return result


def _box_muller(v: Words, w: Words) -> tuple[Float, Float]:
    u = (v >> np.uint32(1)).view(np.int32).astype(np.float32) * _f(2.0**-31) + _f(2.0**-32)
    radius = np.sqrt(_f(-2) * _logarithm(u))
    # The angle is a quarter turn times the upper two bits, rounded, and a rest within an eighth.
    quarter = (w + np.uint32(0x20000000)) >> np.uint32(30)
    rest = (w - (quarter << np.uint32(30))).view(np.int32).astype(np.float32)
    y = rest * _f(math.pi / 2 * 2.0**-30)
    z = y * y
    a, b, c, d, e, f = (_f(1) / _f(math.factorial(n)) for n in (10, 9, 8, 7, 6, 5))
    sine = ((((b * z - d) * z + f) * z - _f(1) / _f(6)) * z) * y + y
    cosine = (((((-a * z + c) * z - e) * z + _f(1) / _f(24)) * z - _f(0.5)) * z) + _f(1)
    odd = (quarter & np.uint32(1)).astype(bool)
    sign_x = ((quarter + np.uint32(1)) & np.uint32(2)) << np.uint32(30)
    sign_y = (quarter & np.uint32(2)) << np.uint32(30)
    x = radius * np.where(odd, sine, cosine)
    y = radius * np.where(odd, cosine, sine)
    return (x.view(np.uint32) ^ sign_x).view(np.float32), (y.view(np.uint32) ^ sign_y).view(
        np.float32
    )


def draw_bits(out: Words, key: int, first_row: int, /) -> None:
    """Fill [rows, columns] with 32 random bits each."""
    rows, columns = out.shape
    quads = -(-columns // 4)
    with np.errstate(over="ignore"):
        words = _philox(first_row, rows, quads, key)
    out[:] = np.stack(words, axis=-1).reshape(rows, 4 * quads)[:, :columns]


def draw_normals(out: Float, key: int, first_row: int, /) -> None:
    """Fill [rows, columns] with standard normal deviates."""
    rows, columns = out.shape
    quads = -(-columns // 4)
    with np.errstate(over="ignore"):
        v, w, x, y = _philox(first_row, rows, quads, key)
        planes = [*_box_muller(v, w), *_box_muller(x, y)]
    out[:] = np.stack(planes, axis=-1).reshape(rows, 4 * quads)[:, :columns]
