"""Memristors: noise, copies and depth, for answers at once and answers with steps.

    python examples/reproduce/memristors.py build/reproduce

Every linear weight with gaussian programming noise of sigma; then with 4 copies of the first, the
middle or the last third of the layers, or of all. Exact match of greedy answers of instruct, which
answers at once, and of thinking. The noise formula is ours: the paper's is not known to us.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from experiment import Line, Results, made, main, spread
from lists import held_out
from plotting import curve, panels
from scoring import ask
from tiny import load

import weightsmith

NAME = "memristors"
SIGMAS = (0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08)
CHIPS = 2  # for every seed of the models
PARENTS = ("instruct", "thinking")
LENGTHS = (1, 2, 3)
PROBLEMS = 100
COPIES = 4
COPIED = {"none": "", "shallow": "0-1", "middle": "2-3", "deep": "4-5", "all": "0-5"}


def run(trio: Path, seed: int, results: Results) -> None:
    """Every noise and every placement of copies on a few chips, for the models of one seed."""
    for parent in PARENTS:
        for sigma in SIGMAS:
            for copied, layers in COPIED.items() if sigma else [("none", "")]:
                for chip in range(CHIPS if sigma else 1):
                    point: Line = {"seed": seed, "chip": chip, "parent": parent}
                    point |= {"sigma": sigma, "copied": copied}
                    options: Any = {"sigma": sigma, "seed": CHIPS * seed + chip}
                    if layers:
                        options |= {"copies": COPIES, "copies_layers": layers}
                    results.find(point, lambda p=parent, o=options: score(trio / p, o))


def score(model: Path, options: dict[str, Any]) -> Line:
    """Exact match on one chip, by the number of operations; with the length of answers."""
    with made(weightsmith.memristor, model, device="gaussian", **options) as noisy:
        loaded = load(noisy)
    found = {length: ask(loaded, held_out(length, PROBLEMS)) for length in LENGTHS}
    return {
        "right": {str(length): one["mean"] for length, one in found.items()},
        "tokens": {str(length): one["tokens"] for length, one in found.items()},
    }


def draw(results: Results, target: Path) -> None:
    """Exact match over sigma: thinking against direct, and where copies help."""
    title = "Noise on memristors; mean and range over seeds and chips"
    with panels(target, 4, title) as (once, *others):
        for parent in PARENTS:
            lines = results.where(parent=parent, copied="none")
            curve(once, lines, "sigma", percent, label=parent)
        once.set_title("no copies")
        once.set_ylabel("right answers, % (greedy)")
        once.legend(fontsize=8)
        relative, *copies = others
        for parent in PARENTS:
            clean = {line["seed"]: percent(line) for line in results.where(parent=parent, sigma=0)}
            curve(
                relative,
                results.where(parent=parent, copied="none"),
                "sigma",
                lambda line, clean=clean: percent(line) / (clean[line["seed"]] or math.nan),
                label=parent,
            )
        relative.set_title("no copies, relative to no noise")
        relative.set_ylabel("right answers, of those without noise")
        for axes, parent in zip(copies, PARENTS, strict=True):
            for copied in COPIED:
                lines = results.where(parent=parent, copied=copied)
                lines += [] if copied == "none" else results.where(parent=parent, sigma=0)
                curve(axes, lines, "sigma", percent, label=copied)
            axes.set_title(f"{parent}: {COPIES} copies of")
            axes.legend(fontsize=8)
        for axes in (once, *others):
            axes.set_xlabel("sigma, relative to the range")


def table(results: Results) -> Iterator[list[str]]:
    """Right answers in %, by parent and copies; a column for each sigma."""
    yield ["model", f"{COPIES} copies of", *(f"sigma {sigma:g}" for sigma in SIGMAS)]
    for parent in PARENTS:
        for copied in COPIED:
            row = [parent, copied]
            for sigma in SIGMAS:
                lines = results.where(
                    parent=parent, sigma=sigma, copied=copied if sigma else "none"
                )
                row.append(spread(lines, percent, 1))
            yield row


def percent(line: Line) -> float:
    """The share of right answers over all numbers of operations, in %."""
    return 100 * mean(line["right"].values())


if __name__ == "__main__":
    main(NAME, run, draw, table, __doc__)
