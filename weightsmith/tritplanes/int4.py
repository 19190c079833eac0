"""Trit planes with tied scales as compressed-tensors' `pack-quantized` 4-bit integers: the header.

With scales tied by small integers, a weight is a float16 unit times an integer in -7..7, so nothing
is lost. The arrays are in `nibbles`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weightsmith.header import TensorSpec
from weightsmith.tritplanes.encoding import TritEncoding

PER_WORD = 8
_VERSION = "0.20.0"


def specs(name: str, encoding: TritEncoding) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
    """The tensors that stand for one weight: integers, scales, and its shape."""
    out, columns = encoding.shape
    return (
        TensorSpec(f"{name}_packed", "I32", (out, columns // PER_WORD)),
        TensorSpec(f"{name}_scale", "F16", (out, encoding.groups)),
        TensorSpec(f"{name}_shape", "I64", (2,)),
    )


def config(group: int, ignore: Sequence[str]) -> dict[str, Any]:
    """The `quantization_config`; `ignore` names the linear layers that stay dense."""
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": group,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "version": _VERSION,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": list(ignore),
    }


def is_config(value: object) -> bool:
    """Whether a configuration is one that `config` makes."""
    try:
        group = value["config_groups"]["group_0"]["weights"]["group_size"]  # type: ignore[index]
        ignore = value["ignore"]  # type: ignore[index]
        return value == config(int(group), [str(name) for name in ignore])
    except (TypeError, KeyError, ValueError):
        return False
