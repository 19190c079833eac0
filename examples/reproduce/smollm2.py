"""Three of the experiments on SmolLM2-135M and its partners: graft, interpolation, timber.

    python examples/reproduce/smollm2.py build/smollm2

The partners are those of examples/trio/partners.py, trained once each: seeds are of sampling only.
As many processes of one thread each measure as there are processors. What is there already is not
measured again.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from experiment import SEEDS, Line, Results, made, spread
from passk import mean_pass_at_k
from plotting import curve, panels
from sampling import Decoding, sample

import weightsmith

sys.path.append(str(Path(__file__).resolve().parents[1] / "trio"))

from partners import PARTNERS, train

sys.path.append(str(Path(__file__).resolve().parents[1] / "demo"))

from evaluate import load, prompt
from skills import held_out

RESULTS = "smollm2.jsonl"
THOUGHT = "</think>"
SAMPLES = 8
PROBLEMS = 45
SCALES = ("0.5", "1", "1.5", "2")
LAMBDAS = ("0", "0.2", "0.4", "0.5", "0.6", "0.8", "1")
GAMMAS = ("0", "0.2", "0.5", "1")
MEASURES = {"mean": f"Mean@{SAMPLES}", "pass": f"Pass@{SAMPLES}", "thinking": "with thoughts"}
PAPER = Decoding(temperature=0.6, top_p=0.95, limit=60)
SKILLS = ("arithmetic", "words")


def partners(work: Path) -> dict[str, Path]:
    """The directories of base and its partners."""
    return {name: work / name for name in ("base", *PARTNERS)}


def points(models: dict[str, Path]) -> Iterator[tuple[Line, Callable[..., Any], tuple[str, ...]]]:
    """What is measured: its name, how its model is made, and the skills it is asked for."""
    base, tuned, instruct, thinking = map(models.get, ("base", "tuned", "instruct", "thinking"))
    for name in ("base", "tuned", "instruct", "thinking"):
        yield {"model": name}, partial(made, weightsmith.cat, models[name]), SKILLS
    for scale in SCALES:
        graft = partial(made, weightsmith.graft, base, instruct, tuned, scale=scale)
        yield {"graft": scale}, graft, SKILLS
    for value in LAMBDAS:
        blend = partial(made, weightsmith.interpolate, instruct, thinking, lam=value)
        yield {"lambda": value}, blend, ("arithmetic",)
    for gamma in GAMMAS:
        refine = partial(made, weightsmith.timber, base, instruct, gamma=gamma)
        yield {"gamma": gamma}, refine, ("arithmetic",)


def score(model: Any, tokenizer: Any, skill: str, seed: int) -> Line:
    """What a model answers to held-out problems of a skill."""
    problems = held_out(skill, PROBLEMS)
    prompts = [prompt(tokenizer, problem.question) for problem in problems]
    drawn = sample(model, tokenizer, prompts, samples=SAMPLES, seed=seed, decoding=PAPER)
    texts = [tokenizer.batch_decode(answers, skip_special_tokens=True) for answers in drawn]
    correct = [
        sum(text.rpartition(THOUGHT)[2].strip() == problem.answer for text in of_problem)
        for problem, of_problem in zip(problems, texts, strict=True)
    ]
    return {
        "mean": mean(correct) / SAMPLES,
        "pass": mean_pass_at_k(SAMPLES, correct, SAMPLES),
        "thinking": mean(THOUGHT in text for of_problem in texts for text in of_problem),
        "tokens": mean(len(answer) for answers in drawn for answer in answers),
    }


def measure(work: Path, number: int) -> None:
    """Measure one point, by its place among all, for every skill and seed that is missing."""
    torch.set_num_threads(1)  # the products of single tokens gain nothing from more
    point, build, skills = list(points(partners(work)))[number]
    results = Results(work / RESULTS)
    asked = [point | {"skill": skill, "seed": seed} for skill in skills for seed in SEEDS]
    if all(results.where(**each) for each in asked):
        return
    with build() as directory:
        model, tokenizer = load(directory)
        for each in asked:
            results.find(each, partial(score, model, tokenizer, each["skill"], each["seed"]))


def table(work: Path) -> Iterator[str]:
    """Markdown: mean and standard deviation over sampling seeds."""
    results = Results(work / RESULTS)
    yield f"| model | skill | Mean@{SAMPLES} | Pass@{SAMPLES} | thoughts | tokens |"
    yield "|---|---|---|---|---|---|"
    for point, _, skills in points(partners(work)):
        ((key, value),) = point.items()
        for skill in skills:
            lines = results.where(**point, skill=skill)
            cells = [
                spread(lines, lambda each, of=of: each[of], digits)
                for of, digits in (("mean", 3), ("pass", 3), ("thinking", 2), ("tokens", 1))
            ]
            name = value if key == "model" else f"{key} {value}"
            yield f"| {name} | {skill} | {' | '.join(cells)} |"


def draw(results: Results, target: Path) -> None:
    """Right answers over the scale of the graft, over lambda, and over gamma."""
    untouched = [line | {"graft": 0} for line in results.where(model="instruct")]
    title = "SmolLM2-135M and its partners: mean and range over three seeds of sampling"
    with panels(target, 3, title, share=True) as (grafts, blends, refined):
        for skill, label in (("words", "words, the new skill"), ("arithmetic", "arithmetic")):
            lines = [
                line
                for line in [*untouched, *results.lines]
                if "graft" in line and line["skill"] == skill
            ]
            over(grafts, lines, "graft", "mean", f"{label}, Mean@{SAMPLES}")
        for of, label in MEASURES.items():
            over(blends, [line for line in results.lines if "lambda" in line], "lambda", of, label)
            if of != "thinking":
                lines = [line for line in results.lines if "gamma" in line]
                over(refined, lines, "gamma", of, label)
        grafts.set(
            xlabel="scale of tuned - base, on instruct", ylabel="share of answers", ylim=(0, 1.02)
        )
        blends.set(xlabel="lambda: 0 is instruct, 1 is thinking", title="interpolate")
        refined.set(xlabel="gamma: 1 is instruct", title="timber")
        grafts.set_title("graft")
        for axes in (grafts, blends, refined):
            axes.legend(loc="best")


def over(axes: Any, lines: Sequence[Line], x: str, y: str, label: str) -> None:
    """One curve: a measure over a parameter, which the lines hold as text."""
    curve(axes, lines, lambda line: float(line[x]), lambda line: line[y], label=label)


def main() -> None:
    """Train what is missing, measure what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path, help="models and results go there")
    work = parser.parse_args().work
    train(work, [*PARTNERS])
    numbers = range(len(list(points(partners(work)))))
    # Threads that torch has started do not live on in a fork.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), fresh) as pool:
        list(pool.map(partial(measure, work), numbers))
    for kind in ("png", "svg"):
        draw(Results(work / RESULTS), work / f"smollm2.{kind}")
    print(*table(work), sep="\n")


if __name__ == "__main__":
    main()
