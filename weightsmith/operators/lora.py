"""What the configuration of a LoRA adapter says, as PEFT reads it (tested with peft 0.21).

LoRA is arXiv 2106.09685, its rank-stabilised scaling arXiv 2312.03732.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weightsmith.errors import InvalidFile, Mismatch, printable

# Kinds of LoRA whose effect on the weights is another than B A; false or null where not used.
_REFUSED = {
    "use_dora": "DoRA also scales each row to a learned length",
    "use_qalora": "QA-LoRA pools the inputs of A",
    "use_bdlora": "BD-LoRA stores the blocks of a diagonal",
    "alora_invocation_tokens": "an activated adapter works on some tokens only",
    "arrow_config": "Arrow chooses among adapters token by token",
    "kasa_config": "KaSA truncates the base as well",
    "velora_config": "VeLoRA stores more than two factors",
    "monteclora_config": "MonteCLoRA stores more than two factors",
    "layer_replication": "the adapter is for a model with repeated layers",
    "megatron_config": "the names are those of Megatron's parallel layers",
    "target_parameters": "one pair of factors stands for all experts of a layer",
    "trainable_token_indices": "single rows of the embedding were trained",
}
# Ways to begin training that change the base too: W + B A is not what was trained then.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_DECISIVE = (
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern"),
    *("use_rslora", "fan_in_fan_out"),
)


@dataclass(frozen=True)
class LoraConfig:
    """adapter_config.json, of which everything is untrusted.

    Attributes:
        content: the parsed file.
        label: how messages call the adapter.
    """

    content: Mapping[str, Any]
    label: str

    def check_kind(self) -> None:
        """Raise Mismatch unless this is LoRA whose effect is `factor * B A`."""
        kind = self.content.get("peft_type")
        if kind != "LORA":
            raise Mismatch(
                "not a LoRA adapter",
                file=self.label,
                expected="peft_type LORA",
                got=printable(str(kind)),
                remedy="merge the adapter with PEFT and give the result",
            )
        for key, why in _REFUSED.items():
            if self.content.get(key):
                raise Mismatch(
                    f"{key} is not supported: {why}",
                    file=self.label,
                    remedy="merge the adapter with PEFT and give the result",
                )
        start = str(self.content.get("init_lora_weights", True)).lower()
        if start.startswith(_CHANGED_BASE):
            raise Mismatch(
                f"init_lora_weights {printable(start)} is not supported: it changed the base too",
                file=self.label,
                remedy="PEFT's save_pretrained(path_initial_model_for_weight_conversion=...) "
                "makes a plain adapter of it",
            )

    @property
    def base_name(self) -> str:
        """The base model as the adapter calls it, or empty."""
        name = self.content.get("base_model_name_or_path")
        return name if isinstance(name, str) else ""

    @property
    def transposed(self) -> bool:
        """Whether weights are said to be stored [in, out]."""
        return bool(self.content.get("fan_in_fan_out"))

    def rank(self, module: str) -> int:
        """The rank of a module's factors."""
        rank = self._value("rank_pattern", "r", 8, module)
        if type(rank) is not int or rank < 1:
            raise self._invalid("r", "an integer from 1 on", rank)
        return rank

    def factor(self, module: str) -> float:
        """What `B A` is multiplied by: alpha / r, or alpha / sqrt(r) if rank-stabilised."""
        alpha = self._value("alpha_pattern", "lora_alpha", 8, module)
        if type(alpha) not in (int, float) or not math.isfinite(alpha):
            raise self._invalid("lora_alpha", "a finite number", alpha)
        rank = self.rank(module)
        factor: float = alpha / (math.sqrt(rank) if self.content.get("use_rslora") else rank)
        return factor

    def record(self) -> dict[str, Any]:
        """What decides on the result, for provenance."""
        given = {key: self.content.get(key) for key in _DECISIVE}
        return {key: value for key, value in given.items() if value}

    def _value(self, patterns: str, default: str, otherwise: int, module: str) -> Any:
        """The value of the first pattern that the end of a module's name matches."""
        given = self.content.get(patterns) or {}
        if not isinstance(given, Mapping):
            raise self._invalid(patterns, "an object", given)
        for pattern, value in given.items():
            try:
                if re.match(rf"(.*\.)?({pattern})$", module):
                    return value
            except re.error:
                raise self._invalid(patterns, "regular expressions", pattern) from None
        return self.content.get(default, otherwise)

    def _invalid(self, key: str, expected: str, got: object) -> InvalidFile:
        return InvalidFile(
            f"adapter_config.json: {key}",
            file=self.label,
            expected=expected,
            got=printable(repr(got)),
        )
