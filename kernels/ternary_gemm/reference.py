"""The ground truth of products with trit planes, in numpy; README.md has layouts and mathematics.

Trits are int8 [planes, out, in] in {-1, 0, 1}; scales are float16 [out, groups, planes].
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

STRIP = 32  # inputs that lie together in the kernel layout
BLOCK = 8  # rows that lie together
LIMITS = {"int8": 127, "int16": 127 * 128 + 63}
LEAST_PEAK = 2.0**-90  # activations of a span that are all smaller count as zero

Trits = NDArray[np.int8]
Scales = NDArray[np.float16]


def span_of(group: int) -> int:
    """Inputs that the kernels take at once: 32, 64 or 128, the most that divides the group.

    Raises:
        ValueError: the group is no multiple of 32.
    """
    if group <= 0 or group % STRIP:
        raise ValueError(f"a group is a multiple of {STRIP} inputs, not {group}")
    return next(span for span in (128, 64, 32) if group % span == 0)


def dequantize(trits: Trits, scales: Scales, group: int) -> NDArray[np.float64]:
    """The weights [out, in]: the sum over planes of scale times trit."""
    inputs = trits.shape[2]
    each = np.repeat(scales.astype(np.float64), group, axis=1)[:, :inputs]
    weights: NDArray[np.float64] = np.einsum("koi,oik->oi", trits.astype(np.float64), each)
    return weights


def linear(x: NDArray[Any], trits: Trits, scales: Scales, group: int) -> NDArray[np.float64]:
    """y[tokens, out] = x[tokens, in] w^T."""
    product: NDArray[np.float64] = x.astype(np.float64) @ dequantize(trits, scales, group).T
    return product


def quantize(x: NDArray[Any], span: int, act: str) -> NDArray[np.float64]:
    """What the integer paths compute with: x rounded to n / limit of its span's largest magnitude.

    The scale is rounded to float32 as the kernels do; spans that hold NaN or infinity become NaN.
    """
    tokens, inputs = x.shape
    padded = np.zeros((tokens, -(-inputs // span) * span), np.float32)
    padded[:, :inputs] = x
    spans = padded.reshape(tokens, -1, span)
    peak = np.abs(spans).max(axis=2, keepdims=True)
    limit = np.float32(LIMITS[act])
    with np.errstate(all="ignore"):
        some = peak >= np.float32(LEAST_PEAK)
        whole = np.where(some, np.rint(spans * (limit / peak)), np.float32(0))
        scale = np.where(some, peak / limit, np.float32(0))
    result = whole.astype(np.float64) * np.where(np.isfinite(peak), scale, np.nan)
    return result.reshape(tokens, -1)[:, :inputs]


def pack(trits: Trits, scales: Scales) -> NDArray[np.uint8]:
    """Rows as files have them [out, row_bytes]: base-3 bytes plane after plane, then the scales."""
    planes, rows, inputs = trits.shape
    digits = np.ones((planes, rows, -(-inputs // 5) * 5), np.uint8)
    digits[:, :, :inputs] = trits + 1
    fives = digits.reshape(planes, rows, -1, 5)
    packed = (fives * np.array([1, 3, 9, 27, 81], np.uint8)).sum(axis=3, dtype=np.uint8)
    stored = np.ascontiguousarray(scales, "<f2").reshape(rows, -1).view(np.uint8)
    return np.concatenate([*packed, stored], axis=1)


def unpack(packed: NDArray[np.uint8], inputs: int, planes: int, group: int) -> tuple[Trits, Scales]:
    """The reverse of `pack`.

    Raises:
        ValueError: the rows do not fit the shape, a byte is no five trits, or a scale is negative
            or not finite.
    """
    rows, width, groups = len(packed), -(-inputs // 5), -(-inputs // group)
    if packed.shape[1] != planes * (width + 2 * groups):
        raise ValueError("packed rows do not fit the shape")
    coded = packed[:, : planes * width].reshape(rows, planes, width)
    if (coded > 242).any():
        raise ValueError("a byte is no five trits")
    digits = coded[..., None] // np.array([1, 3, 9, 27, 81], np.uint8) % 3
    trits = digits.reshape(rows, planes, -1)[..., :inputs].astype(np.int8) - 1
    stored = np.ascontiguousarray(packed[:, planes * width :]).view("<f2")
    scales = stored.reshape(rows, groups, planes).astype(np.float16)
    if not (np.isfinite(scales) & (scales >= 0)).all():
        raise ValueError("a scale is negative or not finite")
    return np.ascontiguousarray(trits.transpose(1, 0, 2)), scales


def layout(
    trits: Trits, scales: Scales, group: int
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """The kernel layout.

    Returns:
        codes, uint8 [blocks, strips, planes, 64]: byte 32 h + j of a strip holds the codes
        (trit + 1) of its input j for rows 4 h to 4 h + 3 of the block, two bits a row;
        scales, float16 [blocks, spans, planes, 8].
    """
    planes, rows, inputs = trits.shape
    blocks, strips = -(-rows // BLOCK), -(-inputs // STRIP)
    code = np.ones((planes, blocks * BLOCK, strips * STRIP), np.uint8)
    code[:, :rows, :inputs] = trits + 1
    parts = code.reshape(planes, blocks, 2, 4, strips, STRIP)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1, 1)
    fields = np.bitwise_or.reduce(parts << shifts, axis=3)  # [planes, blocks, 2, strips, STRIP]
    codes = fields.transpose(1, 3, 0, 2, 4).reshape(blocks, strips, planes, 64)
    span = span_of(group)
    spans = -(-inputs // span)
    each = np.zeros((blocks * BLOCK, spans, planes), np.float16)
    each[:rows] = scales[:, np.arange(spans) * span // group]
    laid = each.reshape(blocks, BLOCK, spans, planes).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(codes), np.ascontiguousarray(laid)


def unlayout(
    codes: NDArray[np.uint8], scales: NDArray[np.float16], rows: int, inputs: int, group: int
) -> tuple[Trits, Scales]:
    """The reverse of `layout`."""
    blocks, strips, planes, _ = codes.shape
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    fields = codes.reshape(blocks, strips, planes, 2, 1, STRIP) >> shifts & 3
    trits = fields.transpose(2, 0, 3, 4, 1, 5).reshape(planes, blocks * BLOCK, strips * STRIP)
    each = scales.transpose(0, 3, 1, 2).reshape(blocks * BLOCK, -1, planes)
    first = np.arange(-(-inputs // group)) * group // span_of(group)
    return trits[:, :rows, :inputs].astype(np.int8) - 1, each[:rows, first]
