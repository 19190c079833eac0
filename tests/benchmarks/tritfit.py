"""Speed of ptqtp's fits on a whole tensor in memory, beside the paper's algorithm in plain torch.

Usage: tritfit.py [ROUNDS]

The search is what the operator does with a float32 matrix until its packed rows are there, in as
many threads as there are CPUs, each on its own rows. Prints Markdown.
"""

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np
import torch
from weightsmith.kernels.trit_fit import MOST_STARTS

from weightsmith.tritplanes.encoding import TritEncoding
from weightsmith.tritplanes.fit import T_MAX, algorithm1, search
from weightsmith.tritplanes.rows import pack_trits

ROWS, COLUMNS, GROUP = 4096, 4096, 128
PLAIN_ROWS = 128  # the plain form needs so long that a part must do
TIMES_PLAIN = 60


def plain(weights: torch.Tensor) -> None:
    """Algorithm 1 as one writes it in torch: nine distances for each weight, float32."""
    w = weights.reshape(-1, GROUP)
    t1 = torch.where(w < 0, -1.0, 1.0)
    t2, alpha = t1.clone(), torch.ones(len(w), 2)
    pairs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 2)
    for _ in range(T_MAX):
        a11, a22, a12 = (t1 * t1).sum(1) + 1e-3, (t2 * t2).sum(1) + 1e-3, (t1 * t2).sum(1)
        b1, b2 = (t1 * w).sum(1), (t2 * w).sum(1)
        det = a11 * a22 - a12 * a12
        fitted = torch.stack([(a22 * b1 - a12 * b2) / det, (a11 * b2 - a12 * b1) / det], 1)
        moved, alpha = (fitted - alpha).norm(dim=1).max(), fitted
        distance = (w[:, :, None] - (alpha @ pairs.T)[:, None, :]) ** 2
        t1, t2 = pairs[distance.argmin(2)].unbind(-1)
        if moved < 1e-4:
            break


def shared(weights: np.ndarray, planes: int, starts: int | None) -> Callable[[], None]:
    """Search and pack in all CPUs' threads."""
    workers = len(os.sched_getaffinity(0))
    parts = np.array_split(weights, 4 * workers)

    def fit(part: np.ndarray) -> None:
        encoding = TritEncoding(part.shape, "F32", planes, GROUP)
        pack_trits(encoding, search(part, encoding, starts=starts).planes)

    def run() -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(fit, parts))

    return run


def rate(function: Callable[[], object], weights: int, rounds: int) -> tuple[float, float, float]:
    """Median, least and greatest millions of weights a second, after one run that does not count."""
    function()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        function()
        found.append(weights / 1e6 / (time.perf_counter() - started))
    return median(found), min(found), max(found)


def table(rounds: int) -> str:
    """Markdown, and the verdicts on the bars."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    generator = np.random.default_rng(0)
    weights = (generator.standard_normal((ROWS, COLUMNS)) * 0.02).astype(np.float32)
    few = np.ascontiguousarray(weights[:PLAIN_ROWS])
    paper = TritEncoding(weights[: 8 * PLAIN_ROWS].shape, "F32", 2, GROUP)
    cases = {
        "plain torch, Algorithm 1": (lambda: plain(torch.from_numpy(few)), few.size),
        "Algorithm 1, native, one thread": (
            lambda: algorithm1(weights[: 8 * PLAIN_ROWS], paper),
            8 * PLAIN_ROWS * COLUMNS,
        ),
    }
    for planes in (1, 2, 3):
        for starts in (1, None):
            label = "1 start" if starts else f"{MOST_STARTS[planes]} starts"
            cases[f"search, K = {planes}, {label}"] = (
                shared(weights, planes, starts),
                weights.size,
            )
    rates = {name: rate(run, size, rounds) for name, (run, size) in cases.items()}
    lines = ["| fit | million weights/s |", "|---|---|"]
    lines += [f"| {n} | {m:.1f} ({lo:.1f} .. {hi:.1f}) |" for n, (m, lo, hi) in rates.items()]
    base = rates["plain torch, Algorithm 1"][0]
    full = rates[f"search, K = 2, {MOST_STARTS[2]} starts"][0]
    one = rates["search, K = 2, 1 start"][0]
    verdicts = (
        f"search at least 40: {_verdict(full >= 40)}",
        f"one start at least 100: {_verdict(one >= 100)}",
        f"{full / base:.0f} x plain torch, at least {TIMES_PLAIN}: "
        + _verdict(full >= TIMES_PLAIN * base),
    )
    lines += ["", "- " + "; ".join(verdicts)]
    return "\n".join(lines)


def _verdict(kept: bool) -> str:
    return "yes" if kept else "**no**"


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
