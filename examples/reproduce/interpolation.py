"""Model interpolation: from answers at once to answers with steps, by lambda.

    python examples/reproduce/interpolation.py build/reproduce

(1 - lambda) instruct + lambda thinking, as in arXiv 2510.10977: how many answers have thoughts, how
long they are, Mean@k and Pass@k; then lambda 0.8 in some layers or modules only, the rest instruct.
Drawn at temperature 0.6 and top-p 0.95, as in the paper.
"""

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from experiment import SEEDS, Line, Results, made, main, spread
from lists import held_out
from plotting import curve, panels
from sampling import Decoding
from scoring import ask
from tiny import load

import weightsmith

NAME = "interpolation"
LAMBDAS = (0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1)
SAMPLES = 16
DECODING = Decoding(temperature=0.6, top_p=0.95)
PROBLEMS = [problem for length in (2, 3, 4) for problem in held_out(length, 40)]
LAYERS = ("0..1", "2..3", "4..5", "0..3", "2..5")
# Of lambda 0.8, what is left at instruct.
WITHOUT = {"attention": "*.self_attn.*=0", "MLP": "*.mlp.*=0"}


def run(trio: Path, seed: int, results: Results) -> None:
    """Every lambda, and every ablation, of one seed."""
    ablations = {f"layers {layers}": ["0", f"*.layers.{{{layers}}}.*=0.8"] for layers in LAYERS}
    ablations |= {f"without {name}": ["0.8", pattern] for name, pattern in WITHOUT.items()}
    for value in LAMBDAS:
        point = {"seed": seed, "part": "all", "lambda": value}
        results.find(point, lambda value=value: score(trio, seed, [str(value)]))
    for part, lam in ablations.items():
        point = {"seed": seed, "part": part, "lambda": 0.8}
        results.find(point, lambda lam=lam: score(trio, seed, lam))


def score(trio: Path, seed: int, lam: list[str]) -> Line:
    """What a blend does."""
    with made(weightsmith.interpolate, trio / "instruct", trio / "thinking", lam=lam) as merged:
        model = load(merged)
        return ask(model, PROBLEMS, samples=SAMPLES, seed=seed, decoding=DECODING)


def draw(results: Results, target: Path) -> None:
    """Right answers, thoughts and length over lambda; the ablations beside them."""
    title = "Interpolation from instruct to thinking; mean and range over seeds"
    lines = results.where(part="all")
    with panels(target, 4, title) as (right, thoughts, length, parts):
        for k in (SAMPLES, 4, 1):
            curve(
                right,
                lines,
                "lambda",
                lambda line, k=k: line["pass"][str(k)],
                label="Mean" if k == 1 else f"Pass@{k}",
            )
        right.set_ylabel("share of problems")
        right.legend(fontsize=8)
        curve(thoughts, lines, "lambda", lambda line: 100 * line["thinking"], label="with thoughts")
        curve(thoughts, lines, "lambda", lambda line: 100 * line["ended"], label="that end")
        thoughts.set_ylabel("answers, %")
        thoughts.legend(fontsize=8)
        curve(length, lines, "lambda", lambda line: line["tokens"])
        length.set_ylabel("tokens in an answer, mean")
        for each in (right, thoughts, length):
            each.set_xlabel("lambda")
        names = ["all", *(line["part"] for line in results.where(seed=0) if line["part"] != "all")]
        for place, name in enumerate(names):
            found = [line for line in results.where(part=name) if line["lambda"] == 0.8]
            for mark, colour, key in (("o", "tab:blue", "mean"), ("x", "tab:orange", "thinking")):
                values = [line[key] for line in found]
                parts.plot(
                    values,
                    [-place] * len(values),
                    mark,
                    color=colour,
                    markersize=4,
                    label=None if place else {"mean": "right", "thinking": "with thoughts"}[key],
                )
        parts.set_yticks([-place for place in range(len(names))], names)
        parts.set_xlabel("share of answers; one mark a seed")
        parts.set_title("lambda 0.8 in")
        parts.legend(fontsize=8)


def table(results: Results) -> Iterator[list[str]]:
    """What the plot shows, by lambda and by part."""
    yield ["blended", "lambda", f"Mean@{SAMPLES}", f"Pass@{SAMPLES}", "thoughts, %", "tokens"]
    for line in results.where(seed=SEEDS[0]):
        lines = results.where(part=line["part"], **{"lambda": line["lambda"]})
        yield [
            line["part"],
            f"{line['lambda']:g}",
            spread(lines, itemgetter("mean")),
            spread(lines, lambda each: each["pass"][str(SAMPLES)]),
            spread(lines, lambda each: 100 * each["thinking"], 1),
            spread(lines, itemgetter("tokens"), 1),
        ]


if __name__ == "__main__":
    main(NAME, run, draw, table, __doc__)
