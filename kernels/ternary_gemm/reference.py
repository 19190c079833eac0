"""The ground truth of products with trit planes, in numpy; README.md has layouts and mathematics.

Trits are int8 [out, planes, in] in {-1, 0, 1}; scales are float32 [out, groups, planes], not
negative.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

STRIP = 32  # inputs that lie together in the kernel layout
BLOCK = 8  # rows that lie together
LIMITS = {"int8": 127, "int16": 127 * 128 + 63}
_SHIFTS = np.array([0, 2, 4, 6], np.uint8)
LEAST_PEAK = 2.0**-90  # activations of a span that are all smaller count as zero

Trits = NDArray[np.int8]
Scales = NDArray[np.float32]


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
    weights: NDArray[np.float64] = np.einsum("oki,oik->oi", trits.astype(np.float64), each)
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


def arrange(trits: Trits) -> NDArray[np.uint8]:
    """The codes of the kernel layout, [blocks, strips, planes, 64].

    Byte 32 h + j of a strip holds the codes (trit + 1) of its input j for rows 4 h to 4 h + 3 of
    the block, two bits a row.
    """
    rows, planes, inputs = trits.shape
    blocks, strips = -(-rows // BLOCK), -(-inputs // STRIP)
    code = np.ones((blocks * BLOCK, planes, strips * STRIP), np.uint8)
    code[:rows, :, :inputs] = trits + 1
    parts = code.reshape(blocks, 2, 4, planes, strips, STRIP)
    fields = np.bitwise_or.reduce(parts << _SHIFTS.reshape(4, 1, 1, 1), axis=2)
    return np.ascontiguousarray(fields.transpose(0, 3, 2, 1, 4)).reshape(blocks, strips, planes, 64)


def restore(codes: NDArray[np.uint8], rows: int, inputs: int) -> Trits:
    """The reverse of `arrange`."""
    blocks, strips, planes, _ = codes.shape
    fields = codes.reshape(blocks, strips, planes, 2, 1, STRIP) >> _SHIFTS[:, None] & 3
    trits = fields.transpose(0, 3, 4, 2, 1, 5).reshape(blocks * BLOCK, planes, strips * STRIP)
    return np.ascontiguousarray(trits[:rows, :, :inputs].astype(np.int8) - np.int8(1))


def arrange_scales(scales: Scales, inputs: int, group: int) -> NDArray[np.float32]:
    """The scales of the kernel layout, [blocks, spans, planes, 8]."""
    rows, _, planes = scales.shape
    span = span_of(group)
    spans = -(-inputs // span)
    each = np.zeros((-(-rows // BLOCK) * BLOCK, spans, planes), np.float32)
    each[:rows] = scales[:, np.arange(spans) * span // group]
    return np.ascontiguousarray(each.reshape(-1, BLOCK, spans, planes).transpose(0, 2, 3, 1))


def restore_scales(laid: NDArray[Any], rows: int, inputs: int, group: int) -> Scales:
    """The reverse of `arrange_scales`."""
    blocks, spans, planes, _ = laid.shape
    each = laid.transpose(0, 3, 1, 2).reshape(blocks * BLOCK, spans, planes)
    first = np.arange(-(-inputs // group)) * group // span_of(group)
    return np.ascontiguousarray(each[:rows, first], np.float32)
