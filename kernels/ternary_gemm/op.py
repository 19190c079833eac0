"""The products as torch operators, which torch.compile and torch.export see.

On the CPU the native kernels compute them, on CUDA the Triton ones, and elsewhere, or where no
compiler was at hand at install, a product with the dequantised weights.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import linear
from weightsmith.kernels.ternary_gemm.native import native
from weightsmith.kernels.ternary_gemm.packed import Packed, PackedRows

ACTIVATIONS = ("int8", "int16", "float32")
BLAS_FROM = 65  # tokens from which weights are dequantised, a tile at a time, for the BLAS
_TILE = 1 << 20  # weights in a tile

_LIBRARY = torch.library.Library("weightsmith", "DEF")
_LIBRARY.define(
    "ternary_linear(Tensor x, Tensor codes, Tensor scales, int out_features, int group, str act)"
    " -> Tensor"
)
_LIBRARY.define("int8_linear(Tensor x, Tensor values, Tensor scales, str act) -> Tensor")


def ternary_linear(
    x: Tensor, packed: Packed, *, act: str = "int16", bias: Tensor | None = None
) -> Tensor:
    """X times the transposed weights.

    Args:
        x: [..., in_features], float32, bfloat16 or float16; of a float dtype the result has too.
        packed: the weights.
        act: what the CPU's kernels round x to, per span of 32 to 128 inputs: "int8", "int16" (two
            8-bit halves, 15 bits), or "float32" for no rounding. From BLAS_FROM tokens on, and on
            a GPU, x is not rounded.
        bias: [out_features].

    Raises:
        ValueError: x does not fit the weights, or act is another word.
    """
    y: Tensor = torch.ops.weightsmith.ternary_linear(
        x, packed.codes, packed.scales, packed.out_features, packed.group, act
    )
    return y if bias is None else y + bias


def int8_linear(x: Tensor, packed: PackedRows, *, act: str = "int16") -> Tensor:
    """X times transposed 8-bit rows; see `ternary_linear`."""
    y: Tensor = torch.ops.weightsmith.int8_linear(x, packed.values, packed.scales, act)
    return y


def _check(x: Tensor, codes: Tensor, act: str) -> None:
    if act not in ACTIVATIONS:
        raise ValueError(f"act is one of {', '.join(ACTIVATIONS)}, not {act!r}")
    if codes.device != x.device:
        raise ValueError(f"x is on {x.device} and the weights are on {codes.device}")
    if not x.is_floating_point():
        raise ValueError(f"x is of a float dtype, not {x.dtype}")


def _ternary(
    x: Tensor, codes: Tensor, scales: Tensor, out_features: int, group: int, act: str
) -> Tensor:
    _check(x, codes, act)
    packed = Packed(codes, scales, out_features, x.shape[-1], group)
    if -(-packed.in_features // 32) != codes.shape[1]:
        raise ValueError(
            f"x has {x.shape[-1]} inputs, the weights have up to {codes.shape[1] * 32}"
        )
    if x.is_cuda:
        from weightsmith.kernels.ternary_gemm.launch import launch

        return launch(x, packed)
    flat = x.reshape(-1, x.shape[-1])
    if x.device.type != "cpu" or native is None:
        return linear(x, packed.dequantize().to(x.dtype))
    if len(flat) >= BLAS_FROM:
        return _tiled(x, out_features, _tiles(packed))
    return _computed(
        x,
        out_features,
        lambda *ends: native.linear(
            ends[0], codes, scales, packed.span, packed.planes, *ends[1:], act, _threads()
        ),
    )


def _int8(x: Tensor, values: Tensor, scales: Tensor, act: str) -> Tensor:
    _check(x, values, act)
    if x.shape[-1] != values.shape[1]:
        raise ValueError(f"x has {x.shape[-1]} inputs, the weights have {values.shape[1]}")
    flat = x.reshape(-1, x.shape[-1])
    if x.device.type != "cpu" or native is None or len(flat) >= BLAS_FROM:
        step = max(1, _TILE // values.shape[1])
        tiles = zip(values.split(step), scales.split(step), strict=True)
        return _tiled(x, len(values), (PackedRows(*tile).dequantize() for tile in tiles))
    return _computed(
        x,
        len(values),
        lambda *ends: native.linear_rows(ends[0], values, scales, ends[1], act, _threads()),
    )


def _computed(x: Tensor, rows: int, kernel: Callable[[Tensor, Tensor], None]) -> Tensor:
    """By a native kernel, on float32 matrices."""
    flat = x.detach().reshape(-1, x.shape[-1]).float().contiguous()
    y = torch.empty((len(flat), rows), dtype=torch.float32)
    if len(flat):
        kernel(flat, y)
    return y.to(x.dtype).view(*x.shape[:-1], rows)


def _tiled(x: Tensor, rows: int, tiles: Iterator[Tensor]) -> Tensor:
    """By the BLAS, on some rows of float32 weights at a time."""
    y = x.new_empty((*x.shape[:-1], rows))
    row = 0
    for tile in tiles:
        y[..., row : row + len(tile)] = linear(x, tile.to(x.dtype))
        row += len(tile)
    return y


def _tiles(packed: Packed) -> Iterator[Tensor]:
    step = max(8, _TILE // packed.in_features // 8 * 8)
    room = torch.empty((min(step, packed.out_features), packed.in_features))
    for first in range(0, packed.out_features, step):
        tile = room[: packed.out_features - first]
        sizes = (packed.out_features, packed.span, packed.planes)
        native.dequantize(packed.codes, packed.scales, *sizes, first, tile, _threads())
        yield tile


def _threads() -> int:
    return torch.get_num_threads()


def _ternary_shape(x: Tensor, _codes: Tensor, _scales: Tensor, rows: int, *_: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], rows))


def _int8_shape(x: Tensor, values: Tensor, *_: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], values.shape[0]))


_LIBRARY.impl("ternary_linear", _ternary, "CompositeExplicitAutograd")
_LIBRARY.impl("int8_linear", _int8, "CompositeExplicitAutograd")
torch.library.register_fake("weightsmith::ternary_linear", _ternary_shape, lib=_LIBRARY)
torch.library.register_fake("weightsmith::int8_linear", _int8_shape, lib=_LIBRARY)
