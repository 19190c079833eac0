"""What one input of graft contributes: a tuned model, a delta or an adapter, and its scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from weightsmith.errors import Mismatch, UsageError
from weightsmith.operators.adapter import Adapter
from weightsmith.operators.delta import DeltaMark, decoded
from weightsmith.operators.matching import Match
from weightsmith.operators.numbers import float32
from weightsmith.operators.operator import InputView
from weightsmith.operators.provenance import record_of, stream_fingerprint
from weightsmith.operators.terms import Kind, Part, Term
from weightsmith.selection import Values


@dataclass(frozen=True)
class Contribution:
    """An input whose change of the base is added.

    Attributes:
        view: the input; of a lossless delta, with the tensors that it restores.
        source: its index.
        base: the index of the model that was tuned.
        kind: how its tensors stand for a change; None for an adapter.
        adapter: what it is if it is one.
        scale: the factor on the change.
        warnings: what the user should know.
        lineage: nodes of a provenance record: its own as "tuned", and "base" if it knows better.
    """

    view: InputView
    source: int
    base: int
    kind: Kind | None
    adapter: Adapter | None
    scale: Values[Decimal]
    warnings: tuple[str, ...]
    lineage: dict[str, Any]

    @classmethod
    def of(
        cls,
        inputs: Sequence[InputView],
        source: int,
        base: int,
        scale: Values[Decimal],
        *,
        what: str,
        force: bool,
    ) -> Contribution:
        """Find out what an input is, and check that it belongs to the base.

        Args:
            what: --tuned-is.
            force: go on where a delta was taken from another base.

        Raises:
            Mismatch: an adapter of a kind that is not supported; a delta of another base.
        """
        view = inputs[source]
        adapter = Adapter.of(view, source, (inputs[base], base))
        if adapter is not None:
            lineage = {"tuned": adapter.lineage}
            return cls(view, source, base, None, adapter, scale, adapter.warnings(), lineage)
        mark = _mark(view, what)
        if mark is None:
            own = {"tuned": view.lineage}
            return cls(view, source, base, Kind.DIFFERENCE, None, scale, (), own)
        warnings = _check_base(mark, inputs[base], view, force)
        if mark.lossless:
            view = replace(view, header=decoded(view.header, inputs[base].header))
        kind = Kind.BITS if mark.lossless else Kind.DELTA
        return cls(view, source, base, kind, None, scale, warnings, _lineage_of_delta(view))

    @property
    def participants(self) -> set[int]:
        """The inputs that must have every tensor, for this one to be added."""
        if self.adapter is not None:
            return set()
        return {self.source} if self.kind is Kind.DELTA else {self.source, self.base}

    def changes(self, match: Match) -> bool:
        """Whether it has anything to add to a tensor."""
        if self.adapter is not None:
            return match.spec.name in self.adapter.pieces
        return any(slot.source == self.source for slot in match.slots)

    def term(self, match: Match, scale: Decimal) -> Term:
        """What it adds to a tensor that it changes.

        Raises:
            Mismatch: an adapter's shapes do not fit.
            UsageError: the scale is too large for float32.
        """
        if self.adapter is not None:
            if any(slot.spec.shape != match.spec.shape for slot in match.slots):
                raise Mismatch(
                    "an adapter does not fit a vocabulary that changes its size",
                    file=self.view.label,
                    tensor=match.spec.name,
                )
            return Term(self._rounded(scale), self.adapter.parts(match.spec))
        assert self.kind is not None, "it is a model or a delta"
        slots = {slot.source: slot for slot in match.slots}
        base = () if self.kind is Kind.DELTA else (slots[self.base],)
        part = Part(self.kind, (slots[self.source], *base))
        return Term(self._rounded(scale), (part,))

    def _rounded(self, scale: Decimal) -> float:
        try:
            return float32(scale)
        except ValueError as error:
            raise UsageError(f"{self.scale.option}: {error}") from None


def _mark(view: InputView, what: str) -> DeltaMark | None:
    mark = DeltaMark.of(view.header.metadata)
    if what == "weights":
        return None
    if what == "delta" and mark is None:
        return DeltaMark("", lossless=False)
    return mark


def _check_base(mark: DeltaMark, base: InputView, delta: InputView, force: bool) -> tuple[str, ...]:
    who = delta.label if delta.role != "tuned" else "TUNED"
    if not mark.base:
        return (f"{who} does not say which base it was taken from; BASE is taken on trust",)
    if mark.base.startswith("header:") and mark.base == stream_fingerprint(base.header):
        return ("the delta's base was a stream without a record: only names and shapes compared",)
    if mark.base == base.fingerprint or mark.base == base.identify(mark.base.partition(":")[0]):
        return ()
    if force:
        return ("the delta was taken from another base than BASE (--force)",)
    raise Mismatch(
        "the delta was taken from another base",
        file=delta.label,
        expected=f"base {mark.base}",
        got=f"{base.fingerprint} ({base.label})",
        remedy="name the base that the delta was taken from, or --force",
    )


def _lineage_of_delta(delta: InputView) -> dict[str, Any]:
    """What the record says of the delta's base and tuned: what a graft of TUNED itself would say.

    What the delta did otherwise is added. Without a record the delta stands for TUNED.
    """
    record = record_of(delta.header.metadata)
    if record is None or not {"base", "tuned"} <= record["inputs"].keys():
        return {"tuned": delta.lineage}
    base, origin, parameters = *map(record["inputs"].get, ("base", "tuned")), record["parameters"]
    return {"base": base, "tuned": origin | ({"delta": parameters} if parameters else {})}
