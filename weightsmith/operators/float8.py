"""Checkpoints whose weights are float8 with scales beside them.

A weight W (float8, [.., rows, columns]) stands for W times its scale, which lies beside it under
the name of the weight with `_scale_inv` (DeepSeek-V3, arXiv 2412.19437, section 3.3; it is
multiplied with nevertheless) or `_scale` (compressed-tensors, FBGEMM). One scale covers the tensor,
a row, or a block of rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from weightsmith.dtypes import ALIASES, is_arithmetic
from weightsmith.errors import Mismatch
from weightsmith.header import Header, TensorSpec
from weightsmith.operators.operator import InputView, TensorPlan
from weightsmith.selection import Selection

FLOAT8 = ("F8_E4M3", "F8_E5M2")
_SCALE_DTYPES = ("F32", "BF16", "F16", "F8_E8M0", "U8")
# Of activations and caches: no dense model has them.
_RUNTIME = (
    *(".input_scale", ".input_scale_ub", ".activation_scale", ".output_scale"),
    *(".q_scale", ".k_scale", ".v_scale"),
)
_USUAL_BLOCK = 128


@dataclass(frozen=True)
class Grid:
    """What a scale covers.

    Attributes:
        rows, columns: of the block that has one scale; blocks at the edge may be smaller.
        height: rows of the weight before the next matrix of a stack begins.
        grid: blocks of one matrix, as (down, across).
    """

    rows: int
    columns: int
    height: int
    grid: tuple[int, int]


def scales_of(header: Header) -> dict[str, TensorSpec]:
    """The scale of every float8 weight that has one beside it, by the weight's name."""
    found = {}
    for spec in header.tensors:
        if spec.dtype in FLOAT8:
            for ending in ("_scale_inv", "_scale"):
                if scale := header.by_name.get(spec.name + ending):
                    found[spec.name] = scale
                    break
    return found


def refuse_float8(label: str, header: Header, selection: Selection) -> None:
    """Raise Mismatch where a tensor that is worked on is a float8 weight's scale.

    Its numbers are no weights, and arithmetic on them alone would go unnoticed.
    """
    for name, scale in scales_of(header).items():
        if scale.name in selection:
            raise _refusal(label, name)


def refuse_casts(inputs: Sequence[InputView], tensors: Sequence[TensorPlan]) -> None:
    """Raise Mismatch where a float8 weight's scale is copied into another dtype, as by --dtype."""
    owners = [
        {scale.name: name for name, scale in scales_of(view.header).items()} for view in inputs
    ]
    if not any(owners):
        return
    for tensor in tensors:
        for segment in tensor.segments:
            slot = segment.slots[0] if segment.slots and segment.parameters is None else None
            if (
                slot
                and slot.spec.dtype != tensor.spec.dtype
                and slot.spec.name in owners[slot.source]
            ):
                raise _refusal(inputs[slot.source].label, owners[slot.source][slot.spec.name])


def _refusal(label: str, weight: str) -> Mismatch:
    return Mismatch(
        "the weights are float8 with scales",
        file=label,
        tensor=weight,
        remedy=f"weightsmith unpack {label} makes them dense, by pipe or with -o",
    )


def runtime_scale(name: str) -> bool:
    """Whether a tensor scales activations or caches of float8 arithmetic."""
    return name.endswith(_RUNTIME)


def check_complete(label: str, header: Header) -> dict[str, TensorSpec]:
    """The scale of every float8 tensor, none of which may lack one; none if there is no float8.

    Raises:
        Mismatch: some have a scale and others not, or there are weights packed in another way.
    """
    scales = scales_of(header)
    used = {scale.name for scale in scales.values()}
    for spec in header.tensors:
        if not scales or spec.name in used or spec.name in scales or runtime_scale(spec.name):
            continue
        if spec.dtype in FLOAT8 or spec.name.endswith(("_scale", "_scale_inv", "_zero_point")):
            raise Mismatch(
                "a float8 weight without its scale, or a scale without a float8 weight",
                file=label,
                tensor=spec.name,
                remedy="the tool that made the checkpoint can make it dense",
            )
    return scales


