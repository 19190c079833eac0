"""What a tiny model can do: how often it is right, how much it writes, whether it thinks."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from passk import mean_pass_at_k
from sampling import GREEDY, Decoding, sample
from torch.nn.functional import cross_entropy

sys.path.append(str(Path(__file__).resolve().parents[1] / "trio"))

from language import END, THOUGHT, asked, prompt, tokenizer
from learning import tensors
from lists import Problem

TOKENIZER = tokenizer()
_END = TOKENIZER.convert_tokens_to_ids(END)
_THOUGHT = TOKENIZER.convert_tokens_to_ids(THOUGHT)


def ask(
    model: Any,
    problems: Sequence[Problem],
    *,
    samples: int = 1,
    seed: int = 0,
    decoding: Decoding = GREEDY,
) -> dict[str, Any]:
    """Ask each problem `samples` times.

    Returns:
        `mean`: share of right answers; `pass`: Pass@k for k = 1, 2, 4 .. samples; `thinking`: share
        of answers with thoughts; `tokens`: mean length; `ended`: share that end before the limit.
    """
    replies = sample(
        model,
        TOKENIZER,
        [prompt(problem.question) for problem in problems],
        samples=samples,
        seed=seed,
        decoding=decoding,
    )
    correct = [
        sum(is_right(problem, reply) for reply in drawn)
        for problem, drawn in zip(problems, replies, strict=True)
    ]
    everything = [reply for drawn in replies for reply in drawn]
    powers = [2**power for power in range(int(math.log2(samples)) + 1)]
    return {
        "mean": sum(correct) / len(everything),
        "pass": {str(k): mean_pass_at_k(samples, correct, k) for k in powers},
        "thinking": share(_THOUGHT in reply for reply in everything),
        "tokens": sum(map(len, everything)) / len(everything),
        "ended": share(reply[-1] == _END for reply in everything),
        "problems": len(problems),
        "samples": samples,
    }


def is_right(problem: Problem, reply: list[int]) -> bool:
    """Whether a reply ends in the right answer: after its thoughts, if it has any, and alone."""
    if _THOUGHT in reply:
        last = len(reply) - 1 - reply[::-1].index(_THOUGHT)
        reply = reply[last + 1 :]
    right: list[int] = TOKENIZER(problem.answer + END)["input_ids"]
    return reply == right


def share(truths: Any) -> float:
    """The share of true ones."""
    listed = list(truths)
    return sum(listed) / len(listed)


@torch.inference_mode()
def perplexity(model: Any, problems: Sequence[Problem], *, thinking: bool) -> float:
    """exp of the mean loss in nats of the tokens of the right replies."""
    examples = [asked(problem, thinking=thinking) for problem in problems]
    ids, targets = tensors(TOKENIZER, examples)
    logits = model(input_ids=ids, use_cache=False).logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
    return math.exp(loss.item())
