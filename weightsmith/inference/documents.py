"""Text to calibrate on: a file of text, or of documents as JSON lines; windows drawn from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from weightsmith.errors import InvalidFile, UsageError, WeightsmithError
from weightsmith.inference.tokens import read_text


@dataclass(frozen=True)
class Sample:
    """Windows of tokens, all of one length.

    Attributes:
        windows: token ids.
        available: how many windows the text has.
        text: SHA-256 of the file.
    """

    windows: list[list[int]]
    available: int
    text: str


def sample(tokenizer: Any, path: Path, *, tokens: int, window: int, seed: int) -> Sample:
    """Draw windows of a file without replacement; they keep the text's order.

    Args:
        tokenizer: of transformers.
        path: text in UTF-8, or NAME.jsonl with an object on each line: `text`, or `messages` for
            the tokenizer's chat template. Documents are joined, each with the end-of-text token.
        tokens: at most this many, in whole windows.
        window: tokens in a window.
        seed: of the draw.

    Raises:
        UsageError: less than one window is asked for.
        WeightsmithError, InvalidFile: the file cannot be read, or has less than one window.
    """
    if window < 1 or tokens < window:
        raise UsageError(f"--tokens {tokens}", expected=f"at least one window of {window}")
    content = read_text(path)
    ids: list[int] = []
    for document in _documents(tokenizer, content, path):
        ids += tokenizer(document, verbose=False)["input_ids"]
        if path.suffix == ".jsonl" and tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
    available = len(ids) // window
    if not available:
        raise WeightsmithError(
            "the text is too short",
            file=path,
            expected=f"a window of {window} tokens",
            got=len(ids),
            remedy="a smaller --window",
        )
    count = min(tokens // window, available)
    chosen = sorted(Random(seed).sample(range(available), count))  # noqa: S311 - no secret
    parts = [ids[at * window : (at + 1) * window] for at in chosen]
    return Sample(parts, available, sha256(content.encode()).hexdigest())


def _documents(tokenizer: Any, content: str, path: Path) -> list[str]:
    if path.suffix != ".jsonl":
        return [content]
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(_document(tokenizer, json.loads(line)))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InvalidFile(
                f"line {number} is no document",
                file=path,
                expected='{"text": "..."} or {"messages": [...]}',
            ) from None
    return found


def _document(tokenizer: Any, entry: Any) -> str:
    if "messages" in entry:
        text = tokenizer.apply_chat_template(entry["messages"], tokenize=False)
    else:
        text = entry["text"]
    if not isinstance(text, str):
        raise TypeError
    return text
