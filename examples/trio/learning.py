"""Train a model in place, on examples that come one after the other."""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from language import Example
from torch import Tensor
from torch.nn.functional import cross_entropy

_IGNORED = -100  # cross_entropy's mark for targets without a loss


def train(
    model: Any,
    tokenizer: Any,
    examples: Iterator[Example],
    *,
    steps: int,
    batch: int,
    peak_lr: float,
    label: str,
) -> None:
    """AdamW, a short warm-up, then straight down to zero; the loss is on the replies alone."""
    # fused: the plain loop over parameters takes many times as long on a CPU
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=peak_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    warmup = max(steps // 20, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup))
    )
    start = time.monotonic()
    model.train()
    for step in range(1, steps + 1):
        ids, targets = tensors(tokenizer, list(islice(examples, batch)))
        logits = model(input_ids=ids, use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            seconds = time.monotonic() - start
            print(f"{label}: step {step}, loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
    model.eval()


def tensors(tokenizer: Any, examples: list[Example]) -> tuple[Tensor, Tensor]:
    """Token ids and targets [batch, longest], padded at the end: causal models look back."""
    prompts = tokenizer([example.prompt for example in examples])["input_ids"]
    replies = tokenizer([example.reply for example in examples])["input_ids"]
    width = max(len(p) + len(r) for p, r in zip(prompts, replies, strict=True))
    ids = torch.full((len(examples), width), tokenizer.pad_token_id)
    targets = torch.full_like(ids, _IGNORED)
    for row, (before, after) in enumerate(zip(prompts, replies, strict=True)):
        ids[row, : len(before) + len(after)] = torch.tensor(before + after)
        targets[row, len(before) : len(before) + len(after)] = torch.tensor(after)
    return ids, targets
