"""timber's work on one matrix against the method of Timber's script: time, k and every element.

Usage: decomposition.py [ROUNDS]

Everything runs in this process on one thread: what the operator does with a tensor, between the
bytes it is given and the bytes it leaves, and the same by a full SVD in float64. Then both parts of
timber, and all of it once more as on a CPU without a matrix unit. Prints Markdown.
"""

import sys
import time
from collections.abc import Callable, Iterator
from math import ceil
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor
from weightsmith.kernels import sliced_gram

from weightsmith.operators.timber import Timber
from weightsmith.operators.unit import Block, Unit
from weightsmith.spectral import decompose, effective_rank, rank_of, singular_values

Row = tuple[str, ...]

TIMES = ("delta", "shape", "SVD s", "method s", "timber s", "SVD / it", "method / it", "bar")
DIFFERENCES = (
    "delta",
    "shape",
    "k: float64, timber, script",
    "timber's eRank off by",
    "timber differs in",
    "steps at most",
    "script differs in",
    "steps at most",
)
PARTS = (
    "delta",
    "shape",
    "decomposition s",
    "the rest s",
    "float64: decomposition s",
    "float64: timber s",
    "float64: method / it",
)
# How many times faster than the script's method.
BARS = {(2048, 8192): 6.0, (2048, 2048): 2.5, (32768, 1024): 9.0}


def noise(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A delta that keeps nearly all of its directions."""
    return torch.randn(rows, columns, generator=generator) * 1e-3


def decaying(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A delta whose singular values fall like 1 / sqrt(index): about three quarters are kept."""
    size = min(rows, columns)
    scale = torch.arange(1, size + 1) ** -0.5
    mixed = noise(rows, columns, generator)
    rotation = torch.linalg.qr(torch.randn(size, size, generator=generator)).Q * scale
    return mixed @ rotation if rows >= columns else rotation.T @ mixed


def pairs(rows: int, columns: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Base and instruct in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    base = (torch.randn(rows, columns, generator=generator) * 0.02).bfloat16()
    for make in (noise, decaying):
        yield make.__name__, base, (base + make(rows, columns, generator)).bfloat16()


def script(base: Tensor, instruct: Tensor, svd: list[float]) -> tuple[Tensor, int]:
    """The script's method with gamma 0; appends the seconds that its SVD took."""
    b = base.float()
    delta = instruct.float() - b
    started = time.perf_counter()
    u, s, v = (x.float() for x in torch.linalg.svd(delta.double(), full_matrices=False))
    svd.append(time.perf_counter() - started)
    p = s / s.sum()
    k = ceil(float(torch.exp(-(p * torch.log(p + 1e-9)).sum())))
    return (b + u[:, :k] @ torch.diag(s[:k]) @ v[:k]).bfloat16(), k


def ours(base: Tensor, instruct: Tensor, out: Tensor) -> None:
    """The operator's function, as the engine calls it."""
    blocks = [Block("BF16", _bytes(x), tuple(x.shape)) for x in (out, base, instruct)]
    unit = Unit("delta", 0, blocks[0], (blocks[1], blocks[2]), (0.0, None, None))
    if Timber().function()(unit):
        raise ArithmeticError("elements overflowed")


def reference(base: Tensor, instruct: Tensor) -> tuple[Tensor, int, float]:
    """Everything in float64, rounded once to float32 and then to bfloat16; k and eRank."""
    delta = instruct.float() - base.float()
    u, s, v = torch.linalg.svd(delta.double(), full_matrices=False)
    k = rank_of(s)
    refined = base.double() + (u[:, :k] * s[:k]) @ v[:k]
    return refined.float().bfloat16(), k, effective_rank(s)


def steps(first: Tensor, second: Tensor) -> Tensor:
    """How many bfloat16 steps lie between finite elements."""
    # Two's complement of the magnitude where the sign bit is set: in the order of the values.
    a, b = (x.view(torch.int16).int() for x in (first, second))
    a, b = (torch.where(x < 0, -(x & 0x7FFF), x) for x in (a, b))
    return (a - b).abs()


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.view(torch.uint8).numpy().reshape(-1)).cast("B")


def measure(name: str, base: Tensor, instruct: Tensor, rounds: int) -> tuple[Row, Row, Row]:
    """Measure one pair; a line of each table."""
    out, spare = torch.zeros_like(base), torch.zeros_like(base)
    svd: list[float] = []
    method: list[float] = []
    walls: list[float] = []
    parts: list[tuple[float, ...]] = []
    delta = instruct.float() - base.float()
    ours(base, instruct, out)
    for _ in range(rounds):
        method.append(seconds(lambda: script(base, instruct, svd)))
        walls.append(seconds(lambda: ours(base, instruct, out)))
        sliced = seconds(lambda: decompose(delta))
        with patch.object(sliced_gram, "available", lambda: False):
            plain = seconds(lambda: decompose(delta))
            whole = seconds(lambda: ours(base, instruct, spare))
        parts.append((sliced, plain, whole))
    wall = median(walls)
    ratio = median(method) / wall
    bar = BARS[base.shape[0], base.shape[1]]
    shape = f"{base.shape[0]} x {base.shape[1]}"
    times = (
        name,
        shape,
        f"{median(svd):.2f}",
        f"{median(method):.2f} ({min(method):.2f} .. {max(method):.2f})",
        f"{wall:.2f} ({min(walls):.2f} .. {max(walls):.2f})",
        f"{median(svd) / wall:.1f}",
        f"{ratio:.1f}",
        f"at least {bar:g}: {'yes' if ratio >= bar else '**no**'}",
    )
    expected, k, erank = reference(base, instruct)
    values = singular_values(delta)
    theirs, their_k = script(base, instruct, [])
    found, script_found = steps(out, expected), steps(theirs, expected)
    differences = (
        name,
        shape,
        f"{k}, {rank_of(values)}, {their_k}",
        f"{abs(effective_rank(values) / erank - 1):.1e}",
        f"{100 * float((found > 0).double().mean()):.5f} %",
        str(int(found.max())),
        f"{100 * float((script_found > 0).double().mean()):.5f} %",
        str(int(script_found.max())),
    )
    sliced, plain, whole = map(median, zip(*parts, strict=True))
    where = (
        name,
        shape,
        f"{sliced:.2f}",
        f"{wall - sliced:.2f}",
        f"{plain:.2f}",
        f"{whole:.2f}",
        f"{median(method) / whole:.1f}",
    )
    return times, differences, where


def main() -> None:
    """Measure, and print."""
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rows = [measure(*pair, rounds) for shape in BARS for pair in pairs(*shape)]
    for head, lines in zip((TIMES, DIFFERENCES, PARTS), zip(*rows, strict=True), strict=True):
        for line in (head, ("---",) * len(head), *lines):
            print(f"| {' | '.join(line)} |")
        print()


if __name__ == "__main__":
    main()
