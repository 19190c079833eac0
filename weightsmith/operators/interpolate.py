"""interpolate: (1 - lambda) * A + lambda * B (MI, arXiv 2510.10977)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from weightsmith.errors import Mismatch, UsageError
from weightsmith.operators.delta import DeltaMark
from weightsmith.operators.join import JoiningOperator, Match, join
from weightsmith.operators.numbers import decimal, float32
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
class Interpolate(JoiningOperator):
    """Blend two models: (1 - lambda) * A + lambda * B.

    In the MI paper A is the Instruct model and B the Thinking model. Lambda may differ from tensor
    to tensor, and may lie outside [0, 1]. Names, sidecar files and sharding are those of A.
    """

    name: ClassVar[str] = "interpolate"
    inputs: ClassVar[tuple[Input, ...]] = (
        Input("a", "the model at lambda 0 (MI: Instruct)"),
        Input("b", "the model at lambda 1 (MI: Thinking)"),
    )
    examples: ClassVar[str] = """
    weightsmith interpolate instruct/ thinking/ --lambda 0.8 -o merged/
    weightsmith interpolate a/ b/ --lambda 0.8 --lambda '*.layers.{0..11}.*=0.2' -o merged/
    """

    lam: Values[Decimal] = option(
        "--lambda", "weight of B", default=None, convert=decimal, per_tensor=True
    )

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        if self.lam is None:
            raise UsageError("--lambda is missing", remedy="MI finds 0.8 best: --lambda 0.8")
        mark = _common_mark(inputs)
        joined = join(self, inputs, (0, 1), request)
        lambdas = self.lam.resolve(joined.matched)
        outside = sorted({lam for lam in lambdas.values() if not 0 <= lam <= 1})

        def blend(match: Match) -> TensorPlan:
            lam = lambdas[match.spec.name]
            spec = request.output(match.spec)
            if lam in (0, 1):
                # Exactly A or B, bit for bit; 0 * inf would not be.
                source = (match.slots[int(lam)],)
                return match.plan(spec, source, None)
            return match.plan(spec, match.slots, (_rounded(1 - lam), _rounded(lam)))

        return Draft(
            joined.tensors(blend, request),
            joined.skipped,
            joined.config_patch,
            mark.metadata() if mark else {},
            tuple(f"lambda {lam} extrapolates" for lam in outside),
        )

    def record(self) -> dict[str, Any]:
        """See Operator; lambda under its own name."""
        return {"lambda" if k == "lam" else k: v for k, v in super().record().items()}

    def function(self) -> Function:
        """See Operator."""
        from weightsmith.kernels import elementwise

        def blend(unit: Any) -> int | None:
            out, (a, b) = unit.out, unit.inputs
            weight_a, weight_b = unit.parameters
            return elementwise.lerp(
                out.data, out.dtype, weight_a, a.data, a.dtype, weight_b, b.data, b.dtype
            )

        return blend


def _common_mark(inputs: Sequence[InputView]) -> DeltaMark | None:
    """Two deltas of one base blend into a delta; a delta and a model do not go together."""
    first, second = (DeltaMark.of(view.header.metadata) for view in inputs)
    if first == second and not (first and first.lossless):
        return first
    raise Mismatch(
        "only one input is a delta, or they are lossless or of different bases",
        file=inputs[0 if first else 1].label,
        remedy="graft the delta first",
    )


def _rounded(number: Decimal) -> float:
    try:
        return float32(number)
    except ValueError as error:
        raise UsageError(f"--lambda: {error}") from None
