"""Products with trit planes on the CPU, beside torch's bf16 and fp32 ones and the read bandwidth.

Usage: ternary.py [--size N] [--rounds N] [--tokens N]

Every round measures every case, ten runs of which the last six count, so that what else the machine does falls on all alike; the
table has medians. One thread is timed by the processor time it takes, which other programs that want
the same core do not lengthen, two by the clock. Bars are printed with their verdicts; none is an
assertion.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from weightsmith.kernels import _native
from weightsmith.kernels.ternary_gemm import ACTIVATIONS, Packed, reference

native = _native.ternary_gemm
PLANES, GROUP = 2, 128
LARGE = 512 << 20  # bytes: far more than a core's own caches


def main() -> None:
    """Measure, and print Markdown."""
    options = _options()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    size, tokens = options.size, options.tokens
    trits = rng.integers(-1, 2, (size, PLANES, size)).astype(np.int8)
    scales = rng.uniform(0.005, 0.02, (size, size // GROUP, PLANES)).astype(np.float16)
    w = Packed.of(trits, scales.astype(np.float32), GROUP)
    x = rng.standard_normal((tokens, size)).astype(np.float32)
    y = np.empty((tokens, size), np.float32)
    nbytes = w.codes.nbytes + w.scales.nbytes
    # Memory from torch, as the weights have: numpy asks for larger pages.
    same, large = (torch.ones(size, dtype=torch.uint8) for size in (nbytes, LARGE))
    dense = w.dequantize()
    half, given = dense.bfloat16(), torch.from_numpy(x)
    half_given = given.bfloat16()

    def product(path: str, act: str, threads: int | str) -> Callable[[], float]:
        count = threads if isinstance(threads, int) else 1
        clock = time.thread_time if threads == 1 else time.perf_counter

        def run() -> float:
            native.use_path(path)
            begin = clock()
            native.linear(x, w.codes, w.scales, w.span, PLANES, y, act, count)
            return clock() - begin

        return run

    cases: dict[object, Callable[[], float]] = {
        "read, same size": lambda: _timed(lambda: native.touch(same)),
        "read, 512 MiB": lambda: _timed(lambda: native.touch(large)),
        "torch fp32": lambda: _timed(lambda: torch.nn.functional.linear(given, dense)),
        "torch bf16": lambda: _timed(lambda: torch.nn.functional.linear(half_given, half)),
    }
    paths = [path for path in native.paths() if path != "scalar"]
    for path in paths:
        for act in ACTIVATIONS:
            for threads in (1, 2, "1 by the clock") if path == paths[-1] else (1,):
                cases[path, act, threads] = product(path, act, threads)
    times = {case: median(taken) for case, taken in _rounds(cases, options.rounds).items()}
    print(f"- machine: {_cpu()}; Python {platform.python_version()}, torch {torch.__version__}")
    print(f"- {size} x {size}, {PLANES} planes, groups of {GROUP}, {tokens} tokens, one thread")
    same_rate, large_rate = nbytes / times["read, same size"], LARGE / times["read, 512 MiB"]
    print(f"- reading: {same_rate / 1e9:.1f} GB/s from {nbytes / 1e6:.1f} MB, ", end="")
    print(f"{large_rate / 1e9:.1f} GB/s from 512 MiB")
    fp32, bf16 = times["torch fp32"], times["torch bf16"]
    print(f"- torch: fp32 {fp32 * 1e6:.0f} us, bf16 {bf16 * 1e6:.0f} us\n")
    print("| path | act | us | GB/s | of reading | bf16 / it | fp32 / it | error | two threads |")
    print("|" + " --- |" * 9)
    exact = reference.linear(x, trits, scales.astype(np.float32), GROUP)
    for path in paths:
        for act in ACTIVATIONS:
            taken = times[path, act, 1]
            product(path, act, 1)()
            error = np.linalg.norm(y - exact) / np.linalg.norm(exact)
            two, one = times.get((path, act, 2)), times.get((path, act, "1 by the clock"), 0)
            print(
                f"| {path} | {act} | {taken * 1e6:.0f} | {nbytes / taken / 1e9:.1f} "
                f"| {nbytes / taken / same_rate:.0%} | {bf16 / taken:.2f} | {fp32 / taken:.2f} "
                f"| {error:.1e} | {f'{one / two:.2f}' if two else ''} |"
            )
    best = paths[-1]
    bars = [
        ("int8 reads at 65 % of the bandwidth", nbytes / times[best, "int8", 1] / same_rate, 0.65),
        ("int16 reads at 40 %", nbytes / times[best, "int16", 1] / same_rate, 0.40),
        ("int8 is 5 x as fast as bf16", bf16 / times[best, "int8", 1], 5),
        ("int8 is 3 x as fast as fp32", fp32 / times[best, "int8", 1], 3),
        (
            "two threads are 1.8 x one",
            times[best, "int8", "1 by the clock"] / times[best, "int8", 2],
            1.8,
        ),
    ]
    print()
    for text, found, bar in bars:
        print(f"- {'holds' if found >= bar else 'MISSED'}: {best}, {text}; it is {found:.2f}")


def _rounds(cases: dict[object, Callable[[], float]], rounds: int) -> dict[object, list[float]]:
    times: dict[object, list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case, measure in cases.items():
            # Some runs bring what a case reads as near as it gets, for all cases alike.
            taken = [measure() for _ in range(10)]
            times[case] += taken[4:]
    return times


def _timed(run: Callable[[], object]) -> float:
    begin = time.thread_time()
    run()
    return time.thread_time() - begin


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
