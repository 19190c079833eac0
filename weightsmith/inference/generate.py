"""Continue a text with a loaded model, token by token."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weightsmith.errors import UsageError
from weightsmith.inference.model import Loaded, step

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: of the distribution; 0 takes the likeliest token.
        top_p: keep the likeliest tokens whose probabilities reach this share.
        seed: of the random numbers.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass
class Speed:
    """How long it took.

    Attributes:
        prompt: tokens of the prompt.
        prefill: seconds for all of them.
        generated: tokens after it, the first comes out of the prefill.
        decode: seconds for the others.
    """

    prompt: int = 0
    prefill: float = 0.0
    generated: int = 0
    decode: float = 0.0

    def line(self) -> str:
        """For people."""
        rate = (self.generated - 1) / self.decode if self.decode > 0 else 0.0
        return (
            f"{self.prompt} tokens read in {self.prefill:.2f} s, "
            f"{self.generated} written, {rate:.1f} tokens/s"
        )


def prompt_ids(loaded: Loaded, prompt: str, *, chat: bool = True) -> list[int]:
    """The tokens of a prompt, by the chat template if there is one and it is wanted.

    Raises:
        UsageError: the prompt is empty.
    """
    tokenizer = loaded.tokenizer
    if chat and tokenizer.chat_template is not None:
        message = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = tokenizer(prompt)["input_ids"]
    if not ids:
        raise UsageError("the prompt has no tokens")
    return list(ids)


def generate(
    loaded: Loaded, ids: list[int], limit: int, sampling: Sampling, speed: Speed
) -> Iterator[int]:
    """Tokens after `ids`, until the model ends its text or `limit` is reached.

    Args:
        loaded: model and tokenizer.
        ids: the prompt.
        limit: tokens at most.
        sampling: how tokens are chosen.
        speed: is filled in.
    """
    import torch

    model = loaded.model
    ends = _ends(loaded)
    generator = torch.Generator().manual_seed(sampling.seed)
    given = torch.tensor([ids], device=model.device)
    past: Any = None
    speed.prompt = len(ids)
    for _ in range(limit):
        begin = time.perf_counter()
        with torch.inference_mode():
            logits, past = step(model, given, past)
            token = _choose(logits[0, -1].float().cpu(), sampling, generator)
        taken = time.perf_counter() - begin
        if speed.generated:
            speed.decode += taken
        else:
            speed.prefill = taken
        speed.generated += 1
        if token in ends:
            return
        yield token
        given = torch.tensor([[token]], device=model.device)


def text_of(loaded: Loaded, tokens: Iterator[int]) -> Iterator[str]:
    """The text of tokens as it grows, never half a character."""
    seen: list[int] = []
    shown = ""
    for token in tokens:
        seen.append(token)
        text = loaded.tokenizer.decode(seen, skip_special_tokens=True)
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text


def _ends(loaded: Loaded) -> set[int]:
    ends = getattr(loaded.model.generation_config, "eos_token_id", None)
    found = set(ends) if isinstance(ends, list) else {ends}
    return {*found, loaded.tokenizer.eos_token_id} - {None}


def _choose(logits: Tensor, sampling: Sampling, generator: Any) -> int:
    import torch

    if sampling.temperature == 0:
        return int(logits.argmax())
    odds = torch.softmax(logits / sampling.temperature, dim=-1)
    likeliest, order = odds.sort(descending=True)
    # The token that reaches the share is kept, those after it are not.
    likeliest[likeliest.cumsum(0) - likeliest >= sampling.top_p] = 0
    return int(order[torch.multinomial(likeliest, 1, generator=generator)])
