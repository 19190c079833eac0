"""Which token each id means, to notice models whose equal ids mean different things."""

import json
from collections.abc import Iterator

from weightsmith.checkpoint.sidecar import Sidecars

FILE = "tokenizer.json"


class Tokenizer:
    """The tokenizer.json of a checkpoint; read only when it must be."""

    def __init__(self, sidecars: Sidecars) -> None:
        self._sidecars = sidecars

    @classmethod
    def of(cls, sidecars: Sidecars) -> "Tokenizer | None":
        """The tokenizer of a checkpoint, if it has one in this format."""
        return cls(sidecars) if FILE in sidecars.names else None

    def content(self) -> bytes:
        """The file."""
        return self._sidecars.path(FILE).read_bytes()

    def first_conflict(self, other: "Tokenizer") -> tuple[int, str, str] | None:
        """An id that both have with another token each: (id, ours, theirs); None if none."""
        if self.content() == other.content():
            return None
        ours, theirs = self.tokens(), other.tokens()
        conflicts = (i for i in sorted(ours.keys() & theirs.keys()) if ours[i] != theirs[i])
        return next(((i, ours[i], theirs[i]) for i in conflicts), None)

    def tokens(self) -> dict[int, str]:
        """Token text by id; empty where the file is of a kind we do not know."""
        try:
            return dict(self._pairs(json.loads(self.content())))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    @staticmethod
    def _pairs(content: dict[str, object]) -> Iterator[tuple[int, str]]:
        model = content["model"]
        vocabulary = model["vocab"]  # type: ignore[index]
        if isinstance(vocabulary, dict):
            yield from ((index, token) for token, index in vocabulary.items())
        else:  # unigram models list [token, score]
            yield from ((index, entry[0]) for index, entry in enumerate(vocabulary))
        for added in content.get("added_tokens", []):  # type: ignore[attr-defined]
            yield added["id"], added["content"]
