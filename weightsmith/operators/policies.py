"""The policies of operators with several inputs, as options of their commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weightsmith.operators.blending import numbered
from weightsmith.operators.operator import InputView, Operator, option
from weightsmith.renaming import Rule, renamed


@dataclass(frozen=True, kw_only=True)
class JoiningOperator(Operator):
    """Base of operators with several inputs: the policies for what does not match."""

    missing: str = option(
        "--missing",
        "a tensor that only some inputs have: keep the primary input's, or drop it",
        default="error",
        choices=("error", "keep", "drop"),
        metavar="error|keep|drop",
    )
    opaque: str = option(
        "--opaque",
        "integer, float8, float64 and packed tensors: copy the primary input's, or drop them",
        default="error",
        choices=("error", "copy", "drop"),
        metavar="error|copy|drop",
    )
    vocab: str = option(
        "--vocab",
        "embeddings with different numbers of rows: the input whose rows the output has "
        "(rows that others lack are copied), or the common ones",
        default="error",
        metavar="error|common|INPUT",
    )
    lm_head: str = option(
        "--lm-head",
        "an lm_head that only some inputs have: tie drops it, untie takes the embedding for it",
        default="error",
        choices=("error", "tie", "untie"),
        metavar="error|tie|untie",
    )
    tokenizers: str = option(
        "--tokenizers",
        "tokenizers that give one id two meanings",
        default="error",
        choices=("error", "ignore"),
        metavar="error|ignore",
    )

    rename: tuple[Rule, ...] = option(
        "--rename",
        "change names before they are compared: all inputs but the primary's, or those of ROLE",
        default=(),
        convert=Rule.parse,
        metavar="[ROLE:]s/REGEX/NEW/",
        repeated=True,
    )

    def renamed(self, inputs: Sequence[InputView]) -> Sequence[Mapping[str, str]]:
        """See Operator."""
        roles = [view.role for view in numbered(inputs)]
        others = [role for index, role in enumerate(roles) if index != self.primary]
        headers = [view.header for view in inputs]
        return renamed(self.rename, list(zip(roles, headers, strict=True)), others)

    def record(self) -> dict[str, Any]:
        """Policies count only where they were used, so that defaults leave no trace."""
        policies = ("missing", "opaque", "vocab", "lm_head", "tokenizers")
        return {
            key: value
            for key, value in Operator.record(self).items()
            if key not in policies or value != "error"
        }
