"""Speed and memory of weightsmith, with cp and the peers in the same run.

Usage: bench.py [--work DIR] [--rounds N] [--patience SECONDS] [--no-large] [--no-peer] [--only REGEX]

Writes three checkpoints of 3.0 GB in Llama's layout, measures every case once a round, does the
graft again at three times the size, counts wrong elements, runs the benchmarks of single parts
(PARTS, which also run alone), and prints Markdown. No bar is an assertion. The work directory must
be new or empty, and is removed at the end.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import report
from cases import HERE, LAMBDA, LARGE, Case, large_case, small_cases
from measure import CommandFailed, Measurement, environment, evict, measure, prepare, remove
from rivals import ROOT, install, say

LARGE_ROUNDS = 3
# Single parts: timber on a matrix and the fits of ptqtp, in memory; chains, on files of their own.
PARTS = ("decomposition.py", "tritfit.py", "chains.py")
LAYERS_FACTOR = (
    65 / 16
)  # the embeddings do not grow: this makes the checkpoint three times as large


def main() -> None:
    """Measure, and print."""
    options = _options()
    work: Path = options.work.resolve()
    python = Path(sys.executable)
    peer = None if options.no_peer else install("mergekit")
    before = report.commit()
    measured: dict[Case, list[Measurement]] = {}
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        sys.exit(f"{work} is not empty")
    # Three inputs, three results that stay for the comparison, and one that is being written.
    if not has_room(work, 7, options.layers):
        sys.exit("too little room on the disk")
    try:
        mergekit = peer.parent / "mergekit-yaml" if peer else None
        every = small_cases(work, python, mergekit)
        cases = [case for case in every if re.search(options.only, case.name)]
        with_large = not options.no_large and re.search(options.only, LARGE)
        needed = {path.name for case in cases for path in case.inputs}
        write_checkpoints(work, tuple(sorted(needed)), options.layers)
        measured |= run_rounds(cases, work, options.rounds, options.patience)
        wrong = exactness(work, cases) if any(case.keep for case in cases) else ""
        if with_large:
            measured |= run_large(work / "large", python, options)
        scripts = [script for script in PARTS if re.search(options.only, script)]
        parts = [alone(script, min(LARGE_ROUNDS, options.rounds)) for script in scripts]
    finally:
        remove(work)
    results = report.Results(measured)
    after = report.commit()
    print(report.conditions(ROOT, python))
    print(report.peer_conditions(peer, ["mergekit"]))
    print(f"- commit: {before}" + ("" if after == before else f", at the end {after}"))
    print(f"\n{results.table()}\n\n{results.verdicts()}\n\n{wrong}\n\n" + "\n\n".join(parts))


def has_room(directory: Path, copies: int, layers: int) -> bool:
    """Whether so many checkpoints of this depth fit on the disk, with 2 GB to spare."""
    needed = copies * (1.051e9 + 0.1217e9 * layers) + 2e9
    free = shutil.disk_usage(directory).free
    if free < needed:
        say(f"{free / 1e9:.0f} GB of disk are free, {needed / 1e9:.0f} GB are needed")
    return free >= needed


def write_checkpoints(work: Path, names: tuple[str, ...], layers: int) -> None:
    """Write checkpoints that differ in their seeds, each in a process of its own."""
    for seed, name in enumerate(names):
        say(f"writing {work / name}")
        remove(work / name)
        script = HERE / "synthetic.py"
        subprocess.run(
            [sys.executable, script, work / name, str(layers), str(seed + 1)], check=True
        )


def run_rounds(
    cases: list[Case], work: Path, rounds: int, patience: float
) -> dict[Case, list[Measurement]]:
    """Measure every case once a round; each round begins with another case.

    The first command of a round may find less free memory than those after it.
    """
    measured: dict[Case, list[Measurement]] = {case: [] for case in cases}
    target = work / "target"
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}")
        first = number * len(cases) // rounds
        for case in cases[first:] + cases[:first]:
            if case.rounds is not None and number >= case.rounds:
                continue
            stdout = target if case.redirect else None
            try:
                prepare(target, case.inputs, case.rehearsal, work / "log", patience)
                run = measure(case.pipeline, stdout, work / "log")
            except CommandFailed as error:
                say(str(error))
                continue
            measured[case].append(run)
            say(f"  {case.name}: {run.wall:.3f} s, {run.anonymous / 1e6:.0f} MB anonymous")
            if case.keep is not None:
                remove(work / "results" / case.keep)
                (work / "results").mkdir(exist_ok=True)
                target.rename(work / "results" / case.keep)
                evict(work / "results" / case.keep)
    remove(target)
    return measured


def run_large(
    work: Path, python: Path, options: argparse.Namespace
) -> dict[Case, list[Measurement]]:
    """Measure the large graft; its instruct is its tuned, which spares a third of the reading."""
    for directory in work.parent.iterdir():
        remove(directory)
    layers = round(options.layers * LAYERS_FACTOR)
    if not has_room(work.parent, 3, layers):
        say("the large checkpoints are left out")
        return {}
    write_checkpoints(work, ("base", "tuned"), layers)
    (work / "instruct").symlink_to("tuned")
    rounds = min(LARGE_ROUNDS, options.rounds)
    return run_rounds([large_case(work, python)], work, rounds, options.patience)


def exactness(work: Path, cases: list[Case]) -> str:
    """How many elements of each blend are not float32 arithmetic rounded once."""
    kept = [case.keep for case in cases if case.keep and (work / "results" / case.keep).exists()]
    say(f"comparing {', '.join(kept)} with float32 arithmetic rounded once")
    arguments = [work / "base", work / "instruct", LAMBDA]
    arguments += [work / "results" / name for name in kept]
    done = subprocess.run(
        [sys.executable, HERE / "exactness.py", *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return f"Exactness could not be checked: {done.stderr[-2000:]}"
    lines = [
        f"- {name}: {100 * share:.4f} % of the elements differ from float32 arithmetic rounded once"
        for name, share in zip(kept, json.loads(done.stdout), strict=True)
    ]
    return "\n".join(lines)


def alone(script: str, rounds: int) -> str:
    """What a benchmark of one part prints, which runs in a process of its own."""
    say(script)
    done = subprocess.run(
        [sys.executable, HERE / script, str(rounds)],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
    )
    return done.stdout if done.returncode == 0 else f"{script} failed: {done.stderr[-2000:]}"


def add_patience(parser: argparse.ArgumentParser) -> None:
    """An option of all that calls run_rounds."""
    parser.add_argument(
        "--patience",
        type=float,
        default=0,
        metavar="SECONDS",
        help="before each measurement, wait at most so long for other programs to be idle",
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=16, help="16 layers are 3.0 GB")
    add_patience(parser)
    parser.add_argument("--no-large", action="store_true", help="leave out the 9 GB checkpoints")
    parser.add_argument("--no-peer", action="store_true", help="leave out mergekit")
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="cases and parts with this in their names"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
