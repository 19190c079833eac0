"""unpack: trit planes become dense weights again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from weightsmith.errors import UsageError
from weightsmith.operators.configuration import quantization_of
from weightsmith.operators.operator import (
    Draft,
    Function,
    Granularity,
    Input,
    InputView,
    Operator,
    Request,
    Slot,
    TensorPlan,
    whole,
)
from weightsmith.operators.provenance import QUANTIZATION
from weightsmith.operators.registry import register
from weightsmith.tritplanes.encoding import dense_spec


@register
@dataclass(frozen=True, kw_only=True)
class Unpack(Operator):
    """Make a checkpoint that ptqtp has packed dense, in the dtype it had.

    Every weight becomes the sum of its scaled trits, so any program can load the result. Tensors
    that are not packed are copied.
    """

    name: ClassVar[str] = "unpack"
    inputs: ClassVar[tuple[Input, ...]] = (Input("model", "a packed checkpoint", stdin=True),)
    granularity: ClassVar[Granularity] = Granularity.ROW
    examples: ClassVar[str] = """
    weightsmith unpack packed/ -o dense/
    weightsmith ptqtp model/ | weightsmith unpack --dtype float32 -o dense/
    """

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        model = inputs[0]
        quantization = quantization_of(model)
        if quantization is None:
            raise UsageError(
                "nothing is packed",
                file=model.label,
                expected=f"a {QUANTIZATION} of ptqtp in config.json or in the metadata",
            )
        request.selection.check([spec.name for spec in model.header.tensors])
        tensors: list[TensorPlan] = []
        unpacked: list[str] = []
        for spec in model.header.tensors:
            encoding = quantization.tensors.get(spec.name)
            slots = (Slot(0, spec),)
            if encoding is None:
                tensors.append(whole(request.output(spec), slots, None))
            elif spec.name not in request.selection:
                tensors.append(whole(spec, slots, None, "not selected"))
            else:
                unpacked.append(spec.name)
                dense = request.output(dense_spec(spec.name, encoding))
                tensors.append(whole(dense, slots, encoding))
        left = [name for name in quantization.tensors if name not in unpacked]
        patch: dict[str, Any] | None = None
        if left:
            # None takes an entry out of an object in a merge patch.
            patch = quantization.record()
            patch["tensors"] |= dict.fromkeys(unpacked)
        return Draft(tuple(tensors), config_patch={QUANTIZATION: patch})

    def function(self) -> Function:
        """See Operator."""
        from weightsmith.operators.arithmetic.quantizing import unpack

        return unpack
