"""All five experiments on tiny models trained for them: results, plots, tables.

    python examples/reproduce/run.py build/reproduce

Three seeds, each with models of its own but for the pretrained one. What is there already is not
done again, so that an interrupted run goes on. Every process has one thread; as many run as there
are processors.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXPERIMENTS = ("shadow_ft", "interpolation", "timber", "trit_planes", "memristors")
SEEDS = ("0", "1", "2")


def run(*command: object) -> None:
    """Run a script of ours in a process of its own."""
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, *map(str, command)]
    subprocess.run(line, check=True, env=one_thread)


def together(commands: Iterable[tuple[object, ...]]) -> None:
    """Run scripts side by side, as many as there are processors."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for done in [pool.submit(run, *command) for command in commands]:
            done.result()


def main() -> None:
    """Train, measure, draw, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path, help="models, results, plots and tables go there")
    work = parser.parse_args().work
    started = time.monotonic()
    tiny = HERE.parent / "trio" / "tiny.py"
    run(tiny, work / "trio", "--seed", SEEDS[0], "--only", "pretrained")
    together((tiny, work / "trio", "--seed", seed) for seed in SEEDS)
    trained = time.monotonic()
    together((HERE / f"{name}.py", work) for name in EXPERIMENTS)
    print(f"training {(trained - started) / 60:.1f} min, ", end="")
    print(f"experiments {(time.monotonic() - trained) / 60:.1f} min")
    for name in EXPERIMENTS:
        print(f"\n## {name}\n\n{(work / name).with_suffix('.md').read_text()}")


if __name__ == "__main__":
    main()
