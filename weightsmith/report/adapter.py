"""The layout of a LoRA adapter as the PEFT library reads it: names, ranks, configuration."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from weightsmith.checkpoint.adapter import CONFIG, WEIGHTS
from weightsmith.families import EMBEDDINGS, HEADS, POSITIONS, matches
from weightsmith.header import TensorSpec

__all__ = ["CONFIG", "README", "WEIGHTS", "adapter_config", "card", "keys", "module_of", "unfit"]

README = "README.md"
_SUFFIX = ".weight"
# Rank patterns are regular expressions to PEFT; other characters would mean something else there.
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")


def module_of(tensor: str) -> str:
    """The module of a weight."""
    return tensor.removesuffix(_SUFFIX)


def keys(tensor: str) -> tuple[str, str]:
    """What A and B of a weight are called in an adapter file."""
    module = f"base_model.model.{module_of(tensor)}"
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def unfit(spec: TensorSpec, *, heads: bool) -> str | None:
    """Why a tensor gets no low-rank pair; None if it is a linear layer's weight.

    Args:
        spec: the tensor.
        heads: whether output heads are asked for.
    """
    if len(spec.shape) != 2:
        return f"{len(spec.shape)} dimensions"
    if spec.numel == 0:
        return "no elements"
    if not spec.name.endswith(_SUFFIX):
        return "not a module's weight"
    if matches(spec.name, (*EMBEDDINGS, *POSITIONS)):
        return "embedding"
    if matches(spec.name, HEADS) and not heads:
        return "output head"
    if not _PLAIN.fullmatch(spec.name):
        return "its name cannot stand in an adapter's configuration"
    return None


def adapter_config(
    ranks: Mapping[str, int], others: Iterable[str], base_name: str
) -> dict[str, Any]:
    """The configuration of an adapter whose scaling is 1 everywhere.

    Args:
        ranks: the rank of each weight in the adapter, by tensor name.
        others: the model's other tensors, which the target modules must not name.
        base_name: the name of the base model, or empty.
    """
    common = Counter(ranks.values()).most_common(1)[0][0]
    pattern = {module_of(name): rank for name, rank in ranks.items() if rank != common}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name or None,
        "r": common,
        "lora_alpha": common,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": _target_modules(ranks, others),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_dropout": 0.0,
        "use_dora": False,
        "use_rslora": False,
    }


def card(ranks: Mapping[str, int], energy: float) -> str:
    """The text of README.md: what this is, without names of files."""
    least, most = min(ranks.values()), max(ranks.values())
    rank = f"rank {least}" if least == most else f"ranks {least} to {most}"
    return "\n".join(
        [
            "---",
            "library_name: peft",
            "tags:",
            "- weightsmith",
            "- lora",
            "---",
            "",
            "# weightsmith extract-lora",
            "",
            f"A LoRA adapter of {rank} for {len(ranks)} weights: the truncated difference of a",
            f"fine-tuned model and its base. It holds {100 * energy:.2f}% of the squared norm of",
            "all that the fine-tune changed. Load it with PEFT on the base model.",
            "",
        ]
    )


def _target_modules(ranks: Iterable[str], others: Iterable[str]) -> list[str]:
    """Last parts of the names, such as "q_proj", unless those would name other weights too."""
    short = sorted({_last(name) for name in ranks})
    if {_last(name) for name in others if name.endswith(_SUFFIX)}.isdisjoint(short):
        return short
    return [module_of(name) for name in ranks]


def _last(tensor: str) -> str:
    return module_of(tensor).rpartition(".")[2]
