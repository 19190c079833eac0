"""SmolLM2-135M quantised in many ways: stored bits, perplexity and distance from the parent.

    python examples/quantize/table.py DIRECTORY [--tokens N] [--only NAME]

Prints Markdown. Results are kept in DIRECTORY/results.json; ways found there are not done again.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from integers import GROUP, round_to_nearest, with_feedback
from safetensors.torch import load_file, save_file
from ways import WAYS, Way

from weightsmith.inference.model import Loaded, load
from weightsmith.inference.perplexity import perplexity

HERE = Path(__file__).resolve().parent
TEXTS = ("emma", "policy")
CALIBRATION = 16384
WINDOW = 1024
BIN = Path(sys.executable).parent


def main() -> None:
    """Make what is missing, score it, print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("work", type=Path)
    options.add_argument("--tokens", type=int, default=8192, help="scored of each text")
    options.add_argument("--only", help="ways whose name has this in it")
    given = options.parse_args()
    work: Path = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    prepare(work)
    path = work / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    parent = load(work / "model")
    for way in WAYS:
        key = f"{way.name}, {given.tokens} tokens"
        if key in results or (given.only and given.only not in way.name):
            continue
        print(way.name, file=sys.stderr, flush=True)
        results[key] = score(work, way, parent, given.tokens)
        path.write_text(json.dumps(results, indent=1))
    print(table(results, given.tokens))


def weightsmith(*arguments: object) -> dict[str, Any]:
    """Run a command; its report."""
    command = [str(BIN / "weightsmith"), *map(str, arguments), "--json", "--force"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def prepare(work: Path) -> None:
    """The model, the texts, the rotated model, and statistics of both."""
    if not (work / "model").exists():
        script = HERE.parent / "demo" / "fetch.py"
        subprocess.run([sys.executable, script, work / "model"], check=True)
    if not (work / "texts").exists():
        script = HERE.parent / "texts" / "fetch_texts.py"
        subprocess.run([sys.executable, script, work / "texts"], check=True)
    if not (work / "rotated").exists():
        weightsmith("rotate", work / "model", "--seed", 0, "-o", work / "rotated")
    for model in ("model", "rotated"):
        if not (work / f"stats-{model}").exists():
            weightsmith(
                *("calibrate", work / model, work / "texts" / "tuning.txt"),
                *("--tokens", CALIBRATION, "--window", WINDOW, "-o", work / f"stats-{model}"),
            )


def score(work: Path, way: Way, parent: Loaded, tokens: int) -> dict[str, Any]:
    """Quantise in one way, run the result on every text."""
    source = "rotated" if way.rotated else "model"
    target = work / "way"
    started = time.monotonic()
    if way.bits is None:
        stats = work / f"stats-{source}"
        options = [stats if option == "STATS" else option for option in way.options]
        packed = weightsmith("ptqtp", work / source, *options, "--dry-run", "-o", work / "none")
        bits = float(packed["summary"][0].partition("stored at ")[2].split()[0])
        dense = ("--format", "dense", "-o", target)
        weightsmith("ptqtp", work / source, *options, *dense)
    else:
        bits = way.bits + 2 * 16 / GROUP
        integers(work / source, work / f"stats-{source}", target, way)
    found: dict[str, Any] = {"bits": bits, "seconds": round(time.monotonic() - started, 1)}
    child = load(target)
    for text in TEXTS:
        content = (work / "texts" / f"{text}.txt").read_text()
        result = perplexity(child, content, against=parent, window=WINDOW, tokens=tokens)
        assert result.parent is not None
        found[text] = {
            "perplexity": result.perplexity,
            "ratio": result.perplexity / result.facts()["parent"]["perplexity"],
            "kl": result.parent.kl,
            "agreement": result.parent.agreement,
        }
    shutil.rmtree(target)
    return found


def integers(source: Path, stats: Path, target: Path, way: Way) -> None:
    """A copy whose linear weights lie on integer grids."""
    assert way.bits is not None
    shutil.copytree(source, target, dirs_exist_ok=True)
    hessians = load_file(stats / "hessians.safetensors")
    index = json.loads(weightsmith_metadata(stats)["weightsmith.hessians"])["weights"]
    tensors = load_file(source / "model.safetensors")
    for name in index:
        weights = tensors[name].float()
        if way.calibrated:
            weights = with_feedback(weights, hessians[index[name]], way.bits)
        else:
            weights = round_to_nearest(weights, way.bits)
        tensors[name] = weights.to(tensors[name].dtype).contiguous()
    save_file(tensors, target / "model.safetensors", {"format": "pt"})


def weightsmith_metadata(directory: Path) -> dict[str, str]:
    """The metadata of a checkpoint."""
    command = [str(BIN / "weightsmith"), "inspect", str(directory), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)["metadata"]
    return found


def table(results: dict[str, Any], tokens: int) -> str:
    """Markdown."""
    conditions = (
        f"{tokens} tokens of each text, windows of {WINDOW}; statistics of {CALIBRATION} tokens "
        f"of other novels; torch {torch.__version__}."
    )
    lines = [
        conditions,
        "",
        "| way | bits | " + " | ".join(f"{t}: perplexity | x parent | KL" for t in TEXTS) + " |",
        "|---|---|" + "---|" * 3 * len(TEXTS),
    ]
    for way in WAYS:
        found = results.get(f"{way.name}, {tokens} tokens")
        if found is None:
            continue
        cells = [way.name, f"{found['bits']:.3f}"]
        for text in TEXTS:
            one = found[text]
            cells += [f"{one['perplexity']:.1f}", f"{one['ratio']:.3f}", f"{one['kl']:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
