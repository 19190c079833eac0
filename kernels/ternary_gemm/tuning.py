"""Which configuration of a Triton kernel is fastest for a shape on a card: tried once, then known.

What was found is kept in Triton's own cache directory, by card, shape, dtype and kernel source.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.cache import get_cache_manager
from triton.runtime.errors import OutOfResources
from triton.testing import do_bench
from weightsmith.kernels.ternary_gemm.packed import Packed

Options = Mapping[str, int]

# SPLITS is how many programs share a row's inputs; it costs no compilation to try several.
CANDIDATES: dict[str, list[Options]] = {
    "add": [
        {"HALVES": halves, "SPLITS": splits, "num_warps": warps, "num_stages": 2}
        for halves in (8, 16, 32)
        for warps in (4, 8)
        for splits in (1, 2, 4, 8, 16)
    ],
    "trits": [
        {"BLOCK_M": m, "BLOCK_N": n, "SPLITS": splits, "num_warps": 4, "num_stages": stages}
        for m in (16, 32, 64)
        for n in (32, 64, 128)
        for stages in (2, 3)
        for splits in (1, 2, 4, 8)
    ],
    "expanded": [
        {"BLOCK_M": m, "BLOCK_N": n, "num_warps": 8, "num_stages": stages}
        for m in (64, 128)
        for n in (64, 128)
        for stages in (2, 3)
    ],
}
# Where nothing can be tried: under the interpreter, and while a graph is captured.
DEFAULTS: dict[str, Options] = {
    "add": {"HALVES": 16, "SPLITS": 4, "num_warps": 4, "num_stages": 2},
    "trits": {"BLOCK_M": 16, "BLOCK_N": 64, "SPLITS": 4, "num_warps": 4, "num_stages": 2},
    "expanded": {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2},
}
_known: dict[tuple[Any, ...], Options] = {}


def shared_bytes(options: Options, span: int, width: int) -> int:
    """Shared memory that the operands' buffers take at most; `width` is bytes of an element."""
    tiles = options.get("BLOCK_M", 0) + options.get("BLOCK_N", 0)
    return tiles * span * width * options["num_stages"]


def candidates(form: str, tokens: int, span: int, width: int, shared: int) -> Iterator[Options]:
    """What is worth trying: tiles that fit shared memory and are not mostly empty."""
    full = max(16, 1 << (tokens - 1).bit_length())
    for options in CANDIDATES[form]:
        block = options.get("BLOCK_M", 16)
        right = block == min(full, 64) if form == "trits" else block <= max(full, 64)
        if right and shared_bytes(options, span, width) <= shared:
            yield options


def tuned(x: Tensor, packed: Packed, form: str, attempt: Callable[[Options], Any]) -> Options:
    """The fastest options for x and the weights; `attempt` runs the product with some."""
    if not x.is_cuda or torch.cuda.is_current_stream_capturing():
        return DEFAULTS[form]
    card = torch.cuda.get_device_name(x.device)
    bucket = 1 << (len(x) - 1).bit_length()
    shape = (packed.out_features, packed.in_features, packed.group, packed.planes)
    key = (form, card, str(x.dtype), bucket, *shape)
    if key not in _known:
        source = Path(__file__).with_name("triton.py").read_bytes()
        digest = hashlib.sha256(repr((key, triton.__version__)).encode() + source).hexdigest()
        cache = get_cache_manager(digest)
        stored = cache.get_file("options.json")
        if stored is not None:
            _known[key] = json.loads(Path(stored).read_text())
        else:
            device = x.device.index or 0
            shared = triton.runtime.driver.active.utils.get_device_properties(device)[
                "max_shared_mem"
            ]
            worth = candidates(form, len(x), packed.span, x.element_size(), shared)
            _known[key] = min(worth, key=lambda options: _time(attempt, options))
            cache.put(json.dumps(dict(_known[key])), "options.json", binary=False)
    return _known[key]


def _time(attempt: Callable[[Options], Any], options: Options) -> float:
    try:
        return float(do_bench(lambda: attempt(options), warmup=5, rep=20, return_mode="median"))
    except OutOfResources:
        return math.inf
