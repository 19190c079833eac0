"""How well a model predicts a text, and how far its predictions are from its parent's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import exp, isfinite, log
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightsmith.errors import Mismatch, UsageError, WeightsmithError
from weightsmith.inference.model import Loaded, load
from weightsmith.inference.tokens import Tokens, Window, tokenize, windows

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 128  # positions whose probabilities are held at once, in float32 and float64


@dataclass(frozen=True)
class Parent:
    """A model beside its parent, at the same positions.

    Attributes:
        loss: the parent's mean -ln p(token), nats.
        kl: mean KL(parent || model) of the next token's distribution, nats.
        agreement: share of positions where both think the same token the likeliest.
    """

    loss: float
    kl: float
    agreement: float


@dataclass(frozen=True)
class Result:
    """What a text costs a model.

    Attributes:
        loss: mean -ln p(token | tokens before it in the window), nats.
        scored: number of tokens in the mean.
        nbytes: bytes of the text that they stand for.
        tokens: tokens read.
        window, stride: how the text was cut.
        text: SHA-256 of the whole text.
        parent: the comparison, where one was asked for.
    """

    loss: float
    scored: int
    nbytes: int
    tokens: int
    window: int
    stride: int
    text: str
    parent: Parent | None = None

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Bits that the scored tokens cost, by byte of the text that they stand for."""
        return self.loss * self.scored / log(2) / max(1, self.nbytes)

    def facts(self) -> dict[str, Any]:
        """For JSON, with stable keys."""
        facts = asdict(self)
        parent = facts.pop("parent")
        found = {"perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte, **facts}
        if self.parent is not None:
            parent["perplexity"] = exp(self.parent.loss)
        return found | {"parent": parent}


def perplexity(
    model: Loaded | str | Path,
    text: str,
    *,
    against: Loaded | str | Path | None = None,
    window: int = 1024,
    stride: int | None = None,
    tokens: int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    act: str = "int16",
    tick: Callable[[int], None] = lambda _: None,
) -> Result:
    """Score a text window by window; the sums over tokens are in float64.

    Args:
        model: a checkpoint directory, or one that is loaded.
        text: what is to be predicted.
        against: the parent, likewise; its tokenizer has to cut the text in the same way.
        window: tokens in a window, all that a prediction can see.
        stride: tokens from window to window; the window itself unless given.
        tokens: how many tokens of the text to read; all unless given.
        dtype, device: where a directory is loaded, as torch names them.
        act: what packed layers of a directory round activations to.
        tick: told how many bytes of the text each window has scored.

    Raises:
        UsageError: the text is too short, or window and stride make no sense.
        Mismatch: the parent has other tokens, or another vocabulary.
        WeightsmithError: a model cannot be loaded, or its logits are not finite.
    """
    import torch

    step = window if stride is None else stride
    list(windows(1, window, step))  # before minutes of loading
    if tokens is not None and tokens < 2:
        raise UsageError(f"--tokens {tokens}", expected="2 or more")
    child = model if isinstance(model, Loaded) else load(model, dtype=dtype, device=device, act=act)
    parent = (
        load(against, dtype=dtype, device=device) if isinstance(against, str | Path) else against
    )
    cut = tokenize(child.tokenizer, text, tokens)
    if parent is not None and tokenize(parent.tokenizer, text, tokens).ids != cut.ids:
        raise Mismatch("the parent's tokenizer cuts the text into other tokens", file=parent.label)
    totals = torch.zeros(4, dtype=torch.float64)
    scored = nbytes = 0
    for part in windows(len(cut.ids), window, step):
        totals += _sums(child, parent, cut, part)
        size = sum(cut.nbytes[part.first : part.stop])
        scored, nbytes = scored + part.stop - part.first, nbytes + size
        tick(size)
    loss, parent_loss, kl, agreed = (totals / scored).tolist()
    beside = None if parent is None else Parent(parent_loss, kl, agreed)
    return Result(loss, scored, nbytes, len(cut.ids), window, step, cut.digest, beside)


def _sums(child: Loaded, parent: Loaded | None, cut: Tokens, part: Window) -> Tensor:
    """Sums over a window's scored tokens: loss, the parent's loss, KL, agreement."""
    import torch
    from torch.nn.functional import log_softmax

    ids = torch.tensor(cut.ids[part.start : part.stop])
    begin = part.first - part.start
    mine = _logits(child, ids, begin)
    theirs = None if parent is None else _logits(parent, ids, begin)
    if theirs is not None and theirs.shape != mine.shape:
        raise Mismatch(
            "the parent has another vocabulary",
            file=parent.label if parent else None,
            expected=f"{mine.shape[1]} tokens",
            got=theirs.shape[1],
        )
    totals = torch.zeros(4, dtype=torch.float64)
    for at in range(0, len(mine), _ROWS):
        rows = slice(at, at + _ROWS)
        target = ids[begin:][rows].to(mine.device)[:, None]
        log_p = log_softmax(mine[rows].float(), dim=-1)
        totals[0] -= log_p.gather(1, target).double().sum().cpu()
        if theirs is None:
            continue
        log_q = log_softmax(theirs[rows].float(), dim=-1)
        totals[1] -= log_q.gather(1, target).double().sum().cpu()
        totals[2] += (log_q.exp() * (log_q - log_p)).sum(-1).double().sum().cpu()
        totals[3] += (log_q.argmax(-1) == log_p.argmax(-1)).sum().cpu()
    if not isfinite(float(totals.sum())):
        raise WeightsmithError("the logits are not finite", file=child.label)
    return totals


def _logits(loaded: Loaded, ids: Tensor, begin: int) -> Tensor:
    """Logits [n, vocabulary] that predict the tokens from `begin` on."""
    import torch

    with torch.inference_mode():
        found = loaded.model(ids[None].to(loaded.model.device), use_cache=False)
    logits: Tensor = found.logits[0, begin - 1 : -1]
    return logits
