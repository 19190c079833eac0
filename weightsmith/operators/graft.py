"""graft: W_I+ = W_I + scale * (W_B+ - W_B) (Shadow-FT, arXiv 2505.12716), for one or more W_B+."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, ClassVar

from weightsmith.errors import Mismatch, UsageError
from weightsmith.operators import additions
from weightsmith.operators.adapter import Adapter, refuse_adapter
from weightsmith.operators.contribution import Contribution
from weightsmith.operators.delta import refuse_delta
from weightsmith.operators.join import Joined, JoiningOperator, Match, check_tokenizers, join
from weightsmith.operators.numbers import decimal
from weightsmith.operators.operator import (
    Draft,
    Function,
    Granularity,
    Input,
    InputView,
    Request,
    Slot,
    TensorPlan,
    option,
    whole,
)
from weightsmith.operators.provenance import canonical
from weightsmith.operators.registry import register
from weightsmith.operators.terms import Kind, Term, add_directly, by_rows, placed, restore
from weightsmith.selection import Values

BASE, INSTRUCT = range(2)
_ADDED = Input("add", "", many=True)


@register
@dataclass(frozen=True, kw_only=True)
class Graft(JoiningOperator):
    """Put what tuning taught BASE onto INSTRUCT: INSTRUCT + scale * (TUNED - BASE).

    TUNED is a model, a delta or a PEFT LoRA adapter. With a delta, BASE is only compared with the
    base that the delta was taken from (a lossless delta needs its data too). More of them are
    added with --add, and TUNED may then be left out. The output has the names, sidecar files
    and sharding of INSTRUCT; tensors come in the order of TUNED where that is a stream.
    """

    name: ClassVar[str] = "graft"
    inputs: ClassVar[tuple[Input, ...]] = (
        Input("base", "the model that was tuned, before tuning"),
        Input("instruct", "the model to improve"),
        Input("tuned", "BASE after tuning, a delta of it, or an adapter", stdin=True),
    )
    primary: ClassVar[int] = INSTRUCT
    examples: ClassVar[str] = """
    weightsmith graft base/ instruct/ tuned/ -o grafted/
    weightsmith delta base/ tuned/ | weightsmith graft base/ instruct/ -o grafted/
    weightsmith graft base/ instruct/ lora/ -o grafted/
    weightsmith graft base/ instruct/ --add math/=0.5 --add style/=-0.3 -o grafted/
    weightsmith graft base/ instruct/ tuned/ --scale 1 --scale '*.layers.{0..7}.*=0.5' -o grafted/
    """

    scale: Values[Decimal] = option(
        "--scale", "factor on what TUNED changed", default="1", convert=decimal, per_tensor=True
    )
    add: tuple[str, ...] = option(
        additions.FLAG,
        "a further model, delta or adapter of BASE, and its scale (DELTA=GLOB=SCALE after that "
        "for a pattern)",
        default=(),
        repeated=True,
        metavar="DELTA=SCALE",
    )
    tuned_is: str = option(
        "--tuned-is",
        "what TUNED and those added hold; auto goes by their metadata, the others overrule it",
        default="auto",
        choices=("auto", "delta", "weights"),
        metavar="auto|delta|weights",
    )

    def record(self) -> dict[str, Any]:
        """See Operator; what was added, and what TUNED is, shows in the records of the inputs."""
        shown = ("tuned_is", "add")
        return {key: value for key, value in super().record().items() if key not in shown}

    @property
    def reads_stdin(self) -> bool:
        """See Operator: with something to add, TUNED may be left out."""
        return not self.add

    def further(self) -> tuple[tuple[Input, str], ...]:
        """See Operator."""
        return tuple((_ADDED, each.address) for each in additions.parse(self.add))

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        base, instruct = inputs[BASE], inputs[INSTRUCT]
        refuse_delta(base, "BASE is the model that was tuned")
        refuse_delta(instruct, "INSTRUCT is the model that the delta is added to")
        refuse_adapter(base, "BASE is the model that was tuned")
        refuse_adapter(instruct, "merge it into its base first: graft BASE BASE ADAPTER")
        given = list(self._contributions(inputs, request.force))
        if len(given) == 1 and given[0].kind is Kind.BITS and self._restores(inputs, request):
            given = [replace(given[0], kind=Kind.RESTORE)]
        joined = self._join(inputs, given, request)
        scales = [
            each.scale.resolve([match.spec.name for match in joined.matches if each.changes(match)])
            for each in given
        ]

        def add(match: Match) -> TensorPlan:
            terms = [
                each.term(match, scale)
                for each, by_name in zip(given, scales, strict=True)
                if (scale := by_name.get(match.spec.name, Decimal(0)))
            ]
            return _plan(match, terms, request)

        return Draft(
            joined.tensors(add, request),
            joined.skipped,
            joined.config_patch,
            warnings=tuple(warning for each in given for warning in each.warnings),
            lineage=_lineage(given),
        )

    def _contributions(self, inputs: Sequence[InputView], force: bool) -> Iterator[Contribution]:
        """TUNED first; what is added follows in an order that is not that of the command line."""
        added = iter(additions.parse(self.add))
        found = [
            Contribution.of(
                inputs,
                index,
                BASE,
                next(added).scale if view.many else self.scale,
                what=self.tuned_is,
                force=force,
            )
            for index, view in enumerate(inputs)
            if index not in (BASE, INSTRUCT)
        ]
        if all(inputs[each.source].many for each in found) and self.scale.record() != "1":
            raise UsageError("--scale is the factor of TUNED, and there is none")
        return iter(sorted(found, key=_rank))

    def _restores(self, inputs: Sequence[InputView], request: Request) -> bool:
        """Whether a lossless delta comes onto the very base it was taken from."""
        plain = self.scale.record() == "1" and not self.add and request.dtype is None
        return plain and _same_data(inputs[BASE], inputs[INSTRUCT])

    def _join(
        self, inputs: Sequence[InputView], given: Sequence[Contribution], request: Request
    ) -> Joined:
        """The tensors of all inputs that must agree; what adapters change is a match besides."""
        views = list(inputs)
        for each in given:
            views[each.source] = each.view
        participants = sorted({INSTRUCT}.union(*(each.participants for each in given)))
        adapters = [each.adapter for each in given if each.adapter is not None]
        if len(participants) > 1:
            any_dtype = given[0].kind is Kind.RESTORE
            joined = join(self, views, participants, request, any_dtype=any_dtype)
        else:
            specs = inputs[INSTRUCT].header.tensors
            request.selection.check([spec.name for spec in specs])
            joined = Joined([whole(spec, (Slot(INSTRUCT, spec),), None) for spec in specs])
        if adapters:
            check_tokenizers(self, inputs, [BASE, *(each.source for each in adapters)])
        for adapter in adapters:
            adapter.check_names(inputs[INSTRUCT])
            names = {name for name in adapter.pieces if name in request.selection}
            _match_copies(joined, names, adapter)
        return joined

    def function(self) -> Function:
        """See Operator."""

        def graft(unit: Any) -> int:
            term, *more = unit.parameters
            if term.parts[0].kind is Kind.RESTORE:
                restore(unit.out.data, *unit.inputs)
                return 0
            if term.direct and not more:
                instruct, *inputs = unit.inputs
                return add_directly(unit.out, instruct, term, inputs)
            # Without low-rank factors or several terms, nothing needs numpy.
            from weightsmith.operators.arithmetic.terms import add_terms

            return add_terms(unit)

        return graft


def _match_copies(joined: Joined, names: set[str], adapter: Adapter) -> None:
    """Make what would be copied of INSTRUCT a match, where an adapter changes it."""
    for index, item in enumerate(joined.items):
        if isinstance(item, TensorPlan) and item.spec.name in names:
            own = Slot(INSTRUCT, item.spec)
            joined.items[index] = Match(item.spec, (own,), item.spec.numel)
    if lost := sorted(names & joined.skipped.keys()):
        raise Mismatch(
            f"a tensor that an adapter changes is left out: {joined.skipped[lost[0]]}",
            file=adapter.view.label,
            tensor=lost[0],
            remedy="--missing keep",
        )


def _plan(match: Match, terms: Sequence[Term], request: Request) -> TensorPlan:
    spec = request.output(match.spec)
    own = next(slot for slot in match.slots if slot.source == INSTRUCT)
    if not terms:
        return match.plan(spec, (own,), None)
    restored = terms[0].parts[0].kind is Kind.RESTORE
    slots, settled = placed(() if restored else (own,), terms)
    plan = match.plan(spec, slots, settled)
    return replace(plan, granularity=Granularity.ROW) if by_rows(terms) else plan


def _rank(given: Contribution) -> tuple[bool, str]:
    """The place in the sum: the same terms are added in the same order however they are named."""
    return given.view.many, canonical(_node(given))


def _node(given: Contribution) -> dict[str, Any]:
    return {**given.lineage["tuned"], "scale": given.scale.record()}


def _lineage(given: Sequence[Contribution]) -> dict[str, Any]:
    nodes: dict[str, Any] = {}
    for each in given:
        if each.view.many:
            nodes.setdefault("add", []).append(_node(each))
        else:
            nodes |= each.lineage
    return nodes


def _same_data(one: InputView, other: InputView) -> bool:
    """Whether two inputs hold the same bytes; samples are not enough to go by."""
    if one.identity is not None and one.identity == other.identity:
        return True
    full = [view.identify("full") for view in (one, other)]
    return full[0] == full[1] and full[0].startswith("full:")
