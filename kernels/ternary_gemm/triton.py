# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Products with trit planes on a GPU: the kernels; launch.py chooses among them.

Three regimes. `gemv` decodes trits to add, subtract or skip, and multiplies by nothing but scales;
it serves one token, and few. `gemm_trits` gives tensor cores the trits and scales their sums (a
product with -1, 0 or 1 is exact); `gemm_expanded` gives them whole weights, for many tokens. The
first two split the inputs among programs; partial sums go to a float32 workspace that `reduce`
adds in a fixed order, so the result does not depend on timing.

All loads are widened at once: the interpreter is wrong in bfloat16. TRITON_INTERPRET, where it is
wanted, must be set before triton is imported.
"""

import triton
import triton.language as tl


@triton.jit
def _signed(codes, x, minus_x, SHIFT: tl.constexpr):
    """X, -x or nothing: adds up trits times x without a multiplication."""
    code = (codes >> SHIFT) & 3
    return tl.sum(tl.where(code == 2, x, tl.where(code == 0, minus_x, 0.0)), axis=2)


@triton.jit
def gemv(
    x_ptr,
    codes_ptr,
    scales_ptr,
    out_ptr,
    rows,
    inputs,
    strips,
    spans,
    spans_per_split,
    SPAN: tl.constexpr,
    PLANES: tl.constexpr,
    HALVES: tl.constexpr,
):
    """One token and 4 * HALVES rows over some spans; out is [splits, tokens, rows].

    A half is four rows, whose codes share a byte. A thread's sixteen inputs are added up in its
    registers, and lanes only at the end: one multiplication for each row, span, plane and lane.
    """
    LANES: tl.constexpr = SPAN // 16
    split = tl.program_id(1)
    token = tl.program_id(2).to(tl.int64)
    half = tl.program_id(0) * HALVES + tl.arange(0, HALVES)
    block = (half // 2).to(tl.int64)
    inside = half * 4 < rows
    lane = tl.arange(0, LANES)
    within = tl.arange(0, 16)
    strip_of = lane // 2
    byte = (half % 2)[:, None, None] * 32 + (lane % 2)[None, :, None] * 16 + within[None, None, :]
    y0 = tl.zeros((HALVES, LANES), tl.float32)
    y1 = tl.zeros((HALVES, LANES), tl.float32)
    y2 = tl.zeros((HALVES, LANES), tl.float32)
    y3 = tl.zeros((HALVES, LANES), tl.float32)
    first = split * spans_per_split
    for span in range(first, tl.minimum(first + spans_per_split, spans)):
        i = span * SPAN + lane[:, None] * 16 + within[None, :]
        x = tl.load(x_ptr + token * inputs + i, mask=i < inputs, other=0.0).to(tl.float32)
        x = x[None, :, :]
        minus_x = -x
        strip = span * (SPAN // 32) + strip_of
        known = inside[:, None, None] & (strip < strips)[None, :, None]
        at = (block[:, None] * strips + strip[None, :]) * PLANES
        for plane in tl.static_range(PLANES):
            place = codes_ptr + (at + plane)[:, :, None] * 64 + byte
            codes = tl.load(place, mask=known, other=0x55).to(tl.int32)
            scale = scales_ptr + ((block * spans + span) * PLANES + plane) * 8 + (half % 2) * 4
            s0 = tl.load(scale, mask=inside, other=0.0).to(tl.float32)
            s1 = tl.load(scale + 1, mask=inside, other=0.0).to(tl.float32)
            s2 = tl.load(scale + 2, mask=inside, other=0.0).to(tl.float32)
            s3 = tl.load(scale + 3, mask=inside, other=0.0).to(tl.float32)
            y0 += s0[:, None] * _signed(codes, x, minus_x, 0)
            y1 += s1[:, None] * _signed(codes, x, minus_x, 2)
            y2 += s2[:, None] * _signed(codes, x, minus_x, 4)
            y3 += s3[:, None] * _signed(codes, x, minus_x, 6)
    row = half * 4
    out = out_ptr + (split * tl.num_programs(2) + token) * rows + row
    kind = out_ptr.dtype.element_ty
    tl.store(out, tl.sum(y0, axis=1).to(kind), mask=row < rows)
    tl.store(out + 1, tl.sum(y1, axis=1).to(kind), mask=row + 1 < rows)
    tl.store(out + 2, tl.sum(y2, axis=1).to(kind), mask=row + 2 < rows)
    tl.store(out + 3, tl.sum(y3, axis=1).to(kind), mask=row + 3 < rows)


@triton.jit
def _codes(codes_ptr, row, i, rows, strips, plane, PLANES: tl.constexpr):
    """Codes of inputs i (a column) and rows (a line), 1 beyond the edges."""
    strip = i // 32
    place = (((row // 8).to(tl.int64) * strips + strip) * PLANES + plane) * 64
    place += row % 8 // 4 * 32 + i % 32
    known = (row < rows) & (strip < strips)
    byte = tl.load(codes_ptr + place, mask=known, other=0x55).to(tl.int32)
    return (byte >> (row % 4 * 2)) & 3


@triton.jit
def _scales(scales_ptr, row, span, rows, spans, plane, PLANES: tl.constexpr):
    place = (((row // 8).to(tl.int64) * spans + span) * PLANES + plane) * 8 + row % 8
    return tl.load(scales_ptr + place, mask=row < rows, other=0.0).to(tl.float32)


@triton.jit
def gemm_trits(
    x_ptr,
    codes_ptr,
    scales_ptr,
    out_ptr,
    tokens,
    rows,
    inputs,
    strips,
    spans,
    spans_per_split,
    SPAN: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    KIND: tl.constexpr,
):
    """Tiles of tokens and rows over some spans; out is [splits, tokens, rows]."""
    split = tl.program_id(1)
    token = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    given = x_ptr + token.to(tl.int64) * inputs
    y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    first = split * spans_per_split
    for span in range(first, tl.minimum(first + spans_per_split, spans)):
        i = span * SPAN + tl.arange(0, SPAN)
        known = (token < tokens) & (i[None, :] < inputs)
        x = tl.load(given + i[None, :], mask=known, other=0.0).to(tl.float32).to(KIND)
        for plane in tl.static_range(PLANES):
            codes = _codes(codes_ptr, row, i[:, None], rows, strips, plane, PLANES)
            trits = (codes - 1).to(KIND)
            scale = _scales(scales_ptr, row, span, rows, spans, plane, PLANES)
            y += scale * tl.dot(x, trits, input_precision="tf32x3")
    place = (split * tokens + token).to(tl.int64) * rows + row
    inside = (token < tokens) & (row < rows)
    tl.store(out_ptr + place, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def gemm_expanded(
    x_ptr,
    codes_ptr,
    scales_ptr,
    out_ptr,
    tokens,
    rows,
    inputs,
    strips,
    spans,
    SPAN: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    KIND: tl.constexpr,
):
    """Tiles of tokens and rows; weights are rounded to KIND. Here the tensor cores multiply."""
    token = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    row = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    given = x_ptr + token.to(tl.int64) * inputs
    y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for span in range(spans):
        i = span * SPAN + tl.arange(0, SPAN)
        known = (token < tokens) & (i[None, :] < inputs)
        x = tl.load(given + i[None, :], mask=known, other=0.0).to(tl.float32).to(KIND)
        weights = tl.zeros((SPAN, BLOCK_N), tl.float32)
        for plane in tl.static_range(PLANES):
            codes = _codes(codes_ptr, row, i[:, None], rows, strips, plane, PLANES)
            scale = _scales(scales_ptr, row, span, rows, spans, plane, PLANES)
            weights += tl.where(codes == 2, scale, tl.where(codes == 0, -scale, 0.0))
        y += tl.dot(x, weights.to(KIND), input_precision="tf32x3")
    place = token.to(tl.int64) * rows + row
    inside = (token < tokens) & (row < rows)
    tl.store(out_ptr + place, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def reduce(partial_ptr, out_ptr, size, splits, BLOCK: tl.constexpr):
    """Add up [splits, size] over splits, in order."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), tl.float32)
    place = partial_ptr + i
    for _ in range(splits):
        y += tl.load(place, mask=i < size, other=0.0)
        place += size
    tl.store(out_ptr + i, y.to(out_ptr.dtype.element_ty), mask=i < size)
