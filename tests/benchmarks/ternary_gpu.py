"""Products with trit planes on a GPU, beside cuBLAS fp16, torch's int4 and the copy bandwidth.

Usage: ternary_gpu.py; prints a Markdown table, or says that there is no card.
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
from weightsmith.kernels.ternary_gemm import Packed

SHAPES = [(4096, 4096), (14336, 4096), (4096, 14336)]  # out, in
TOKENS = [1, 4, 16, 64, 512]
PLANES, GROUP = 2, 128


def main() -> None:
    """Measure, and print."""
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured", file=sys.stderr)
        return
    from weightsmith.kernels.ternary_gemm.launch import form_of, launch

    bandwidth = _copy_bandwidth()
    print(f"- card: {torch.cuda.get_device_name()}; torch {torch.__version__}; ", end="")
    print(f"copies at {bandwidth / 1e9:.0f} GB/s (read and written)\n")
    print("| out x in | tokens | kernel | us | GB/s | of copying | fp16 / it | int4 / it |")
    print("|" + " --- |" * 8)
    rng = np.random.default_rng(0)
    for rows, inputs in SHAPES:
        trits = rng.integers(-1, 2, (rows, PLANES, inputs)).astype(np.int8)
        size = (rows, inputs // GROUP, PLANES)
        scales = rng.uniform(0.005, 0.02, size).astype(np.float16).astype(np.float32)
        w = Packed.of(trits, scales, GROUP).to(torch.device("cuda"))
        nbytes = w.codes.nbytes + w.scales.nbytes
        dense = w.dequantize().half()
        for tokens in TOKENS:
            x = torch.randn(tokens, inputs, device="cuda", dtype=torch.float16)
            launch(x, w)  # tunes
            ours = _time(lambda x=x, w=w: launch(x, w))
            fp16 = _time(lambda x=x, dense=dense: torch.nn.functional.linear(x, dense))
            int4 = _int4(x, dense)
            rate = nbytes / ours
            print(
                f"| {rows} x {inputs} | {tokens} | {form_of(tokens)} | {ours * 1e6:.1f} "
                f"| {rate / 1e9:.0f} | {rate / bandwidth:.0%} | {fp16 / ours:.2f} "
                f"| {f'{int4 / ours:.2f}' if int4 else ''} |"
            )


def _time(run: Callable[[], object]) -> float:
    """Seconds, the median over runs that find the cache cleared."""
    from triton.testing import do_bench

    return float(do_bench(run, warmup=20, rep=100, return_mode="median")) / 1e3


def _copy_bandwidth() -> float:
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / _time(lambda: target.copy_(source))


def _int4(x: torch.Tensor, dense: torch.Tensor) -> float | None:
    """torch's own product with 4-bit weights, where this build has it; the values do not matter."""
    try:
        half = dense.to(torch.bfloat16)
        rows, inputs = half.shape
        nibbles = torch.randint(0, 255, (rows, inputs // 2), dtype=torch.uint8, device="cuda")
        packed = torch.ops.aten._convert_weight_to_int4pack(nibbles, 8)
        scales = torch.ones(inputs // GROUP, rows, 2, dtype=torch.bfloat16, device="cuda")
        given = x.to(torch.bfloat16)
        multiply = torch.ops.aten._weight_int4pack_mm
        return _time(lambda: multiply(given, packed, GROUP, scales))
    except (AttributeError, RuntimeError) as error:
        print(f"no int4 product: {str(error).splitlines()[0]}", file=sys.stderr)
        return None


if __name__ == "__main__":
    main()
