"""Many answers to many questions, drawn in batches with a key-value cache.

Every answer has its own row of random numbers, drawn before anything runs. So a seed gives the
same answers for any batch size, but for logits that differ in their last bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from weightsmith.inference.model import step

_ROWS = 256  # of a batch: the cache of more than that leaves the processor's own cache

# For the next token. They mostly hold top_p; to sort a vocabulary takes longer than all layers.
_CANDIDATES = 1024


@dataclass(frozen=True)
class Decoding:
    """How to choose the next token.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: draw among the fewest tokens that hold this much of the probability.
        limit: most tokens of an answer.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    limit: int = 48


GREEDY = Decoding(temperature=0)


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    samples: int = 1,
    seed: int = 0,
    decoding: Decoding = GREEDY,
) -> list[list[list[int]]]:
    """For each prompt, `samples` answers as token ids, each up to its end token or the limit."""
    encoded = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    generator = torch.Generator().manual_seed(seed)
    luck = torch.rand(len(encoded), samples, decoding.limit, generator=generator)
    answers: list[list[list[int]]] = [[] for _ in encoded]
    # Prompts of one length share a batch: no padding, no mask.
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    for _, same_length in groupby(order, key=lambda index: len(encoded[index])):
        indices = list(same_length)
        per_batch = max(_ROWS // samples, 1)
        for start in range(0, len(indices), per_batch):
            batch = indices[start : start + per_batch]
            ids = torch.tensor([encoded[index] for index in batch])
            drawn = _continue(model, ids, luck[batch], decoding, tokenizer.eos_token_id)
            for index, answer in zip(batch, drawn, strict=True):
                answers[index] = answer
    return answers


@torch.inference_mode()
def _continue(
    model: Any, ids: Tensor, luck: Tensor, decoding: Decoding, end: int
) -> list[list[list[int]]]:
    """Answers to prompts [batch, length], with luck [batch, samples, limit]."""
    batch, samples, limit = luck.shape
    logits, cache = step(model, ids, None)
    cache.batch_repeat_interleave(samples)
    logits, luck = logits[:, -1].repeat_interleave(samples, 0), luck.flatten(0, 1)
    answers: list[list[int]] = [[] for _ in range(batch * samples)]
    rows = torch.arange(batch * samples)  # which answers the batch still holds
    for position in range(limit):
        tokens = choose(logits, luck[rows, position], decoding)
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            answers[row].append(token)
        going = tokens != end
        if not going.any():
            break
        if not going.all():
            rows, tokens = rows[going], tokens[going]
            cache.batch_select_indices(going.nonzero()[:, 0])
        logits, cache = step(model, tokens[:, None], cache)
        logits = logits[:, -1]
    return [answers[start : start + samples] for start in range(0, len(answers), samples)]


def choose(logits: Tensor, luck: Tensor, decoding: Decoding) -> Tensor:
    """The next tokens [rows] for logits [rows, vocabulary] and a uniform number in [0, 1) each."""
    if decoding.temperature == 0:
        return logits.argmax(-1)
    every = (logits.double() / decoding.temperature).softmax(-1)
    likely, tokens = every.topk(min(_CANDIDATES, every.shape[-1]))
    if likely.sum(-1).min() < decoding.top_p:
        likely, tokens = every.sort(-1, descending=True)
    before = likely.cumsum(-1) - likely
    kept = torch.where(before < decoding.top_p, likely, 0)
    reached = kept.cumsum(-1)
    # The first token whose cumulated probability exceeds the number drawn.
    place = (reached <= luck[:, None] * reached[:, -1:]).sum(-1, keepdim=True)
    return tokens.gather(-1, place)[:, 0]
