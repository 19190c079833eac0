"""rotate: turn the residual stream and the values of a model, without changing its function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from weightsmith.errors import UsageError, WeightsmithError
from weightsmith.header import TensorSpec
from weightsmith.operators.delta import refuse_delta
from weightsmith.operators.numbers import natural
from weightsmith.operators.operator import (
    Draft,
    Function,
    Granularity,
    InputView,
    Operator,
    Request,
    Slot,
    TensorPlan,
    option,
    whole,
)
from weightsmith.operators.registry import register
from weightsmith.operators.turns import Anatomy, Turn

if TYPE_CHECKING:
    from weightsmith.operators.unit import Unit


@register
@dataclass(frozen=True, kw_only=True)
class Rotate(Operator):
    """Rotate MODEL without changing what it computes, so that it quantises better.

    The gains of the norms are folded into the layers that read the residual stream; the stream is
    turned by a randomised Hadamard rotation, and so are the values within each head. The output is
    an ordinary checkpoint, whose gains are one and whose head is separate from the embedding.
    Families: llama, mistral, qwen2, qwen3.
    """

    name: ClassVar[str] = "rotate"
    granularity: ClassVar[Granularity] = Granularity.ROW
    working_arrays: ClassVar[int] = 3  # two are the matrix in float64
    uses: ClassVar[frozenset[str]] = frozenset({"spool"})
    examples: ClassVar[str] = """
    weightsmith rotate model/ -o rotated/
    weightsmith rotate model/ --seed 1 --dtype float32 -o rotated/
    """

    seed: int = option("--seed", "of the rotations' signs", default=0, metavar="N", convert=natural)

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        (view,) = inputs
        refuse_delta(view, "rotate the model that it is applied to")
        if request.selection.record():
            raise UsageError("rotate turns the whole model", got="--select or --exclude")
        model, specs = Anatomy.of(view), view.header.by_name
        turns = model.turns(specs, self.seed)
        plans = [
            _plan(request.output(spec), spec, turns[spec.name], specs)
            for spec in view.header.tensors
        ]
        patch: dict[str, Any] = {}
        if model.tied:
            head = f"{model.family.head}.weight"
            spec = specs[f"{model.family.embedding}.weight"]
            out = request.output(TensorSpec(head, spec.dtype, spec.shape))
            plans.append(_plan(out, spec, turns[head], specs, "untied from the embedding"))
            patch = {"tie_word_embeddings": False}
        return Draft(tuple(plans), config_patch=patch)

    def function(self) -> Function:
        """See Operator."""
        import numpy as np

        def turn(unit: Unit) -> int:
            asked: Turn = unit.parameters
            if asked.ones:
                return unit.out.store(np.ones(unit.out.shape, np.float32))
            matrix = unit.inputs[0].float32().astype(np.float64)
            for gain in unit.inputs[1:]:
                matrix *= gain.float32()
            if not np.isfinite(matrix).all():
                raise WeightsmithError(
                    "NaN or infinite elements, which a rotation would spread", tensor=unit.name
                )
            if asked.right is not None:
                asked.right.right(matrix)
            if asked.left is not None:
                asked.left.left(matrix.reshape(len(matrix), -1))
            with np.errstate(over="ignore"):  # counted when it is stored
                return unit.out.store(matrix.astype(np.float32))

        return turn


def _plan(
    out: TensorSpec,
    spec: TensorSpec,
    turn: Turn | None,
    specs: dict[str, TensorSpec],
    note: str = "",
) -> TensorPlan:
    slots: tuple[Slot, ...] = (Slot(0, spec),)
    if turn is None:
        return whole(out, slots, None, "neither reads nor writes the stream")
    if turn.ones:
        return whole(out, slots, turn, "its gain is folded into the readers", Granularity.ELEMENT)
    if turn.gain is not None:
        slots += (Slot(0, specs[turn.gain], whole=True),)
    rows_mix = turn.left is not None
    return whole(out, slots, turn, note, Granularity.TENSOR if rows_mix else Granularity.ROW)
