"""What the five experiments share: the models, the results on disk, and the command line."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "trio"))

from tiny import RECIPES, make

SEEDS = (0, 1, 2)
Line = dict[str, Any]


class Results:
    """JSON lines in a file: what was asked for, and what was found. No point is measured twice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = []
        if path.exists():
            self.lines = [json.loads(line) for line in path.read_text().splitlines()]

    def find(self, point: Line, measure: Callable[[], Line]) -> Line:
        """The line of a point, measured and appended if it is not there."""
        for line in self.lines:
            if line.items() >= point.items():
                return line
        started = time.monotonic()
        line = point | measure()
        print(f"{self.path.stem}: {point}, {time.monotonic() - started:.1f} s", flush=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)
        return line

    def where(self, **facts: Any) -> list[Line]:
        """The lines with these facts."""
        return [line for line in self.lines if line.items() >= facts.items()]


def command(*arguments: object) -> Any:
    """Run a weightsmith command; its report."""
    line = [str(Path(sys.executable).parent / "weightsmith"), *map(str, arguments), "--json"]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


@contextmanager
def made(operator: Callable[..., Any], *inputs: Path | str, **options: Any) -> Iterator[Path]:
    """The directory that a weightsmith function writes, removed afterwards."""
    with tempfile.TemporaryDirectory() as work:
        target = Path(work) / "made"
        operator(*map(str, inputs), output=str(target), jobs=1, **options)
        yield target


def main(
    name: str,
    run: Callable[[Path, int, Results], None],
    draw: Callable[[Results, Path], None],
    table: Callable[[Results], Iterator[Sequence[str]]],
    described: str,
) -> None:
    """Train what is missing, measure what is missing, draw the plot, write the table."""
    parser = argparse.ArgumentParser(description=described.partition("\n")[0])
    parser.add_argument("work", type=Path, help="models, results and plots go there")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # more spin on such small products
    options.work.mkdir(parents=True, exist_ok=True)
    results = Results(options.work / f"{name}.jsonl")
    for seed in options.seeds:
        for model in RECIPES:
            trained = make(options.work / "trio", model, seed)
        run(trained.parent, seed, results)
    for kind in ("png", "svg"):
        draw(results, options.work / f"{name}.{kind}")
    head, *rows = table(results)
    lines = [head, ["---"] * len(head), *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    (options.work / f"{name}.md").write_text(text + "\n")


def spread(lines: Sequence[Line], of: Callable[[Line], float], digits: int = 3) -> str:
    """Mean and standard deviation over seeds."""
    found = [of(line) for line in lines]
    deviation = stdev(found) if len(found) > 1 else 0
    return f"{mean(found):.{digits}f} ± {deviation:.{digits}f}"
