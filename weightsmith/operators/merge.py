"""Merges of stacks of layers: each run of the output's layers has models and values of its own.

No command of its own: recipes are carried out by it (see weightsmith.recipes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar

from weightsmith.errors import Mismatch, UsageError
from weightsmith.header import Header, TensorSpec
from weightsmith.operators.operator import (
    Draft,
    Function,
    Input,
    InputView,
    Operator,
    Request,
    Slot,
    TensorPlan,
)
from weightsmith.operators.stacking import Layers, config_patch


@dataclass(frozen=True)
class Place:
    """Where a tensor of the output comes from.

    Attributes:
        depth: of its layer within the part: 0 is the first and 1 the last (and an only one); 0
            for what is outside the layers.
        names: what it is called in each input of the part; None in those that lack it.
    """

    depth: Fraction
    names: tuple[str | None, ...]


@dataclass(frozen=True)
class Part:
    """A run of the output's layers.

    Attributes:
        inputs: which inputs it is made of, in the order of the operator.
        firsts: the first layer that is taken of each.
        count: how many layers are taken; None for all.
        values: the operator's parameters, given the place of each tensor by its name in the output.
    """

    inputs: tuple[int, ...]
    firsts: tuple[int, ...]
    count: int | None
    values: Callable[[Mapping[str, Place]], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Merge(Operator):
    """Carry out the parts one after another; sidecar files are those of the first input.

    Attributes:
        method: the operator.
        parts: from the first layer of the output to the last. What stands before the layers
            belongs to the first, what stands behind them to the last.
        policies: of the operator, for what does not match.
        recipe: what provenance says.
    """

    name: ClassVar[str] = "merge"
    inputs: ClassVar[tuple[Input, ...]] = (Input("model", "the models to merge", many=True),)
    working_arrays: ClassVar[int] = 0

    method: type[Operator]
    parts: tuple[Part, ...]
    policies: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """See Operator."""
        return {**self.recipe, **self.policies}

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        if len(self.parts) > 1 and request.selection.record():
            raise UsageError("a recipe with several slices works on the whole model")
        stacks = [Layers.of(view) for view in inputs]
        tensors: list[TensorPlan] = []
        skipped: dict[str, str] = {}
        patch: dict[str, Any] = {}
        order: list[tuple[int, int]] = []
        seen: set[tuple[int, str]] = set()
        for part in self.parts:
            ends = part is self.parts[0], part is self.parts[-1]
            taken = _take(part, stacks, len(order), *ends)
            draft = self._draft(part, taken, inputs, request)
            tensors += [_of_inputs(plan, part, taken, self.method) for plan in draft.tensors]
            skipped |= draft.skipped
            patch |= draft.config_patch
            order += [(part.inputs[0], part.firsts[0] + i) for i in range(taken.count)]
            seen |= {
                (index, spec.name)
                for index, specs in zip(part.inputs, taken.specs, strict=True)
                for spec in specs.values()
            }
        layers = config_patch(inputs, order, len(stacks[0].by_number)) if order else {}
        return Draft(tuple(tensors), skipped | _left_out(inputs, seen), patch | layers)

    def _draft(
        self, part: Part, taken: _Taken, inputs: Sequence[InputView], request: Request
    ) -> Draft:
        operator = self.method(**part.values(taken.places), **self.policies)
        return operator.plan(list(_views(part, taken, inputs, operator)), request)

    def function(self) -> Function:
        """See Operator: that of the method, which is one for all its parameters."""
        return self.method().function()


@dataclass(frozen=True)
class _Taken:
    """What a part takes: of each of its inputs, tensors by their names in the output."""

    specs: tuple[Mapping[str, TensorSpec], ...]
    places: Mapping[str, Place]
    count: int


def _take(part: Part, stacks: Sequence[Layers], start: int, first: bool, last: bool) -> _Taken:
    own = [stacks[index] for index in part.inputs]
    counts = [len(stack.by_number) for stack in own]
    if part.count is None and len(set(counts)) > 1:
        odd = next(i for i, count in enumerate(counts) if count != counts[0])
        raise Mismatch(
            "the models do not have the same number of layers",
            file=own[odd].label,
            expected=f"{counts[0]} as in {own[0].label}",
            got=counts[odd],
        )
    count = counts[0] if part.count is None else part.count
    specs: list[dict[str, TensorSpec]] = []
    depths: dict[str, Fraction] = {}
    for stack, begin in zip(own, part.firsts, strict=True):
        if begin + count > len(stack.by_number):
            raise UsageError(
                f"layer_range [{begin}, {begin + count}]",
                file=stack.label,
                expected=f"at most {len(stack.by_number)} layers",
            )
        outside = [*(stack.before if first else ()), *(stack.after if last else ())]
        found = {spec.name: spec for spec in outside}
        depths |= dict.fromkeys(found, Fraction(0))
        for number in range(count):
            depth = Fraction(number, count - 1) if count > 1 else Fraction(1)
            for suffix, spec in stack.by_number[begin + number].items():
                name = own[0].named(start + number, suffix)
                found[name] = spec
                depths[name] = depth
        specs.append(found)
    places = {
        name: Place(depth, tuple(s[name].name if name in s else None for s in specs))
        for name, depth in depths.items()
    }
    return _Taken(tuple(specs), places, count)


def _views(
    part: Part, taken: _Taken, inputs: Sequence[InputView], operator: Operator
) -> Iterator[InputView]:
    """The inputs of a part as its operator is to see them: by the names of the output."""
    roles = [given.role for given in operator.inputs]
    for number, (index, specs) in enumerate(zip(part.inputs, taken.specs, strict=True)):
        view = inputs[index]
        offsets = view.header.offsets
        renamed = tuple(
            replace(spec, name=name)
            for name, spec in sorted(specs.items(), key=lambda item: offsets[item[1].name])
        )
        header = Header(renamed, view.header.metadata)
        yield replace(view, header=header, role=roles[min(number, len(roles) - 1)])


def _of_inputs(plan: TensorPlan, part: Part, taken: _Taken, method: type[Operator]) -> TensorPlan:
    """The plan with the inputs' own numbers and names of tensors."""

    def own(slot: Slot) -> Slot:
        spec = taken.specs[slot.source][slot.spec.name]
        return replace(slot, source=part.inputs[slot.source], spec=spec)

    segments = tuple(
        replace(segment, slots=tuple(map(own, segment.slots))) for segment in plan.segments
    )
    return replace(plan, segments=segments, granularity=plan.granularity or method.granularity)


def _left_out(inputs: Sequence[InputView], seen: set[tuple[int, str]]) -> dict[str, str]:
    return {
        f"{spec.name} of model {index + 1}": "in no layer that is taken"
        for index, view in enumerate(inputs)
        for spec in view.header.tensors
        if (index, spec.name) not in seen
    }
