"""Text as tokens that know how many bytes of it they stand for, cut into windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from weightsmith.errors import UsageError, WeightsmithError


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text.

    Attributes:
        ids: token ids, special tokens that the tokenizer adds included.
        nbytes: how many bytes of the text, in UTF-8, each stands for.
        digest: SHA-256 of the whole text, in hexadecimal.
    """

    ids: list[int]
    nbytes: list[int]
    digest: str


@dataclass(frozen=True)
class Window:
    """Tokens [start, stop) are read, and those from `first` on are scored."""

    start: int
    first: int
    stop: int


def read_text(path: str | Path) -> str:
    """The text of a file.

    Raises:
        WeightsmithError: it cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise WeightsmithError(f"cannot read: {error.strerror}", file=path) from None
    except UnicodeDecodeError as error:
        raise WeightsmithError(
            "not a text in UTF-8", file=path, got=f"{error.reason} at byte {error.start}"
        ) from None


def tokenize(tokenizer: Any, text: str, limit: int | None = None) -> Tokens:
    """The first `limit` tokens of a text, or all.

    Raises:
        UsageError: fewer than two tokens, so that there is nothing to predict.
    """
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids: list[int] = encoded["input_ids"][:limit]
    if len(ids) < 2:
        raise UsageError("the text is too short", expected="two tokens or more", got=len(ids))
    nbytes, end = [], 0
    for _, stop in encoded["offset_mapping"][:limit]:
        # Tokens that share a character end at the same place: the first of them takes it all.
        nbytes.append(len(text[end:stop].encode()))
        end = max(end, stop)
    return Tokens(ids, nbytes, sha256(text.encode()).hexdigest())


def windows(count: int, window: int, stride: int) -> Iterator[Window]:
    """Windows over `count` tokens, each `stride` after the one before it.

    A token is scored once, in the first window that has it and a token before it.

    Raises:
        UsageError: a window without room for a prediction, or a stride that leaves gaps.
    """
    if window < 2:
        raise UsageError(f"--window {window}", expected="2 or more")
    if not 1 <= stride <= window:
        raise UsageError(f"--stride {stride}", expected=f"1 to {window}, the window")
    scored = 0
    for start in range(0, count, stride):
        stop = min(start + window, count)
        first = max(start + 1, scored)
        if first < stop:
            yield Window(start, first, stop)
        scored = stop
        if stop == count:
            return
