"""PTQTP: what trit planes cost in perplexity and skill, against stored bits.

    python examples/reproduce/trit_planes.py build/reproduce

One to three planes, three group sizes, the paper's algorithm, our search, and both uses of
statistics; beside them integers, rounded to nearest and with GPTQ's error feedback. Scored on
held-out problems: perplexity of the right replies, and exact match of greedy answers.
"""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

from experiment import SEEDS, Line, Results, command, main, spread
from language import END, asked
from lists import KNOWN, held_out
from lists import draw as draw_problem
from plotting import curve, level, panels
from safetensors.torch import load_file, save_file
from scoring import TOKENIZER, ask, perplexity
from tiny import load

import weightsmith

sys.path.append(str(Path(__file__).resolve().parents[1] / "quantize"))

from integers import GROUP, round_to_nearest, with_feedback

NAME = "trit_planes"
PARENTS = {"instruct": False, "thinking": True}  # and whether it thinks
LENGTHS = (1, 2, 3)
PROBLEMS = 150
OPERATIONS = 3  # of every text to calibrate on: so all are of one length, a window each
TEXTS = 512


@dataclass(frozen=True)
class Way:
    """One way to quantise: `options` of ptqtp, or `bits` of an integer grid."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    bits: int = 0
    calibrated: bool = False


WAYS = [
    *(
        Way(f"search, groups of {size}", {"planes": planes, "group_size": size})
        for size in (32, 64, 128)
        for planes in (1, 2, 3)
    ),
    Way("paper's algorithm, groups of 128", {"planes": 2, "fit": "paper"}),
    *(
        Way("diagonal, groups of 128", {"planes": planes, "stats_use": "diag"}, calibrated=True)
        for planes in (1, 2, 3)
    ),
    *(
        Way("error feedback, groups of 128", {"planes": planes}, calibrated=True)
        for planes in (1, 2, 3)
    ),
    *(Way("integers, nearest", bits=bits) for bits in (2, 3, 4)),
    *(Way("integers, error feedback", bits=bits, calibrated=True) for bits in (2, 3, 4)),
]


def run(trio: Path, seed: int, results: Results) -> None:
    """Every way to quantise the two parents of one seed."""
    with tempfile.TemporaryDirectory() as work:
        for parent, thinking in PARENTS.items():
            model = trio / parent
            point = {"seed": seed, "parent": parent}
            results.find(
                point | {"way": "none"},
                lambda model=model, t=thinking: {"bits": 16} | score(model, t),
            )
            stats = Path(work) / parent
            calibrate(model, stats, thinking, seed)
            for way in WAYS:
                of_way = point | {"way": way.name, "planes": way.options.get("planes", way.bits)}
                results.find(
                    of_way, lambda m=model, s=stats, w=way, t=thinking: quantised(m, s, w, t)
                )


def quantised(model: Path, stats: Path, way: Way, thinking: bool) -> Line:
    """The bits and the score of a model, quantised in one way."""
    make = integers if way.bits else trits
    with make(model, stats, way) as (bits, directory):
        return {"bits": bits} | score(directory, thinking)


def score(directory: Path, thinking: bool) -> Line:
    """Perplexity of the right replies, and greedy exact match by the number of operations."""
    model = load(directory)
    problems = {length: held_out(length, PROBLEMS) for length in LENGTHS}
    replies = [problem for of_length in problems.values() for problem in of_length]
    return {
        "perplexity": perplexity(model, replies, thinking=thinking),
        "right": {str(length): ask(model, found)["mean"] for length, found in problems.items()},
    }


def calibrate(model: Path, stats: Path, thinking: bool, seed: int) -> None:
    """Statistics of the model at work on training problems, each text in a window of its own."""
    random = Random(f"calibrate {seed}")  # noqa: S311 - not for secrets
    problems = [draw_problem(random, (OPERATIONS,), KNOWN) for _ in range(TEXTS)]
    examples = [asked(problem, thinking=thinking) for problem in problems]
    # calibrate puts the end token behind every document itself.
    texts = [example.prompt + example.reply.removesuffix(END) for example in examples]
    window = len(TOKENIZER(texts[0])["input_ids"]) + 1
    file = stats.with_suffix(".jsonl")
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    command("calibrate", model, file, "--window", window, "--tokens", window * TEXTS, "-o", stats)


@contextmanager
def trits(model: Path, stats: Path, way: Way) -> Iterator[tuple[float, Path]]:
    """Stored bits per linear weight, and a dense model of what the trit planes stand for."""
    options = way.options | ({"stats": str(stats)} if way.calibrated else {})
    options["planes"] = str(options["planes"])
    with tempfile.TemporaryDirectory() as work:
        target = Path(work) / "dense"
        packed = weightsmith.ptqtp(str(model), output=str(target), dry_run=True, **options)
        (bits,) = re.findall(r"stored at ([\d.]+) bits", "\n".join(packed.summary))
        weightsmith.ptqtp(str(model), output=str(target), format="dense", jobs=1, **options)
        yield float(bits), target


@contextmanager
def integers(model: Path, stats: Path, way: Way) -> Iterator[tuple[float, Path]]:
    """Bits with a step and a zero point of 16 bits a group, and the model on integer grids."""
    hessians = load_file(stats / "hessians.safetensors")
    metadata = command("inspect", stats)["metadata"]
    index = json.loads(metadata["weightsmith.hessians"])["weights"]
    with tempfile.TemporaryDirectory() as work:
        target = Path(work) / "dense"
        shutil.copytree(model, target)
        tensors = load_file(model / "model.safetensors")
        for name in index:
            weights = tensors[name].float()
            if way.calibrated:
                weights = with_feedback(weights, hessians[index[name]], way.bits)
            else:
                weights = round_to_nearest(weights, way.bits)
            tensors[name] = weights.to(tensors[name].dtype).contiguous()
        save_file(tensors, target / "model.safetensors", {"format": "pt"})
        yield way.bits + 2 * 16 / GROUP, target


def draw(results: Results, target: Path) -> None:
    """Perplexity and exact match over bits, for both parents."""
    title = "Trit planes and integers against stored bits; mean and range over seeds"
    with panels(target, 2 * len(PARENTS), title) as axes:
        for parent, (left, right) in zip(PARENTS, (axes[:2], axes[2:]), strict=True):
            for way in dict.fromkeys(way.name for way in WAYS):
                lines = results.where(parent=parent, way=way)
                curve(left, lines, "bits", lambda line: line["perplexity"], label=way)
                curve(right, lines, "bits", percent, label=way)
            whole = results.where(parent=parent, way="none")
            level(left, whole, lambda line: line["perplexity"], color="black", label=parent)
            level(right, whole, percent, color="black", label=parent)
            left.set_yscale("log")
            left.set_ylabel("perplexity of the right replies")
            right.set_ylabel("right answers, % (greedy)")
            left.set_title(parent)
            right.set_title(parent)
            for each in (left, right):
                each.set_xlabel("stored bits per linear weight")
        axes[0].legend(fontsize=7)


def table(results: Results) -> Iterator[list[str]]:
    """Bits, perplexity and exact match of both parents, quantised in every way."""
    cells = [f"{parent}: {what}" for parent in PARENTS for what in ("perplexity", "right, %")]
    yield ["way", "planes or bits", "stored bits", *cells]
    for line in results.where(seed=SEEDS[0], parent="instruct"):
        way = {key: line[key] for key in ("way", "planes") if key in line}
        row = [line["way"], str(line.get("planes", "")), f"{line['bits']:.2f}"]
        for parent in PARENTS:
            lines = results.where(parent=parent, **way)
            row += [spread(lines, itemgetter("perplexity")), spread(lines, percent, 1)]
        yield row


def percent(line: Line) -> float:
    """The share of right answers over all numbers of operations, in %."""
    return 100 * mean(line["right"].values())


if __name__ == "__main__":
    main(NAME, run, draw, table, __doc__)
