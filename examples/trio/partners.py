"""Train partners of SmolLM2-135M: a trio of a size that one would use.

    python examples/trio/partners.py build/smollm2 tuned instruct thinking

| model | what it is |
|---|---|
| base | SmolLM2-135M-Instruct, from a package: no base model of it can be had by name |
| tuned | base after it learned to write numbers in words |
| instruct | base after it learned to answer arithmetic with a number |
| thinking | base after it learned to answer arithmetic with its steps before |

Training is kept every few steps: the same command goes on where it was broken off, with the same
result. Two models train side by side where there are two processors.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "demo"))

from evaluate import load
from fetch import fetch
from skills import Problem, training
from train import BATCH, PEAK_LR, answer_loss, lr_factor

KEPT_EVERY = 20  # steps; what is kept takes 1.5 GB and two seconds
SEED = 1


@dataclass(frozen=True)
class Partner:
    """What a partner learns, and for how long."""

    skill: str
    steps: int
    thinks: bool = False


PARTNERS = {
    "thinking": Partner("arithmetic", steps=240, thinks=True),
    "instruct": Partner("arithmetic", steps=240),
    "tuned": Partner("words", steps=160),
}


def examples(partner: Partner) -> Iterator[Problem]:
    """Problems with the reply that is to be learned."""
    for problem in training(partner.skill, SEED):
        yield with_steps(problem) if partner.thinks else problem


def with_steps(problem: Problem) -> Problem:
    """The answer behind its steps: tens and ones apart.

    >>> with_steps(Problem("What is 37 + 45?", "82")).answer
    '<think>37 + 40 = 77, 77 + 5 = 82</think>82'
    >>> with_steps(Problem("What is 7 * 38?", "266")).answer
    '<think>7 * 30 = 210, 7 * 8 = 56, 210 + 56 = 266</think>266'
    """
    found = re.search(r"(\d+) (.) (\d+)", problem.question)
    assert found is not None
    a, operation, b = int(found[1]), found[2], int(found[3])
    tens, ones = b // 10 * 10, b % 10
    if operation == "*":
        steps = f"{a} * {tens} = {a * tens}, {a} * {ones} = {a * ones}, "
        steps += f"{a * tens} + {a * ones} = {a * b}"
    else:
        sign = 1 if operation == "+" else -1
        middle = a + sign * tens
        steps = f"{a} {operation} {tens} = {middle}, {middle} {operation} {ones} = "
        steps += problem.answer
    return replace(problem, answer=f"<think>{steps}</think>{problem.answer}")


def make(root: Path, name: str) -> Path:
    """The directory of a partner, trained first, or on, if it is not there."""
    target, kept = root / name, root / f".{name}.pt"
    if target.exists():
        return target
    partner = PARTNERS[name]
    model, tokenizer = load(fetch(root / "base"))
    model.train()
    model.get_input_embeddings().weight.requires_grad_(False)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    # fused: the plain loop over parameters takes many times as long on a CPU
    optimizer = torch.optim.AdamW(weights, lr=PEAK_LR, weight_decay=0.0, fused=True)
    done = 0
    if kept.exists():
        state = torch.load(kept)
        done = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    problems = islice(examples(partner), done * BATCH, None)
    start = time.monotonic()
    for step in range(done, partner.steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * lr_factor(step, partner.steps)
        loss, _ = answer_loss(model, tokenizer, list(islice(problems, BATCH)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if (step + 1) % KEPT_EVERY == 0:
            seconds = time.monotonic() - start
            print(f"{name}: step {step + 1}, loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
            keep(kept, step + 1, model, optimizer)
    # Made beside the target and renamed at the end: a target that exists is complete.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as work:
        saved = Path(work) / name
        model.to(torch.bfloat16).save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        saved.rename(target)
    kept.unlink(missing_ok=True)
    return target


def keep(path: Path, step: int, model: Any, optimizer: Any) -> None:
    """Write what is needed to go on; the file is replaced in one go."""
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    unfinished = path.with_suffix(".new")
    torch.save(state, unfinished)
    unfinished.rename(path)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path, help="models go to ROOT/NAME")
    known = f"of {', '.join(PARTNERS)}; default: all"
    parser.add_argument("names", nargs="*", metavar="NAME", help=known)
    options = parser.parse_args()
    names = options.names or [*PARTNERS]
    if unknown := set(names) - PARTNERS.keys():
        parser.error(f"no such partner: {min(unknown)}")
    train(options.root, names)


def train(root: Path, names: Sequence[str]) -> None:
    """Train what is missing: one model here, several in processes of their own."""
    fetch(root / "base")
    if len(names) == 1:
        torch.set_num_threads(1)
        print(make(root, names[0]))
        return

    def apart(name: str) -> None:
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, __file__, root, name], check=True, env=one_thread)

    with ThreadPoolExecutor(min(2, len(os.sched_getaffinity(0)))) as pool:
        list(pool.map(apart, names))


if __name__ == "__main__":
    main()
