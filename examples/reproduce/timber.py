"""Timber: instruct - base with its tail damped.

    python examples/reproduce/timber.py build/reproduce

Do answers become more diverse, and no worse? Pass@1 to Pass@32 for gamma 0, 0.2, 0.5 and 1, where 1
is instruct itself; with the decoding of the paper's evaluation (temperature 0.7, top-p 0.8) and
with plain sampling. And eRank, the number of directions that matter, of base, instruct and their
difference.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from experiment import Line, Results, command, made, main, spread
from lists import held_out
from plotting import curve, panels
from sampling import Decoding
from scoring import ask
from tiny import load

import weightsmith

NAME = "timber"
GAMMAS = (0, 0.2, 0.5, 1)
SAMPLES = 32
DECODINGS = {
    "temperature 0.7, top-p 0.8": Decoding(temperature=0.7, top_p=0.8),
    "temperature 1": Decoding(temperature=1),
}
PROBLEMS = [problem for length in (2, 3, 4) for problem in held_out(length, 60)]


def run(trio: Path, seed: int, results: Results) -> None:
    """Every gamma with every decoding, and the effective ranks, of one seed."""
    for gamma in GAMMAS:
        for decoding in DECODINGS:
            results.find(
                {"seed": seed, "gamma": gamma, "decoding": decoding},
                lambda gamma=gamma, decoding=decoding: score(trio, seed, gamma, decoding),
            )
    results.find({"seed": seed, "spectrum": "base, instruct"}, lambda: ranks(trio))


def score(trio: Path, seed: int, gamma: float, decoding: str) -> Line:
    """What the refined model answers."""
    with made(weightsmith.timber, trio / "base", trio / "instruct", gamma=gamma) as refined:
        model = load(refined)
        chosen = DECODINGS[decoding]
        return ask(model, PROBLEMS, samples=SAMPLES, seed=seed, decoding=chosen)


def ranks(trio: Path) -> Line:
    """Mean eRank by module, of base, instruct and the difference, by `weightsmith compare`."""
    compared = command("compare", trio / "base", trio / "instruct", "--spectrum")
    modules: dict[str, list[Line]] = {}
    for tensor in compared["tensors"]:
        if len(tensor["shape"]) > 1:
            modules.setdefault(tensor["module"], []).append(tensor)
    return {
        "erank": {
            module: {of: mean(t[f"erank_{of}"] for t in found) for of in ("a", "b", "delta")}
            for module, found in modules.items()
        }
    }


def draw(results: Results, target: Path) -> None:
    """Pass@k over k, a panel for each decoding; and the effective ranks."""
    title = "Timber: Pass@k of instruct with the tail damped; mean and range over seeds"
    with panels(target, len(DECODINGS) + 1, title) as (*passing, spectrum):
        for axes, decoding in zip(passing, DECODINGS, strict=True):
            for gamma in GAMMAS:
                found = [
                    {"k": int(k), "value": value}
                    for line in results.where(gamma=gamma, decoding=decoding)
                    for k, value in line["pass"].items()
                ]
                label = f"gamma {gamma}" + (" (instruct)" if gamma == 1 else "")
                curve(axes, found, "k", lambda line: line["value"], label=label)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_title(decoding)
            axes.set_xlabel("k")
            axes.set_ylabel("Pass@k")
            axes.legend(fontsize=8)
        lines = results.where(spectrum="base, instruct")
        modules = list(lines[0]["erank"])
        looks = (("a", "o", "base"), ("b", "x", "instruct"), ("delta", "s", "instruct - base"))
        for of, mark, label in looks:
            spectrum.plot(
                [mean(line["erank"][module][of] for line in lines) for module in modules],
                range(len(modules)),
                mark,
                label=label,
                fillstyle="none",
            )
        spectrum.set_yticks(
            range(len(modules)), [name.removesuffix(".weight").split(".")[-1] for name in modules]
        )
        spectrum.set_xlabel("eRank, mean over layers and seeds")
        spectrum.legend(  # above: there are marks in every corner
            fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False
        )


def table(results: Results) -> Iterator[list[str]]:
    """Pass@k by decoding and gamma."""
    shown = ("1", "4", str(SAMPLES))
    yield ["decoding", "gamma", *(f"Pass@{k}" for k in shown)]
    for decoding in DECODINGS:
        for gamma in GAMMAS:
            lines = results.where(decoding=decoding, gamma=gamma)
            yield [
                decoding,
                f"{gamma:g}",
                *(spread(lines, lambda line, k=k: line["pass"][k]) for k in shown),
            ]


if __name__ == "__main__":
    main(NAME, run, draw, table, __doc__)