def grid_of(weight: TensorSpec, scale: TensorSpec, config: Mapping[str, Any], label: str) -> Grid:
    """What each number of the scale covers.

    Args:
        weight: of two dimensions or more.
        scale: of one number, of one for each row, or of a grid of blocks with the same number of
            dimensions as the weight.
        config: config.json, which may say how large blocks are; see `block_size`.
        label: for messages.

    Raises:
        Mismatch: the shapes do not fit, or leave open how large blocks are.
    """

    def refuse(what: str, remedy: str | None = None) -> Mismatch:
        return Mismatch(
            what, file=label, tensor=scale.name, got=f"{scale} for {weight}", remedy=remedy
        )

    if scale.dtype not in _SCALE_DTYPES:
        raise refuse("the scale has an unknown dtype")
    rows, columns = (1, *weight.shape)[-2:]
    stack = weight.shape[:-2]
    if scale.numel == 1 and prod(stack) == 1:
        return Grid(rows, columns, rows, (1, 1))
    shape = scale.shape
    if shape == weight.shape[:-1] or (shape == stack and stack):
        shape = (*shape, *[1] * (len(weight.shape) - len(shape)))
    if len(shape) != len(weight.shape) or shape[:-2] != stack:
        raise refuse("the scale does not fit the weight")
    down, across = shape[-2:]
    block = block_size(config)
    sizes = []
    for length, count, known in ((rows, down, block[0]), (columns, across, block[1])):
        fitting = list(_fitting(length, count, known))
        if not fitting:
            raise refuse("the scale does not fit the weight")
        if len(fitting) > 1:
            raise refuse(
                f"blocks of {fitting[0]} and of {fitting[1]} both fit",
                "weight_block_size in the quantization_config of config.json says which",
            )
        sizes.append(fitting[0])
    return Grid(sizes[0], sizes[1], rows, (down, across))


def _fitting(length: int, count: int, known: int | None) -> Iterator[int]:
    """Block sizes that cut a length into so many blocks: the known one, or those that are usual."""
    if count == 1:
        yield length
        return
    if known is None or count == length:
        candidates = [1] if count == length else [_USUAL_BLOCK, length // count]
    else:
        candidates = [known]
    for size in dict.fromkeys(candidates):
        exact = size in (known, _USUAL_BLOCK) or length % count == 0
        if size and exact and -(-length // size) == count:
            yield size


def block_size(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Rows and columns of a block where the configuration says so; it is untrusted.

    `weight_block_size` of fp8, `block_structure` or `group_size` of compressed-tensors.
    """
    text = config.get("text_config")
    record: Mapping[str, Any] = next(
        (
            each[key]
            for each in (config, text if isinstance(text, Mapping) else {})
            for key in ("quantization_config", "compression_config")
            if isinstance(each.get(key), Mapping)
        ),
        {},
    )
    groups = record.get("config_groups")
    weights = [
        group["weights"]
        for group in (groups.values() if isinstance(groups, Mapping) else ())
        if isinstance(group, Mapping) and isinstance(group.get("weights"), Mapping)
    ]
    given = [record.get("weight_block_size"), *(each.get("block_structure") for each in weights)]
    for block in given:
        if isinstance(block, list) and len(block) == 2 and all(type(n) is int for n in block):
            return max(1, block[0]), max(1, block[1])
    sizes = [each.get("group_size") for each in weights]
    return (
        (1, sizes[0])
        if len(sizes) == 1 and type(sizes[0]) is int and sizes[0] > 0
        else (None, None)
    )


def dense_dtype(config: Mapping[str, Any]) -> str:
    """What dense weights are stored in: the configuration's dtype, else bfloat16."""
    text = config.get("text_config")
    for each in (config, text if isinstance(text, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            name = ALIASES.get(str(each.get(key)))
            if name is not None and is_arithmetic(name):
                return name
    return "BF16"
