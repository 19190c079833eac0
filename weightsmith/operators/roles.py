"""What part a tensor plays in a model, as far as quantisation has to know it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from weightsmith.errors import UsageError
from weightsmith.families import (
    EMBEDDINGS,
    EXPERTS_OUT_IN,
    FUSED_EXPERTS,
    HEADS,
    LINEARS,
    ROUTERS,
    TOWERS,
    TRANSPOSED,
    matches,
)
from weightsmith.header import TensorSpec


class Role(StrEnum):
    """Names as reports give them, in the plural."""

    LINEAR = "linear weights"
    EMBEDDING = "embeddings"
    HEAD = "heads"
    ROUTER = "routers"
    TOWER = "weights of other towers"
    MATRIX = "other matrices"
    VECTOR = "norms, biases and other vectors"


def role_of(spec: TensorSpec) -> Role:
    """The role, by name and number of dimensions."""
    name = spec.name
    if len(spec.shape) < 2:
        return Role.VECTOR
    if matches(name, EMBEDDINGS):
        return Role.EMBEDDING
    if matches(name, HEADS):
        return Role.HEAD
    if matches(name, ROUTERS):
        return Role.ROUTER
    if matches(name, TOWERS):
        return Role.TOWER
    fused = len(spec.shape) == 3 and matches(name, FUSED_EXPERTS)
    plain = len(spec.shape) == 2 and matches(name, LINEARS)
    return Role.LINEAR if fused or plain else Role.MATRIX


def family_of(config: Mapping[str, Any]) -> str:
    """The model_type of the language model, empty where none is given; config.json is untrusted."""
    text = config.get("text_config")
    kind = (text if isinstance(text, Mapping) else config).get("model_type")
    return kind if isinstance(kind, str) else ""


def require_input_last(spec: TensorSpec, config: Mapping[str, Any], label: str) -> None:
    """Raise UsageError unless the last dimension is known to be the layer's input.

    Groups along the wrong one would go unnoticed: the file would load, and be worse.
    """
    family = family_of(config)
    if family in TRANSPOSED and matches(spec.name, LINEARS):
        raise UsageError(
            f"{family} stores linear weights [in, out], and groups run along the input",
            file=label,
            tensor=spec.name,
            remedy="convert the checkpoint to [out, in], or --exclude the tensor",
        )
    if len(spec.shape) == 3 and family not in EXPERTS_OUT_IN:
        raise UsageError(
            "which dimension of these experts is the input is not known",
            file=label,
            tensor=spec.name,
            expected="one of the families " + ", ".join(sorted(EXPERTS_OUT_IN)),
            got=family or "no model_type",
            remedy="weightsmith experts --to separate first, or --exclude the tensor",
        )
