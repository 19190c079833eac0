"""unpack: trit planes, and float8 weights with scales, become dense weights again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from weightsmith.dtypes import DTYPES
from weightsmith.errors import UsageError
from weightsmith.header import TensorSpec
from weightsmith.operators.configuration import config_of, quantization_of
from weightsmith.operators.float8 import (
    Grid,
    check_complete,
    dense_dtype,
    grid_of,
    runtime_scale,
)
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
from weightsmith.operators.provenance import OLD_QUANTIZATION, QUANTIZATION
from weightsmith.operators.registry import register
from weightsmith.tritplanes.encoding import dense_spec

if TYPE_CHECKING:
    from weightsmith.operators.unit import Unit


@register
@dataclass(frozen=True, kw_only=True)
class Unpack(Operator):
    """Make a packed checkpoint dense, so that any program and any operator can take it.

    What ptqtp has packed becomes the sum of its scaled trits, in the dtype it had. Float8 weights
    (DeepSeek-V3, compressed-tensors) are multiplied by their scales, into the dtype that
    config.json names. Tensors that are not packed are copied.
    """

    name: ClassVar[str] = "unpack"
    inputs: ClassVar[tuple[Input, ...]] = (Input("model", "a packed checkpoint", stdin=True),)
    granularity: ClassVar[Granularity] = Granularity.ROW
    uses: ClassVar[frozenset[str]] = frozenset(
        {"spool"}
    )  # a stream may bring scales before weights
    examples: ClassVar[str] = """
    weightsmith unpack packed/ -o dense/
    weightsmith ptqtp model/ | weightsmith unpack --dtype float32 -o dense/
    weightsmith unpack deepseek/ | weightsmith ptqtp --bits 2x1.58 -o packed/
    """

    def plan(self, inputs: Sequence[InputView], request: Request) -> Draft:
        """See Operator."""
        model = inputs[0]
        if scales := check_complete(model.label, model.header):
            return _float8(model, scales, request)
        quantization = quantization_of(model)
        if quantization is None:
            raise UsageError(
                "nothing is packed",
                file=model.label,
                expected=f"a {QUANTIZATION} of ptqtp in config.json or in the metadata, "
                "or float8 weights with scales",
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
        from weightsmith.operators.arithmetic import float8, quantizing

        def unpack(unit: Unit) -> int | None:
            if isinstance(unit.parameters, Grid):
                return float8.dequantise(unit)
            return quantizing.unpack(unit)

        return unpack


def _float8(model: InputView, scales: Mapping[str, TensorSpec], request: Request) -> Draft:
    config = config_of(model)
    if request.selection.record():
        raise UsageError(
            "float8 weights are made dense together",
            file=model.label,
            got="--select or --exclude",
            remedy="cat selects among the dense tensors",
        )
    dtype = dense_dtype(config)
    skipped = {scale.name: "its weight is dense now" for scale in scales.values()}
    tensors = []
    for spec in model.header.tensors:
        if runtime_scale(spec.name):
            skipped[spec.name] = "scales activations of float8 arithmetic"
        elif spec.name in scales:
            scale = scales[spec.name]
            grid = grid_of(spec, scale, config, model.label)
            out = TensorSpec(spec.name, request.dtype or dtype, spec.shape)
            tensors.append(whole(out, (Slot(0, spec), Slot(0, scale, whole=True)), grid))
        elif spec.name not in skipped:
            tensors.append(whole(request.output(spec), (Slot(0, spec),), None))
    patch = {"dtype": DTYPES[request.dtype or dtype].torch_name}
    return Draft(tuple(tensors), skipped, patch | dict.fromkeys((QUANTIZATION, OLD_QUANTIZATION)))
