"""Launching the Triton kernels: regimes by number of tokens, grids, workspaces."""

from collections.abc import Mapping

import torch
import triton
from torch import Tensor
from weightsmith.kernels.ternary_gemm import triton as kernels
from weightsmith.kernels.ternary_gemm.packed import Packed
from weightsmith.kernels.ternary_gemm.tuning import tuned

FEW = 4  # tokens that gemv serves
SOME = 64  # tokens that gemm_trits serves
_KINDS = {
    torch.float32: triton.language.float32,
    torch.bfloat16: triton.language.bfloat16,
    torch.float16: triton.language.float16,
}


def form_of(tokens: int) -> str:
    """Which kernel serves so many tokens."""
    return "add" if tokens <= FEW else "trits" if tokens <= SOME else "expanded"


def launch(x: Tensor, packed: Packed, form: str | None = None) -> Tensor:
    """X times the transposed weights, with the best configuration for this shape and card.

    Args:
        x: [..., in_features] on the weights' device.
        packed: the weights.
        form: "add", "trits" or "expanded"; by default what `form_of` says.
    """
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    chosen = form or form_of(len(flat))
    options = tuned(flat, packed, chosen, lambda tried: run(flat, packed, chosen, tried))
    y = run(flat, packed, chosen, options)
    return y.view(*x.shape[:-1], packed.out_features)


def run(x: Tensor, packed: Packed, form: str, options: Mapping[str, int]) -> Tensor:
    """One product, x [tokens, in_features], with the options given."""
    y = x.new_empty((len(x), packed.out_features))
    if not len(x):
        return y
    chosen = dict(options)
    spans = packed.scales.shape[1]
    splits = min(chosen.pop("SPLITS", 1), spans)
    each = triton.cdiv(spans, splits)
    splits = triton.cdiv(spans, each)
    partial = x.new_empty((splits, *y.shape), dtype=torch.float32) if splits > 1 else y
    weights = (packed.codes, packed.float_scales)
    sizes = (packed.out_features, packed.in_features, packed.codes.shape[1], spans)
    fixed = {"SPAN": packed.span, "PLANES": packed.planes}
    with torch.cuda.device_of(x):
        if form == "add":
            grid = (triton.cdiv(packed.out_features, 4 * chosen["HALVES"]), splits, len(x))
            kernels.gemv[grid](x, *weights, partial, *sizes, each, **fixed, **chosen)
        elif form == "trits":
            columns = triton.cdiv(packed.out_features, chosen["BLOCK_N"])
            grid = (columns, splits, triton.cdiv(len(x), chosen["BLOCK_M"]))
            kernels.gemm_trits[grid](
                x, *weights, partial, len(x), *sizes, each, **fixed, **chosen, KIND=_KINDS[x.dtype]
            )
        else:
            columns = triton.cdiv(packed.out_features, chosen["BLOCK_N"])
            grid = (triton.cdiv(len(x), chosen["BLOCK_M"]), columns, 1)
            kernels.gemm_expanded[grid](
                x, *weights, y, len(x), *sizes, **fixed, **chosen, KIND=_KINDS[x.dtype]
            )
        if splits > 1:
            grid = (triton.cdiv(y.numel(), 1024), 1, 1)
            kernels.reduce[grid](partial, y, y.numel(), splits, BLOCK=1024)
    return y
