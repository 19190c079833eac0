"""slerp: between two models along the great circle of each tensor (Shoemake, SIGGRAPH 1985)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from weightsmith.errors import UsageError
from weightsmith.operators.delta import refuse_delta
from weightsmith.operators.join import JoiningOperator, Match, join
from weightsmith.operators.numbers import decimal
from weightsmith.operators.operator import (
    Draft,
    Function,
    Granularity,
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
class Slerp(JoiningOperator):
    """Interpolate two models spherically: each tensor turns from A's direction to B's.

    Names, sidecar files and sharding are those of A. Tensors that point the same way, or opposite
    ways, within an angle of 1.8 degrees, are interpolated linearly.
    """

    name: ClassVar[str] = "slerp"
    inputs: ClassVar[tuple[Input, ...]] = (
        Input("a", "the model at t 0"),
        Input("b", "the model at t 1"),
    )
    granularity: ClassVar[Granularity] = Granularity.TENSOR
    working_arrays: ClassVar[int] = 0
    examples: ClassVar[str] = """
    weightsmith slerp a/ b/ --t 0.5 -o merged/
    weightsmith slerp a/ b/ --t 0.5 --t '*.self_attn.*=0.3' -o merged/
    """

    t: Values[Decimal] = option(
        "--t", "how far to go from A to B", default=None, convert=decimal, per_tensor=True
    )

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        if self.t is None:
            raise UsageError("--t is missing", remedy="--t 0.5 is half-way")
        for view in inputs:
            refuse_delta(view, "graft adds deltas to a model")
        joined = join(self, inputs, (0, 1), request)
        ts = self.t.resolve(joined.matched)

        def turn(match: Match) -> TensorPlan:
            t = ts[match.spec.name]
            spec = request.output(match.spec)
            if t in (0, 1):
                return match.plan(spec, (match.slots[int(t)],), None)
            return match.plan(spec, match.slots, float(t))

        return Draft(joined.tensors(turn, request), joined.skipped, joined.config_patch)

    def function(self) -> Function:
        """See Operator."""
        from weightsmith.operators.arithmetic.blends import great_circle

        def turn(unit: Any) -> int:
            return great_circle(unit, unit.parameters)

        return turn
