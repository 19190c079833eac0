"""Shadow-FT: a skill that base learned, grafted onto instruct.

    python examples/reproduce/shadow_ft.py build/reproduce

Does the skill work there, and what does it cost? The graft instruct + s (tuned - base) for s from
0 to 2, beside instruct tuned itself on the same examples, and beside a random delta whose every
tensor has the norm of the real one. Scored on held-out problems: exact match of greedy answers, on
the new operation and on those known before.
"""

import tempfile
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import torch
from experiment import Line, Results, command, made, main, spread
from lists import KNOWN, NEW, held_out
from plotting import curve, level, panels
from safetensors.torch import load_file, save_file
from scoring import ask
from tiny import load

import weightsmith

NAME = "shadow_ft"
SCALES = tuple(step / 4 for step in range(9))
PROBLEMS = 200
KINDS = {  # what is asked: operations in a problem, and the one that must be among them
    "new": (1, NEW),
    "new with a known one": (2, NEW),
    "known": (1, ""),
    "two known ones": (2, ""),
}


def run(trio: Path, seed: int, results: Results) -> None:
    """Every model and every graft of one seed."""
    for model in ("instruct", "tuned", "retuned"):
        results.find({"seed": seed, "model": model}, lambda model=model: score(trio / model))
    results.find({"seed": seed, "gap": "base to instruct"}, lambda: gap(trio))
    with tempfile.TemporaryDirectory() as work:
        delta, noise = Path(work) / "delta.safetensors", Path(work) / "noise.safetensors"
        weightsmith.delta(
            str(trio / "base"), str(trio / "tuned"), output=str(delta), dtype="float32"
        )
        randomise(delta, noise, seed)
        for scale in SCALES:
            for kind, taken in (("graft", delta), ("random", noise)):
                results.find(
                    {"seed": seed, "model": kind, "scale": scale},
                    lambda taken=taken, scale=scale: graft(trio, taken, scale),
                )


def graft(trio: Path, delta: Path, scale: float) -> Line:
    """The score of instruct with a delta grafted on."""
    inputs = (trio / "base", trio / "instruct", delta)
    with made(weightsmith.graft, *inputs, scale=scale, tuned_is="delta") as grafted:
        return score(grafted)


def score(directory: Path) -> Line:
    """Exact match of greedy answers, by kind of problem."""
    model = load(directory)
    return {
        kind: ask(model, held_out(length, PROBLEMS, KNOWN, must))["mean"]
        for kind, (length, must) in KINDS.items()
    }


def randomise(delta: Path, target: Path, seed: int) -> None:
    """Normal noise in place of a delta, each tensor with its norm."""
    generator = torch.Generator().manual_seed(seed)
    noise = {}
    for name, tensor in load_file(delta).items():
        drawn = torch.randn(tensor.shape, generator=generator)
        noise[name] = drawn * (tensor.norm() / drawn.norm())
    save_file(noise, target)


def gap(trio: Path) -> Line:
    """The paper's sigma of three pairs, by `weightsmith compare`."""
    pairs = (("base", "instruct"), ("base", "tuned"), ("base", "thinking"))
    return {
        "sigma": {
            f"{a} to {b}": command("compare", trio / a, trio / b)["mean_sigma"] for a, b in pairs
        }
    }


def draw(results: Results, target: Path) -> None:
    """Exact match over the scale, one panel for each kind of problem."""
    title = "Shadow-FT: a skill grafted onto instruct; mean and range over seeds"
    with panels(target, len(KINDS), title, share=True) as axes:
        for each, kind in zip(axes, KINDS, strict=True):

            def exact(line: Line, kind: str = kind) -> float:
                return float(line[kind])

            curve(each, results.where(model="graft"), "scale", exact, label="graft")
            curve(each, results.where(model="random"), "scale", exact, label="random delta")
            looks = (("instruct", "tab:gray"), ("retuned", "tab:green"), ("tuned", "tab:red"))
            for model, colour in looks:
                label = "instruct tuned itself" if model == "retuned" else model
                level(each, results.where(model=model), exact, color=colour, label=label)
            each.set_title(kind)
            each.set_xlabel("scale of the delta")
        axes[0].set_ylabel("share of right answers (greedy)")
        axes[0].legend(fontsize=8)


def table(results: Results) -> Iterator[list[str]]:
    """Exact match by kind of problem, of every model and scale."""
    yield ["model", *KINDS]
    chosen = [(name, results.where(model=name)) for name in ("instruct", "tuned", "retuned")]
    for kind in ("graft", "random"):
        for scale in SCALES[1:]:
            chosen.append((f"{kind}, scale {scale:g}", results.where(model=kind, scale=scale)))
    for name, lines in chosen:
        yield [name, *(spread(lines, itemgetter(kind), 2) for kind in KINDS)]


if __name__ == "__main__":
    main(NAME, run, draw, table, __doc__)
