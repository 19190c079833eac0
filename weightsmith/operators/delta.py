"""delta: what tuning changed, W_B+ - W_B, as a checkpoint of its own (Shadow-FT, 2505.12716)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from weightsmith.dtypes import DTYPES
from weightsmith.errors import Mismatch, UsageError
from weightsmith.header import Header, TensorSpec
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
from weightsmith.operators.provenance import canonical, read_object
from weightsmith.operators.registry import register

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
    """

    name: ClassVar[str] = "delta"
    inputs: ClassVar[tuple[Input, ...]] = (
        Input("base", "the model before tuning"),
        Input("tuned", "the model after tuning"),
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
        base, _ = inputs
        for view in inputs:
            refuse_delta(view, "a delta of a delta has no base to be grafted onto")
        if self.lossless and request.dtype:
            raise UsageError("--lossless keeps the bits of the input, so --dtype makes no sense")
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

        patch = {"dtype": DTYPES[request.dtype or "F32"].torch_name}
        return Draft(
            joined.tensors(difference, request),
            joined.skipped,
            joined.config_patch | ({} if self.lossless else patch),
            DeltaMark(base.fingerprint, self.lossless).metadata(),
        )

    def function(self) -> Function:
        """See Operator."""
        from weightsmith.kernels import elementwise

        def difference(unit: Any) -> int | None:
            base, tuned = unit.inputs
            if self.lossless:
                elementwise.xor(unit.out.data, tuned.data, base.data)
                return 0
            return elementwise.difference(
                unit.out.data, unit.out.dtype, tuned.data, tuned.dtype, base.data, base.dtype
            )

        return difference


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
