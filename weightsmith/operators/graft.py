"""graft: W_I+ = W_I + scale * (W_B+ - W_B) (Shadow-FT, arXiv 2505.12716)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, ClassVar

from weightsmith.errors import Mismatch, UsageError
from weightsmith.operators.delta import DeltaMark, decoded, refuse_delta
from weightsmith.operators.join import JoiningOperator, Match, join
from weightsmith.operators.numbers import decimal, float32
from weightsmith.operators.operator import (
    Draft,
    Function,
    Input,
    InputView,
    Request,
    Slot,
    TensorPlan,
    option,
)
from weightsmith.operators.provenance import record_of, stream_fingerprint
from weightsmith.operators.registry import register
from weightsmith.selection import Values

BASE, INSTRUCT, TUNED = range(3)


@register
@dataclass(frozen=True, kw_only=True)
class Graft(JoiningOperator):
    """Put what tuning taught BASE onto INSTRUCT: INSTRUCT + scale * (TUNED - BASE).

    TUNED is a model or a delta. With a delta, BASE is only compared with the base that the delta
    was taken from (a lossless delta needs its data too). The output has the names, sidecar files
    and sharding of INSTRUCT; tensors come in the order of TUNED where that is a stream.
    """

    name: ClassVar[str] = "graft"
    inputs: ClassVar[tuple[Input, ...]] = (
        Input("base", "the model that was tuned, before tuning"),
        Input("instruct", "the model to improve"),
        Input("tuned", "BASE after tuning, or a delta of it", stdin=True),
    )
    primary: ClassVar[int] = INSTRUCT
    examples: ClassVar[str] = """
    weightsmith graft base/ instruct/ tuned/ -o grafted/
    weightsmith delta base/ tuned/ | weightsmith graft base/ instruct/ -o grafted/
    weightsmith graft base/ instruct/ tuned/ --scale 1 --scale '*.layers.{0..7}.*=0.5' -o grafted/
    """

    scale: Values[Decimal] = option(
        "--scale", "factor on the delta", default="1", convert=decimal, per_tensor=True
    )
    tuned_is: str = option(
        "--tuned-is",
        "what TUNED holds, where its metadata does not say",
        default="auto",
        choices=("auto", "delta", "weights"),
        metavar="auto|delta|weights",
    )

    def record(self) -> dict[str, Any]:
        """See Operator; what TUNED is shows in the record of TUNED."""
        return {key: value for key, value in super().record().items() if key != "tuned_is"}

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        base, instruct, tuned = inputs
        refuse_delta(base, "BASE is the model that was tuned")
        refuse_delta(instruct, "INSTRUCT is the model that the delta is added to")
        mark = self._mark(tuned)
        if mark is None:
            return self._draft(inputs, (BASE, INSTRUCT, TUNED), request, "graft")
        warnings = _check_base(mark, base, tuned, request.force)
        lineage = _lineage_of_delta(tuned)
        if not mark.lossless:
            draft = self._draft(inputs, (INSTRUCT, TUNED), request, "add")
        else:
            restored = replace(tuned, header=decoded(tuned.header, base.header))
            same = self.scale.record() == "1" and _same_data(base, instruct)
            draft = self._draft(
                (base, instruct, restored),
                (BASE, INSTRUCT, TUNED),
                request,
                "restore" if same and request.dtype is None else "graft-bits",
            )
        return replace(draft, warnings=warnings, lineage=lineage)

    def _mark(self, tuned: InputView) -> DeltaMark | None:
        mark = DeltaMark.of(tuned.header.metadata)
        if self.tuned_is == "weights":
            return None
        if self.tuned_is == "delta" and mark is None:
            return DeltaMark("", lossless=False)
        return mark

    def _draft(
        self,
        inputs: Sequence[InputView],
        participants: tuple[int, ...],
        request: Request,
        formula: str,
    ) -> Draft:
        joined = join(self, inputs, participants, request, any_dtype=formula == "restore")
        scales = self.scale.resolve(joined.matched)

        def plan_match(match: Match) -> TensorPlan:
            scale = scales[match.spec.name]
            if scale == 0:
                instruct = (next(slot for slot in match.slots if slot.source == INSTRUCT),)
                return match.plan(request.output(match.spec), instruct, None)
            return match.plan(
                request.output(match.spec), _by_source(match.slots), (formula, _rounded(scale))
            )

        tensors = joined.tensors(plan_match, request)
        return Draft(tensors, joined.skipped, joined.config_patch)

    def function(self) -> Function:
        """See Operator."""
        from weightsmith.kernels import elementwise as kernel

        def graft(unit: Any) -> int | None:
            formula, scale = unit.parameters
            out = unit.out
            if formula == "add":
                instruct, delta = unit.inputs
                return kernel.axpy(
                    out.data,
                    out.dtype,
                    instruct.data,
                    instruct.dtype,
                    scale,
                    delta.data,
                    delta.dtype,
                )
            base, instruct, tuned = unit.inputs
            if formula == "restore":
                kernel.xor(out.data, base.data, tuned.data)
                return 0
            weights = tuned.data
            if formula == "graft-bits":
                weights = memoryview(bytearray(len(base.data)))
                kernel.xor(weights, base.data, tuned.data)
            return kernel.graft(
                out.data,
                out.dtype,
                instruct.data,
                instruct.dtype,
                scale,
                weights,
                tuned.dtype,
                base.data,
                base.dtype,
            )

        return graft


def _by_source(slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
    return tuple(sorted(slots, key=lambda slot: slot.source))


def _rounded(scale: Decimal) -> float:
    try:
        return float32(scale)
    except ValueError as error:
        raise UsageError(f"--scale: {error}") from None


def _check_base(mark: DeltaMark, base: InputView, tuned: InputView, force: bool) -> tuple[str, ...]:
    if not mark.base:
        return ("TUNED does not say which base it was taken from; BASE is taken on trust",)
    if mark.base.startswith("header:") and mark.base == stream_fingerprint(base.header):
        return ("the delta's base was a stream without a record: only names and shapes compared",)
    if mark.base == base.fingerprint or mark.base == base.identify(mark.base.partition(":")[0]):
        return ()
    if force:
        return ("the delta was taken from another base than BASE (--force)",)
    raise Mismatch(
        "the delta was taken from another base",
        file=tuned.label,
        expected=f"base {mark.base}",
        got=f"{base.fingerprint} ({base.label})",
        remedy="name the base that the delta was taken from, or --force",
    )


def _same_data(one: InputView, other: InputView) -> bool:
    """Whether two inputs hold the same bytes; samples are not enough to go by."""
    if one.identity is not None and one.identity == other.identity:
        return True
    full = [view.identify("full") for view in (one, other)]
    return full[0] == full[1] and full[0].startswith("full:")


def _lineage_of_delta(tuned: InputView) -> dict[str, Any]:
    """What the record says of the delta's base and tuned: what a graft of TUNED itself would say.

    What the delta did otherwise is added. Without a record the delta stands for TUNED.
    """
    record = record_of(tuned.header.metadata)
    if record is None or not {"base", "tuned"} <= record["inputs"].keys():
        return {"tuned": tuned.lineage}
    base, origin, parameters = *map(record["inputs"].get, ("base", "tuned")), record["parameters"]
    return {"base": base, "tuned": origin | ({"delta": parameters} if parameters else {})}
