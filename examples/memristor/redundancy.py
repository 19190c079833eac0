"""Does redundancy help most in shallow layers? Perplexity against noise, copies and depth.

    python examples/memristor/redundancy.py MODEL TEXT build/redundancy.jsonl --plot out.svg

For each noise level and seed, `weightsmith sweep` scores the model with every weight held once, and
with 2 or 4 copies of the first, middle or last third of its layers. Its lines are kept in a file;
what is there is not computed again, so a run can be broken off and gone on with. At the end, a
table in Markdown. On SmolLM2-135M a line takes about 10 seconds on two cores.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

SIGMAS = (0.01, 0.02, 0.04)
COPIES = (2, 4)
THIRDS = ("shallow", "middle", "deep")
TOKENS = 4096
Line = dict[str, Any]


def thirds(model: Path) -> dict[str, str]:
    """Ranges of layers by name."""
    layers = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    ends = [round(layers * part / 3) for part in range(4)]
    return {name: f"{ends[i]}-{ends[i + 1] - 1}" for i, name in enumerate(THIRDS)}


def sweeps(model: Path, seeds: int) -> Iterator[list[str]]:
    """The axes of each sweep: the clean model, then every seed and noise."""
    yield ["sigma=0", "seed=0", "copies=1"]
    for sigma in reversed(SIGMAS):
        for seed in range(seeds):
            common = [f"sigma={sigma}", f"seed={seed}"]
            yield [*common, "copies=1"]
            copies = ",".join(map(str, COPIES))
            yield [*common, f"copies={copies}", f"copies-layers={','.join(thirds(model).values())}"]


def is_done(axes: list[str], lines: Sequence[Line]) -> bool:
    """Whether the lines of a sweep are all there."""
    given = {name: values.split(",") for name, _, values in (axis.partition("=") for axis in axes)}
    wanted = 1
    for values in given.values():
        wanted *= len(values)
    found = [
        line
        for line in lines
        if ("copies-layers" in line) == ("copies-layers" in given)
        and all(str(line[name]) in values for name, values in given.items())
    ]
    return len(found) == wanted


def values(lines: Sequence[Line], sigma: float, copies: int, layers: str | None) -> list[float]:
    """Perplexities of all seeds."""
    return [
        line["perplexity"]
        for line in lines
        if (line["sigma"], line["copies"], line.get("copies-layers")) == (sigma, copies, layers)
    ]


def table(lines: Sequence[Line], where: dict[str, str]) -> Iterator[str]:
    """Mean and standard deviation over seeds, by noise; a row for each setting."""
    (clean,) = values(lines, 0, 1, None)
    yield f"Without noise: {clean:.2f}\n"
    yield "| copies | of layers | " + " | ".join(f"sigma {sigma}" for sigma in SIGMAS) + " |"
    yield "|---|---|" + "---|" * len(SIGMAS)
    rows = [("1", "all", [values(lines, sigma, 1, None) for sigma in SIGMAS])]
    for copies in COPIES:
        for name, layers in where.items():
            cells = [values(lines, sigma, copies, layers) for sigma in SIGMAS]
            rows.append((str(copies), f"{name}, {layers}", cells))
    for copies, name, cells in rows:
        yield f"| {copies} | {name} | " + " | ".join(map(shown, cells)) + " |"


def shown(found: Sequence[float]) -> str:
    """Mean and standard deviation; of a single seed, the value alone."""
    if len(found) < 2:
        return f"{found[0]:.2f} (one seed)" if found else "-"
    return f"{mean(found):.2f} ± {stdev(found):.2f}"


def draw(lines: Sequence[Line], where: dict[str, str], target: Path) -> None:
    """Perplexity over noise, a panel for each number of copies; seeds as a band."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    (clean,) = values(lines, 0, 1, None)
    with mpl.rc_context({"svg.hashsalt": "weightsmith", "font.size": 9}):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        panels = figure.subplots(1, len(COPIES), sharey=True)
        for axes, copies in zip(panels, COPIES, strict=True):
            curves: dict[str, tuple[int, str | None]] = {"no copies": (1, None)}
            curves |= {name: (copies, layers) for name, layers in where.items()}
            for label, (number, layers) in curves.items():
                of_sigma = {sigma: values(lines, sigma, number, layers) for sigma in SIGMAS}
                at = [0.0, *(sigma for sigma in SIGMAS if of_sigma[sigma])]
                found = [[clean], *(v for v in of_sigma.values() if v)]
                (curve,) = axes.plot(at, [mean(v) for v in found], marker=".", label=label)
                low, high = ([end(v) for v in found] for end in (min, max))
                axes.fill_between(at, low, high, color=curve.get_color(), alpha=0.2)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.set_title(f"{copies} copies of a third of the layers")
            axes.set_xlabel("sigma, relative to the range")
            axes.grid(visible=True, which="both", linewidth=0.3)
        panels[0].set_ylabel("perplexity")
        panels[0].legend()
        figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else {}, dpi=150)


def main() -> None:
    """Compute what is missing, then show all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9, help="break off after so long")
    options = parser.parse_args()
    where = thirds(options.model)
    deadline = time.monotonic() + 60 * options.minutes
    lines: list[Line] = []
    if options.results.exists():
        lines = [json.loads(line) for line in options.results.read_text().splitlines()]
    for axes in sweeps(options.model, options.seeds):
        if is_done(axes, lines):
            continue
        if time.monotonic() > deadline:
            print(*table(lines, where), sep="\n")
            sys.exit("broken off; the same command goes on")
        command: list[Any] = [
            Path(sys.executable).parent / "weightsmith",
            "sweep",
            "memristor",
            options.model,
            *axes,
        ]
        command += ["--perplexity", options.text, "--tokens", str(TOKENS)]
        command += ["--jobs", str(options.jobs)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        with options.results.open("a") as file:
            file.write(done.stdout)
        lines += [json.loads(line) for line in done.stdout.splitlines()]
    print(*table(lines, where), sep="\n")
    if options.plot is not None:
        draw(lines, where, options.plot)


if __name__ == "__main__":
    main()
