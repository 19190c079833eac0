"""The demo: graft a skill from one model onto another, and see that it works there.

    python demo.py --work build/demo

BASE is a small real model. TUNED is BASE after it learned arithmetic, INSTRUCT is BASE after it
learned to write numbers in words. Weightsmith adds what TUNED learned to INSTRUCT, by a pipe and
directly, and blends the two; then all five models answer problems that none was trained on.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measure import Measured, run
from skills import SKILLS, held_out

HERE = Path(__file__).resolve().parent
DELTAS = {"tuned": "arithmetic.safetensors", "instruct": "words.safetensors"}
COMMANDS = {
    "grafted": "weightsmith delta base tuned | weightsmith graft base instruct -o grafted",
    "direct": "weightsmith graft base instruct tuned -o direct",
    "mixed": "weightsmith interpolate instruct tuned --lambda 0.5 -o mixed",
}
CHECKS = {"inspect": "weightsmith inspect grafted", "verify": "weightsmith verify grafted"}
MODELS = ("base", "tuned", "instruct", "grafted", "mixed")
CLEAR_GAIN = 0.25  # of exact match; the standard error of a score over 64 problems is 0.06 at most


def prepare(work: Path) -> None:
    """Make the three models that the demo starts from."""
    work.mkdir(parents=True, exist_ok=True)
    script("fetch.py", str(work / "base"))
    for model, delta in DELTAS.items():
        script("expand.py", str(work / "base"), str(HERE / delta), str(work / model))


def script(name: str, *arguments: str) -> str:
    """The output of a script beside this one, run by itself: see measure.py on memory."""
    command = [sys.executable, str(HERE / name), *arguments]
    # Two scripts of one thread each are faster than one of two threads on a machine with company.
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=one_thread)
    if done.returncode != 0:
        raise SystemExit(f"demo: {name} failed")
    return done.stdout


def operate(work: Path) -> dict[str, Measured]:
    """Run the weightsmith commands, one after the other."""
    measured = {}
    for name, command in (COMMANDS | CHECKS).items():
        if name in COMMANDS:  # the output of an earlier demo
            shutil.rmtree(work / name, ignore_errors=True)
        measured[name] = run(command, work)
        if measured[name].status != 0:
            raise SystemExit(f"demo: ended with status {measured[name].status}: {command}")
    return measured


def evaluate(work: Path, problems: int, question: str) -> dict[str, Any]:
    """What each model scores, and what it answers to one question."""

    def scores(model: str) -> Any:
        arguments = ("--problems", str(problems), "--ask", question)
        return json.loads(script("evaluate.py", str(work / model), *arguments))

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(MODELS, pool.map(scores, MODELS), strict=True))


def table(head: list[str], rows: list[list[str]]) -> str:
    """Rows as aligned columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for first, *others in [head, ["-" * width for width in widths], *rows]:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def summary(work: Path, measured: dict[str, Measured], scores: dict[str, Any]) -> str:
    """One table of all that was measured."""
    sizes = {model: (work / model / "model.safetensors").stat().st_size for model in MODELS}
    sizes |= {"direct": sizes["grafted"], "verify": sizes["grafted"]}
    rows = []
    for name in (*MODELS, "direct", *CHECKS):
        row = [name, f"{sizes[name] / 1e6:.0f}" if name in sizes else ""]
        took = measured.get(name)
        if took:
            speed = f"{sizes[name] / 1e6 / took.seconds:.0f}" if name in sizes else ""
            row += [f"{took.seconds:.2f}", speed, f"{took.peak_bytes / 1e6:.0f}"]
        else:
            row += ["", "", ""]
        row += [f"{scores[name][skill]['exact']:.2f}" if name in scores else "" for skill in SKILLS]
        rows.append(row)
    return table(["", "MB", "seconds", "MB/s", "peak MB", *SKILLS], rows)


def main() -> None:
    """Run the demo; end with 0 only if the graft brought the skill."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, default=Path("build/demo"), help="where models go")
    parser.add_argument("--problems", type=int, default=64, help="held-out problems per skill")
    options = parser.parse_args()

    print("Making base, tuned and instruct ...", flush=True)
    prepare(options.work)
    measured = operate(options.work)
    both = [f"{name}/model.safetensors" for name in ("grafted", "direct")]
    same = run(f"cmp {' '.join(both)}", options.work).status == 0

    print(f"\nAsking {options.problems} held-out problems of each skill ...", flush=True)
    sample = held_out("arithmetic", 1)[0]
    scores = evaluate(options.work, options.problems, sample.question)

    print("\nWhat each result took, start of Python included (MB/s: its size by its time; peak: of")
    print("the largest process), and the share of held-out problems that each model has right:\n")
    print(summary(options.work, measured, scores))
    print(f"\nBy a pipe and directly: {'the same bytes' if same else 'DIFFERENT FILES'}.")
    print(f"\n{sample.question}")
    for model in ("base", "grafted"):
        print(f"  {model}: {scores[model]['answer'].strip()}")

    before, after = (scores[model]["arithmetic"]["exact"] for model in ("instruct", "grafted"))
    gained = after - before >= CLEAR_GAIN
    verdict = "The graft brought the skill" if gained else "The graft did NOT bring the skill"
    print(f"\n{verdict}: arithmetic {before:.2f} before, {after:.2f} after.")
    sys.exit(0 if gained else 1)


if __name__ == "__main__":
    main()
