"""layers: keep, drop, repeat, reorder decoder layers, of one model or several."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from weightsmith.errors import Mismatch, UsageError, printable
from weightsmith.operators.operator import (
    Draft,
    Function,
    Input,
    InputView,
    Operator,
    Request,
    Slot,
    TensorPlan,
    option,
    whole,
)
from weightsmith.operators.quantities import layer_ranges
from weightsmith.operators.registry import register
from weightsmith.operators.stacking import Layers as Stack
from weightsmith.operators.stacking import config_patch

Place = tuple[int, int]  # an input and a layer of it
_RUN = re.compile(r"(?:(\d{1,4}):)?(\d{1,9})(?:-(\d{1,9}))?")


def layer_order(text: str) -> str:
    """Runs of layers, in one normal form.

    >>> layer_order("0-7,4,2:8-11")
    '1:0-7,1:4-4,2:8-11'

    Raises:
        ValueError: they are none.
    """
    runs, model = [], "1"
    for part in text.split(","):
        match = _RUN.fullmatch(part.strip())
        if match is None or int(match[2]) > int(match[3] or match[2]) or match[1] == "0":
            raise ValueError("not runs of layers such as 0-7,4-11 or 1:0-15,2:8-23")
        model = match[1] or model
        runs.append(f"{int(model)}:{int(match[2])}-{int(match[3] or match[2])}")
    return ",".join(runs)


@register
@dataclass(frozen=True, kw_only=True)
class Layers(Operator):
    """Keep, drop, repeat and reorder decoder layers, of one MODEL or of several.

    The layers are numbered anew and config.json follows. Embeddings come from the model of the
    first layer, norm and head from that of the last; sidecar files from the first MODEL.
    """

    name: ClassVar[str] = "layers"
    inputs: ClassVar[tuple[Input, ...]] = (
        Input("model", "the checkpoints whose layers are taken", stdin=True, many=True),
    )
    uses: ClassVar[frozenset[str]] = frozenset({"spool"})
    examples: ClassVar[str] = """
    weightsmith layers model/ --drop 20-23 -o shallower/
    weightsmith layers model/ --order 0-15,8-23 -o deeper/
    weightsmith layers a/ b/ --order 1:0-15,2:8-23 -o stacked/
    """

    order: str | None = option(
        "--order",
        "the output's layers: runs FIRST-LAST, from 0; with several models N:FIRST-LAST, from 1",
        default=None,
        convert=layer_order,
        metavar="RUNS",
    )
    drop: str | None = option(
        "--drop", "layers to leave out", default=None, convert=layer_ranges, metavar="RUNS"
    )

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        if request.selection.record():
            raise UsageError("layers works on the whole model", got="--select or --exclude")
        stacks = [Stack.of(view) for view in inputs]
        order = self._order(stacks)
        _check_alike(stacks, inputs, order)
        plans = []
        for name, slot in _tensors(stacks, order):
            spec = request.output(replace(slot.spec, name=name))
            note = (
                "" if slot.spec.name == name else f"{slot.spec.name} of {stacks[slot.source].label}"
            )
            plans.append(whole(spec, (slot,), None, note))
        left_out = _left_out(inputs, plans, several=len(inputs) > 1)
        return Draft(
            _as_read(plans, inputs), left_out, config_patch(inputs, order, len(stacks[0].by_number))
        )

    def _order(self, stacks: Sequence[Stack]) -> list[Place]:
        """The place in the inputs of each layer of the output."""
        if self.order is not None and self.drop is None:
            return list(_places(self.order, stacks, "--order"))
        if self.drop is None or self.order is not None:
            raise UsageError("layers takes either --order or --drop")
        if len(stacks) > 1:
            raise UsageError("--drop takes one MODEL", got=len(stacks))
        dropped = set(_places(self.drop, stacks, "--drop"))
        order = [(0, n) for n in range(len(stacks[0].by_number)) if (0, n) not in dropped]
        if not order:
            raise UsageError("no layer is left")
        return order

    def function(self) -> Function:
        """Nothing is computed."""
        return lambda _: 0


def _places(runs: str, stacks: Sequence[Stack], flag: str) -> Iterator[Place]:
    for part in runs.split(","):
        number, _, run = part.rpartition(":")
        model = int(number or "1") - 1
        if model >= len(stacks):
            raise UsageError(f"{flag}: there is no model {model + 1}", got=f"{len(stacks)} models")
        first, last = map(int, run.split("-"))
        count = len(stacks[model].by_number)
        if last >= count:
            raise UsageError(
                f"{flag}: there is no layer {last}",
                file=stacks[model].label,
                expected=f"0 to {count - 1}" if count else "a model with layers",
            )
        yield from ((model, layer) for layer in range(first, last + 1))


def _check_alike(stacks: Sequence[Stack], inputs: Sequence[InputView], order: list[Place]) -> None:
    """Layers of several models must fit each other, and embeddings the head."""
    (first, reference), last = order[0], order[-1][0]
    expected = {n: s.shape for n, s in stacks[first].by_number[reference].items()}
    for model, layer in order if len(stacks) > 1 else ():
        for suffix, spec in stacks[model].by_number[layer].items():
            if spec.shape != expected.get(suffix, spec.shape):
                raise Mismatch(
                    "layers of different shapes",
                    file=stacks[model].label,
                    tensor=spec.name,
                    expected=f"{list(expected[suffix])} as in {stacks[first].label}",
                    got=list(spec.shape),
                )
    ours, theirs = inputs[first].tokenizer, inputs[last].tokenizer
    if ours and theirs and (conflict := ours.first_conflict(theirs)):
        raise Mismatch(
            f"embeddings and head come from two models, and token {conflict[0]} means two things",
            file=inputs[last].label,
            expected=f"{printable(conflict[1])!r} as in {inputs[first].label}",
            got=f"{printable(conflict[2])!r}",
        )


def _tensors(stacks: Sequence[Stack], order: list[Place]) -> Iterator[tuple[str, Slot]]:
    (first, _), (last, _) = order[0], order[-1]
    yield from ((spec.name, Slot(first, spec)) for spec in stacks[first].before)
    for number, (model, layer) in enumerate(order):
        for suffix, spec in stacks[model].by_number[layer].items():
            yield stacks[first].named(number, suffix), Slot(model, spec)
    yield from ((spec.name, Slot(last, spec)) for spec in stacks[last].after)


def _as_read(plans: list[TensorPlan], inputs: Sequence[InputView]) -> tuple[TensorPlan, ...]:
    """In the order of the inputs, so that of a stream only what is repeated has to wait."""

    def position(plan: TensorPlan) -> tuple[int, int]:
        (slot,) = plan.segments[0].slots
        return slot.source, inputs[slot.source].header.offsets[slot.spec.name]

    return tuple(sorted(plans, key=position))


def _left_out(
    inputs: Sequence[InputView], plans: Sequence[TensorPlan], several: bool
) -> dict[str, str]:
    used = {(s.source, s.spec.name) for plan in plans for s in plan.segments[0].slots}
    return {
        f"{spec.name} of model {model + 1}" if several else spec.name: "of no layer that is taken"
        for model, view in enumerate(inputs)
        for spec in view.header.tensors
        if (model, spec.name) not in used
    }
