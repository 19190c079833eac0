"""Where the PEFT library keeps an adapter: one file of tensors, and its configuration beside it."""

from __future__ import annotations

from collections.abc import Mapping

from weightsmith.checkpoint.source import Source

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def adapter_config(source: Source) -> Mapping[str, object] | None:
    """The configuration of a source that is an adapter; None of any other source.

    Raises:
        InvalidFile: it is no JSON object.
    """
    if set(source.shard_of.values()) != {WEIGHTS} or source.sidecars is None:
        return None
    return source.sidecars.json(CONFIG)
