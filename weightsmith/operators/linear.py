"""linear: a weighted mean of models (model soups, arXiv 2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from weightsmith.errors import UsageError
from weightsmith.operators.blending import Numbers, numbered, numbers, rounded
from weightsmith.operators.delta import refuse_delta
from weightsmith.operators.join import JoiningOperator, Match, join
from weightsmith.operators.operator import (
    Draft,
    Function,
    Input,
    InputView,
    Request,
    TensorPlan,
    option,
)
from weightsmith.operators.registry import register
from weightsmith.selection import Values


@register
@dataclass(frozen=True, kw_only=True)
class Linear(JoiningOperator):
    """Average models: the sum of weight * MODEL, divided by the sum of the weights.

    Names, sidecar files and sharding are those of the first MODEL. With one weight, or none, all
    models count the same.
    """

    name: ClassVar[str] = "linear"
    inputs: ClassVar[tuple[Input, ...]] = (Input("model", "the models to average", many=True),)
    examples: ClassVar[str] = """
    weightsmith linear a/ b/ c/ -o soup/
    weightsmith linear a/ b/ --weight 0.7,0.3 --weight '*.layers.{0..11}.*=1,0' -o soup/
    """

    weight: Values[Numbers] = option(
        "--weight",
        "a weight for each MODEL, separated by commas, or one for all",
        default="1",
        convert=numbers,
        per_tensor=True,
        metavar="W,W,...",
    )
    no_normalize: bool = option(
        "--no-normalize", "do not divide by the sum of the weights", default=False
    )

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        for view in inputs:
            refuse_delta(view, "graft adds deltas to a model")
        joined = join(self, numbered(inputs), range(len(inputs)), request)
        weights = self.weight.resolve(joined.matched)

        def blend(match: Match) -> TensorPlan:
            name = match.spec.name
            given = weights[name].spread(len(inputs), "--weight", name)
            total = 1 if self.no_normalize else sum(map(Fraction, given))
            if not total:
                raise UsageError(
                    "the weights add up to 0",
                    tensor=name,
                    remedy="--no-normalize does not divide by their sum",
                )
            shares = [Fraction(weight) / total for weight in given]
            # What has no weight is not read: 0 * inf would not be 0.
            kept = [i for i, share in enumerate(shares) if share] or [0]
            spec, slots = request.output(match.spec), tuple(match.slots[i] for i in kept)
            if len(kept) == 1 and shares[kept[0]] == 1:
                return match.plan(spec, slots, None)
            factors = tuple(rounded(shares[i], "--weight") for i in kept)
            return match.plan(spec, slots, factors)

        return Draft(joined.tensors(blend, request), joined.skipped, joined.config_patch)

    def function(self) -> Function:
        """See Operator."""
        from weightsmith.operators.arithmetic.blends import weighted_sum

        def blend(unit: Any) -> int:
            return weighted_sum(unit, unit.parameters)

        return blend
