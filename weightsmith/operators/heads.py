"""Whether a model's head is its embedding, as config.json says and as the tensors say."""

from __future__ import annotations

from collections.abc import Mapping

from weightsmith.families import EMBEDDINGS, HEADS, matches
from weightsmith.operators.configuration import config_of
from weightsmith.operators.operator import Draft, InputView


def untied(view: InputView, draft: Draft) -> dict[str, bool]:
    """The config patch where an output's head is not its embedding any more.

    A checkpoint may store a head though its configuration ties it to the embedding: as long as the
    two are equal, either may be read. Once one of them is computed they need not be, and what
    reads the configuration would lose the head.

    Args:
        view: the input that gives the configuration.
        draft: the output.
    """
    changed = [
        tensor.changed
        for tensor in draft.tensors
        if matches(tensor.spec.name, (*HEADS, *EMBEDDINGS))
    ]
    head = any(matches(tensor.spec.name, HEADS) for tensor in draft.tensors)
    return {"tie_word_embeddings": False} if head and any(changed) and _ties(view) else {}


def _ties(view: InputView) -> bool:
    config = config_of(view)
    text = config.get("text_config")
    return any(
        each.get("tie_word_embeddings") is True
        for each in (config, text if isinstance(text, Mapping) else {})
    )
