"""delta: what tuning changed, W_B+ - W_B, as a checkpoint of its own (Shadow-FT, 2505.12716)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from weightsmith.dtypes import DTYPES
from weightsmith.errors import Mismatch, UsageError
from weightsmith.header import Header, TensorSpec
from weightsmith.operators.adapter import Adapter, refuse_adapter
from weightsmith.operators.join import JoiningOperator, Match, join
from weightsmith.operators.operator import (
    Draft,
    Function,
    Granularity,
    Input,
    InputView,
    Request,
    TensorPlan,
    option,
    whole,
)
from weightsmith.operators.provenance import canonical, read_object
from weightsmith.operators.registry import register
from weightsmith.operators.terms import Term, by_rows, placed

BASE, TUNED = range(2)
DELTA = "weightsmith.delta"
_UNSIGNED = {8: "U8", 16: "U16", 32: "U32", 64: "U64"}


@dataclass(frozen=True)
class DeltaMark:
    """How a checkpoint says that it is a delta.

    Attributes:
        base: fingerprint of the base it was taken from.
        lossless: whether it holds changed bits (XOR) instead of differences.
    """

    base: str
    lossless: bool

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> DeltaMark | None:
        """The mark in a header's metadata, or None."""
        mark = read_object(metadata, DELTA)
        if mark is None or not isinstance(mark.get("base"), str):
            return None
        return cls(mark["base"], mark.get("encoding") == "xor")

    def metadata(self) -> dict[str, str]:
        """The entry that marks a header."""
        encoding = "xor" if self.lossless else "difference"
        return {DELTA: canonical({"base": self.base, "encoding": encoding})}


def refuse_delta(view: InputView, why: str) -> None:
    """Raise Mismatch if an input is a delta."""
    if DeltaMark.of(view.header.metadata):
        raise Mismatch(f"{view.role.upper()} is a delta, not a model", file=view.label, remedy=why)


@register
@dataclass(frozen=True, kw_only=True)
class Delta(JoiningOperator):
    """Take the delta TUNED - BASE.

    The result is float32 unless --dtype says otherwise, for bfloat16 would round every difference
    again. It records the fingerprint of BASE, so that graft can tell another base. With
    --lossless it holds the changed bits, and graft onto the same base restores TUNED exactly.
    Of an adapter it holds the tensors that the adapter changes.
    """

    name: ClassVar[str] = "delta"
    inputs: ClassVar[tuple[Input, ...]] = (
        Input("base", "the model before tuning"),
        Input("tuned", "the model after tuning, or an adapter of BASE"),
    )
    primary: ClassVar[int] = 1
    examples: ClassVar[str] = """
    weightsmith delta base/ tuned/ -o delta.safetensors
    weightsmith delta base/ tuned/ | weightsmith graft base/ instruct/ -o grafted/
    """

    missing: str = option(
        "--missing",
        "a tensor that only one input has",
        default="error",
        choices=("error", "drop"),
        metavar="error|drop",
    )
    opaque: str = option(
        "--opaque",
        "integer, float8, float64 and packed tensors (--lossless takes them all)",
        default="error",
        choices=("error", "drop"),
        metavar="error|drop",
    )
    lossless: bool = option(
        "--lossless",
        "store changed bits, so that graft onto BASE gives TUNED exactly",
        default=False,
    )

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        base, tuned = inputs
        for view in inputs:
            refuse_delta(view, "a delta of a delta has no base to be grafted onto")
        refuse_adapter(base, "BASE is the model that was tuned")
        if self.lossless and request.dtype:
            raise UsageError("--lossless keeps the bits of the input, so --dtype makes no sense")
        adapter = Adapter.of(tuned, TUNED, (base, BASE))
        if adapter is not None:
            return self._of_adapter(adapter, base, request)
        joined = join(self, inputs, (0, 1), request, copies=False, any_dtype=self.lossless)

        def difference(match: Match) -> TensorPlan:
            if match.tail is not None:
                raise UsageError(
                    "a delta has no rows beyond the common ones", tensor=match.spec.name
                )
            if self.lossless and any(slot.spec.shape != match.spec.shape for slot in match.slots):
                raise UsageError("--lossless cannot leave rows out", tensor=match.spec.name)
            spec = _bits(match.spec) if self.lossless else request.output(match.spec, "F32")
            return match.plan(spec, match.slots, ())

        return Draft(
            joined.tensors(difference, request),
            joined.skipped,
            joined.config_patch | ({} if self.lossless else _dtype_patch(request)),
            DeltaMark(base.fingerprint, self.lossless).metadata(),
        )

    def _of_adapter(self, adapter: Adapter, base: InputView, request: Request) -> Draft:
        """The tensors that an adapter changes, in the order of BASE and with its files."""
        if self.lossless:
            raise UsageError(
                "--lossless stores changed bits, and an adapter has differences",
                file=adapter.view.label,
            )
        adapter.check_names(base)
        changed = [spec for spec in base.header.tensors if spec.name in adapter.pieces]
        request.selection.check([spec.name for spec in changed])

        def change(spec: TensorSpec) -> TensorPlan:
            slots, terms = placed((), [Term(1.0, adapter.parts(spec))])
            rows = Granularity.ROW if by_rows(terms) else None
            return whole(request.output(spec, "F32"), slots, terms, granularity=rows)

        return Draft(
            tuple(change(spec) for spec in changed if spec.name in request.selection),
            {s.name: "not selected" for s in changed if s.name not in request.selection},
            _dtype_patch(request),
            DeltaMark(base.fingerprint, lossless=False).metadata(),
            adapter.warnings(),
            {"tuned": adapter.lineage},
            primary=BASE,
        )

    def function(self) -> Function:
        """See Operator."""
        from weightsmith.kernels import elementwise

        def difference(unit: Any) -> int | None:
            if unit.parameters:  # of an adapter
                from weightsmith.operators.arithmetic.terms import add_parts

                return add_parts(unit)
            base, tuned = unit.inputs
            if self.lossless:
                elementwise.xor(unit.out.data, tuned.data, base.data)
                return 0
            return elementwise.difference(
                unit.out.data, unit.out.dtype, tuned.data, tuned.dtype, base.data, base.dtype
            )

        return difference


def _dtype_patch(request: Request) -> dict[str, str]:
    return {"dtype": DTYPES[request.dtype or "F32"].torch_name}


def _bits(spec: TensorSpec) -> TensorSpec:
    bits = DTYPES[spec.dtype].bits
    if bits < 8:  # several elements share a byte
        return TensorSpec(spec.name, "U8", (spec.nbytes,))
    return TensorSpec(spec.name, _UNSIGNED[bits], spec.shape)


def decoded(header: Header, base: Header) -> Header:
    """The header of a lossless delta, with the dtypes and shapes of the tensors it restores."""
    specs = []
    for spec in header.tensors:
        original = base.by_name.get(spec.name)
        if original is None or _bits(original) != spec:
            raise Mismatch("lossless delta does not fit this base", tensor=spec.name)
        specs.append(original)
    return Header(tuple(specs), header.metadata)
