"""Chains against the same commands joined by pipes, on 3 GB checkpoints: time, memory, every byte.

Usage: chains.py [ROUNDS] [--work DIR] [--layers N] [--patience SECONDS]

Writes three checkpoints in Llama's layout, runs pipe and chain in turn, compares their results, and
prints Markdown. The work directory must be new or empty, and is removed at the end.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from filecmp import cmp
from pathlib import Path
from statistics import median

import report
from measure import Measurement, measure, prepare, remove

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TOOL = Path(sys.executable).parent / "weightsmith"
HEAD = ("what", "runs", "wall s (from .. to)", "CPU s", "peak anon MB", "others' CPUs")
# Of its pipe: wall time and processor time that a chain may take.
WALL, CPU = 1.0, 0.7
CHAINS = (
    ("delta base tuned", "graft base instruct -", "interpolate tuned - --lambda 0.8"),
    ("graft base instruct tuned", "interpolate base - --lambda 0.5", "cat - --dtype float16"),
)


def main() -> None:
    """Measure, and print."""
    options = _options()
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        sys.exit(f"{work} is not empty")
    try:
        _write(work, options.layers)
        print(report.conditions(ROOT, Path(sys.executable)))
        print(
            f"- commit: {report.commit()}; medians of {options.rounds}, load "
            f"{os.getloadavg()[0]:.1f} at the start"
        )
        rows, verdicts = [HEAD, ("---",) * len(HEAD)], []
        for links in CHAINS:
            runs, same = _in_turn(links, work, options.rounds, options.patience)
            rows += [_row(name, each) for name, each in runs.items()]
            verdicts += _verdicts(*runs.values(), same)
    finally:
        remove(work)
    print("\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
    print("\n" + "\n".join(verdicts))


def _write(work: Path, layers: int) -> None:
    needed = 5 * (1.051e9 + 0.1217e9 * layers) + 2e9
    if shutil.disk_usage(work).free < needed:
        sys.exit(f"{needed / 1e9:.0f} GB of disk are needed")
    for seed, name in enumerate(("base", "tuned", "instruct"), 1):
        script = [sys.executable, HERE / "synthetic.py", work / name, str(layers), str(seed)]
        subprocess.run(script, check=True)


def _in_turn(
    links: Sequence[str], work: Path, rounds: int, patience: float
) -> tuple[dict[str, list[Measurement]], bool]:
    """Measure pipe and chain, whoever is first in turn; and whether their results are the same."""
    inputs = [work / name for name in ("base", "tuned", "instruct")]
    commands = [_words(link, work) for link in links]
    joined = [word for words in commands for word in ("then", *words)][1:]
    shown = [link.split(maxsplit=1)[0] for link in links]
    ways = {
        " \\| ".join(shown): [(TOOL, *words, "-q") for words in commands],
        " then ".join(shown): [(TOOL, *commands[0], "-q", *joined[len(commands[0]) :])],
    }
    runs: dict[str, list[Measurement]] = {name: [] for name in ways}
    targets = {name: work / f"result-{number}" for number, name in enumerate(ways)}
    for number in range(rounds):
        order = list(ways)[:: -1 if number % 2 else 1]
        for name in order:
            prepare(targets[name], inputs, (TOOL, "--help"), work / "log", patience)
            runs[name].append(measure(ways[name], targets[name], work / "log"))
    same = cmp(*targets.values(), shallow=False)
    for target in targets.values():
        remove(target)
    return runs, same


def _words(link: str, work: Path) -> tuple[str, ...]:
    names = {"base", "tuned", "instruct"}
    return tuple(str(work / word) if word in names else word for word in link.split())


def _row(name: str, runs: Sequence[Measurement]) -> tuple[str, ...]:
    return (name, *report.cells(runs), f"{median(run.elsewhere for run in runs):.1f}")


def _verdicts(pipe: Sequence[Measurement], chain: Sequence[Measurement], same: bool) -> list[str]:
    wall = median(run.wall for run in chain) / median(run.wall for run in pipe)
    cpu = median(run.cpu for run in chain) / median(run.cpu for run in pipe)
    return [
        f"- {'holds' if holds else '**does not hold**'}: {what}"
        for holds, what in (
            (same, "the chain's result has the bytes of the pipe's"),
            (wall <= WALL, f"at most {WALL} x the pipe's wall time; it is {wall:.2f} x"),
            (cpu <= CPU, f"at most {CPU} x the pipe's processor time; it is {cpu:.2f} x"),
        )
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("rounds", type=int, nargs="?", default=3)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "chains", metavar="DIR")
    parser.add_argument("--layers", type=int, default=16, help="16 layers are 3.0 GB")
    parser.add_argument("--patience", type=float, default=0, metavar="SECONDS")
    return parser.parse_args()


if __name__ == "__main__":
    main()
