"""weightsmith beside the other tools that do the same: one table, with time, memory and exactness.

Usage: peers.py [--work DIR] [--rounds N] [--layers N] [--patience SECONDS] [--only REGEX]

Installs the peers into an environment of their own, writes three checkpoints of 3.0 GB in Llama's
layout and a small pair for timber, measures every tool once a round, compares the results, and
prints Markdown. A peer that cannot be installed keeps its row, and says so. The work directory must
be new or empty, and is removed at the end.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import report
from bench import add_patience, has_room, run_rounds, write_checkpoints
from cases import HERE, Case
from contests import WEIGHTSMITH, Contest, Contests, Tool
from measure import Measurement, environment, remove
from rivals import CALLS, ROOT, install, say

HEAD = (
    "task",
    "tool",
    "runs",
    "wall s (from .. to)",
    "CPU s",
    "peak anon MB",
    "others' CPUs",
    "x weightsmith",
    "exactness",
)
LARGE = ("base", "instruct", "tuned")
SMALL_LAYERS = 30  # of the pair for timber, where the others have 16

Row = tuple[str, ...]


def main() -> None:
    """Measure, and print."""
    options = _options()
    work: Path = options.work.resolve()
    pythons = {peer: install(peer) for peer in CALLS}
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        sys.exit(f"{work} is not empty")
    # Three inputs, four results that stay for the comparison, and one that is being written.
    if not has_room(work, 8, options.layers):
        sys.exit("too little room on the disk")
    rows: list[Row] = [HEAD, ("---",) * len(HEAD)]
    try:
        contests = [
            (contest, chosen)
            for contest in Contests(work, Path(sys.executable), pythons)
            if (chosen := chosen_of(contest, options.only))
        ]
        write_inputs(
            work, {path.name for contest, _ in contests for path in contest.inputs}, options
        )
        for contest, chosen in contests:
            rows += held(contest, chosen, work, options)
    finally:
        remove(work)
    here = next((python for python in pythons.values() if python is not None), None)
    installed = [peer for peer, python in pythons.items() if python is not None]
    print(report.conditions(ROOT, Path(sys.executable)))
    print(report.peer_conditions(here, installed))
    print(f"- commit: {report.commit()}\n")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


def chosen_of(contest: Contest, only: str) -> tuple[Tool, ...]:
    """The tools of a contest that an expression names."""
    return tuple(tool for tool in contest.tools if re.search(only, f"{contest.name}: {tool.name}"))


def write_inputs(work: Path, names: set[str], options: argparse.Namespace) -> None:
    """Write the checkpoints that are needed."""
    write_checkpoints(work, tuple(name for name in LARGE if name in names), options.layers)
    small = sorted(names.difference(LARGE))
    if small:
        say(f"writing {', '.join(small)}")
        layers = max(1, round(options.layers * SMALL_LAYERS / 16))
        command = [sys.executable, HERE / "small_pair.py", *(work / name for name in small)]
        subprocess.run([*command, str(layers)], check=True, env=environment())


def held(
    contest: Contest, chosen: tuple[Tool, ...], work: Path, options: argparse.Namespace
) -> list[Row]:
    """The rows of one contest."""
    cases = {tool: case for tool, case in contest.cases().items() if tool in chosen}
    measured = run_rounds(list(cases.values()), work, options.rounds, options.patience)
    verdicts = judged(contest, [case for case in cases.values() if measured[case]], work)
    remove(work / "results")
    rows = []
    ours: float | None = None
    for tool in chosen:
        runs = measured[cases[tool]] if tool in cases else []
        if tool.name.startswith(WEIGHTSMITH):
            ours = median(run.wall for run in runs) if runs else None
        verdict = verdicts[cases[tool]] if runs else ""
        rows.append((contest.name, *row(tool, runs, ours), verdict))
    return rows


def row(tool: Tool, runs: list[Measurement], ours: float | None) -> Row:
    """What was measured of one tool, beside weightsmith's wall time."""
    if not runs:
        lacking = "could not be installed here" if tool.command is None else "failed"
        return (tool.name, "0", lacking, "", "", "", "")
    ratio = "" if ours is None else f"{median(run.wall for run in runs) / ours:.2f}"
    elsewhere = f"{median(run.elsewhere for run in runs):.1f}"
    return (tool.name, *report.cells(runs), elsewhere, ratio)


def judged(contest: Contest, cases: list[Case], work: Path) -> dict[Case, str]:
    """What the judge says of each result."""
    if not cases:
        return {}
    say(f"comparing the results of {contest.name}")
    script, *arguments = contest.judge
    results = [work / "results" / str(case.keep) for case in cases]
    done = subprocess.run(
        [sys.executable, HERE / script, *arguments, "--", *results],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
    )
    if done.returncode:
        say(done.stderr[-2000:])
        return dict.fromkeys(cases, "could not be checked")
    verdicts = dict(zip(cases, json.loads(done.stdout), strict=True))
    for case, verdict in verdicts.items():
        say(f"  {case.name}: {verdict}")
    return verdicts


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "peers", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=3, help="peers that are slow have fewer")
    parser.add_argument("--layers", type=int, default=16, help="16 layers are 3.0 GB")
    add_patience(parser)
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="rows with this in 'task: tool'"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
