"""Medians, ratios and bars, as Markdown."""

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cases
from cases import Case
from measure import Measurement

HEAD = (
    "what",
    "runs",
    "wall s (from .. to)",
    "CPU s",
    "peak anon MB",
    "max RSS MB",
    "others' CPUs",
    "x cp",
    "x cp + sync",
    "mergekit / it",
    "MI / it",
    "bars",
)


@dataclass(frozen=True)
class Verdict:
    """Whether one bar holds.

    Attributes:
        holds: it does.
        bar: what was to be kept.
        found: what was measured.
    """

    holds: bool
    bar: str
    found: str


class Results:
    """All measurements of one run, by case."""

    def __init__(self, measured: Mapping[Case, Sequence[Measurement]]) -> None:
        self._measured = {case: runs for case, runs in measured.items() if runs}
        self._walls = {
            case.name: median(run.wall for run in runs) for case, runs in self._measured.items()
        }

    def table(self) -> str:
        """One row for each case."""
        rows = [self._row(case, runs) for case, runs in self._measured.items()]
        lines = [HEAD, ["---"] * len(HEAD), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def verdicts(self) -> str:
        """One line for each bar, those that do not hold first."""
        lines = [
            f"- {'holds' if verdict.holds else '**does not hold**'}: {case.name}: {verdict.bar}; "
            f"it is {verdict.found}"
            for case in self._measured
            for verdict in self._verdicts(case)
        ]
        return "\n".join(sorted(lines, key=lambda line: line.startswith("- holds")))

    def _row(self, case: Case, runs: Sequence[Measurement]) -> list[str]:
        is_peer = case.name == cases.PLAIN or case.name.startswith("mergekit")
        bars = ", ".join(
            f"{verdict.bar}: {'yes' if verdict.holds else '**no**'}"
            for verdict in self._verdicts(case)
        )
        return [
            case.name,
            *cells(runs),
            f"{max(run.resident for run in runs) / 1e6:.0f}",
            f"{median(run.elsewhere for run in runs):.1f}",
            _shown(self._to_copy(case, cases.COPY)),
            _shown(self._to_copy(case, cases.SYNCED)),
            "" if is_peer else _shown(self._speedup(case, case.bars.peer)),
            "" if is_peer else _shown(self._speedup(case, cases.PLAIN)),
            bars,
        ]

    def _verdicts(self, case: Case) -> Iterator[Verdict]:
        bars = case.bars
        if bars.copy is not None and bars.against is not None:
            ratio = self._to_copy(case, bars.against)
            if ratio is not None:
                bar = f"at most {bars.copy} x {bars.against}"
                yield Verdict(ratio <= bars.copy, bar, f"{ratio:.2f} x")
        for peer, factor in ((bars.peer, bars.mergekit), (cases.PLAIN, bars.plain)):
            speedup = self._speedup(case, peer)
            if factor is not None and speedup is not None:
                bar = f"at least {factor:g} x as fast as {peer}"
                yield Verdict(speedup >= factor, bar, f"{speedup:.1f} x")
        if bars.normal is not None and (ratio := self._to_normal(case)) is not None:
            bar = f"at most {bars.normal:g} x the time of torch's normal_ for each draw"
            yield Verdict(ratio <= bars.normal, bar, f"{ratio:.2f} x")
        if bars.wall is not None:
            wall = self._walls[case.name]
            bar = f"under {bars.wall * 1000:.0f} ms"
            yield Verdict(wall < bars.wall, bar, f"{wall * 1000:.0f} ms")
        if bars.anonymous is not None:
            peak = self._peak(case)
            bar = f"under {bars.anonymous / 1e6:.0f} MB anonymous"
            yield Verdict(peak < bars.anonymous, bar, f"{peak / 1e6:.0f} MB")
        if case.name == cases.LARGE and (growth := self._growth(case)) is not None:
            bar = f"anonymous memory within 10 % of {cases.SMALL}"
            yield Verdict(growth <= 1.1, bar, f"{growth:.3f} of it")

    def _growth(self, large: Case) -> float | None:
        small = next((case for case in self._measured if case.name == cases.SMALL), None)
        return self._peak(large) / self._peak(small) if small else None

    def _peak(self, case: Case) -> int:
        return max(run.anonymous for run in self._measured[case])

    def _to_copy(self, case: Case, copy: str) -> float | None:
        """Wall time without start-up, in that of a copy; for the work that this copy is like."""
        if case.bars.against != copy or copy not in self._walls:
            return None
        startup = self._walls.get(case.startup, 0.0) if case.startup else 0.0
        return (self._walls[case.name] - startup) / self._walls[copy]

    def _to_normal(self, case: Case) -> float | None:
        """Wall time for each draw in that of torch's, both without start-up."""
        if cases.NORMAL not in self._walls:
            return None
        drawing = self._walls[cases.NORMAL] - self._walls.get(cases.START_NORMAL, 0.0)
        startup = self._walls.get(case.startup, 0.0) if case.startup else 0.0
        return (self._walls[case.name] - startup) / (drawing * case.bars.draws)

    def _speedup(self, case: Case, peer: str) -> float | None:
        if case.bars.mergekit is None or peer not in self._walls:
            return None
        return self._walls[peer] / self._walls[case.name]


def cells(runs: Sequence[Measurement]) -> list[str]:
    """How many runs, their median wall time with the extremes, median CPU time, greatest memory."""
    walls = [run.wall for run in runs]
    return [
        str(len(runs)),
        f"{median(walls):.3f} ({min(walls):.3f} .. {max(walls):.3f})",
        f"{median(run.cpu for run in runs):.2f}",
        f"{max(run.anonymous for run in runs) / 1e6:.0f}",
    ]


def conditions(work: Path, python: Path) -> str:
    """The machine and the versions."""
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    filesystem = _output("df", "--output=fstype", str(work)).split()[-1]
    cores = len(os.sched_getaffinity(0))
    own = _versions(python, ("weightsmith", "numpy", "torch", "safetensors"))
    machine = f"{cpu}, {cores} cores, {memory:.0f} GiB; Linux {platform.release()}; {filesystem}"
    return f"- machine: {machine}\n- versions: Python {platform.python_version()}, {own}"


def peer_conditions(peer: Path | None, peers: Sequence[str]) -> str:
    """The versions in the environment of the peers, whose Python this is."""
    theirs = _versions(peer, (*peers, "torch", "transformers")) if peer else "missing"
    return f"- environment of {', '.join(peers)}: {theirs}"


def commit() -> str:
    """The commit that is checked out, and whether tracked files of the package differ from it."""
    here = str(Path(__file__).resolve().parent)
    changed = _output("git", "-C", here, "status", "--porcelain", ":/weightsmith", ":/kernels")
    name = _output("git", "-C", here, "rev-parse", "--short", "HEAD").strip()
    return (name or "unknown") + (" with changes" if changed.strip() else "")


def _versions(python: Path, names: Sequence[str]) -> str:
    code = "import importlib.metadata as m, sys; [print(n, m.version(n)) for n in sys.argv[1:]]"
    return ", ".join(_output(str(python), "-c", code, *names).splitlines())


def _output(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


def _shown(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"
