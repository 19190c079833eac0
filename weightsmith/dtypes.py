"""The element types of safetensors, by the names the format gives them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DType:
    """One element type.

    Attributes:
        name: the format's name, such as "BF16".
        bits: width of an element; below 8 several share a byte.
        arithmetic: whether operators compute on it (as float32); the rest is opaque to them.
        torch_name: what config.json calls it, empty where it has no such name.
    """

    name: str
    bits: int
    arithmetic: bool = False
    torch_name: str = ""


DTYPES = {
    dtype.name: dtype
    for dtype in (
        DType("BOOL", 8),
        DType("F4", 4),
        DType("F6_E2M3", 6),
        DType("F6_E3M2", 6),
        DType("U8", 8),
        DType("I8", 8),
        DType("F8_E5M2", 8),
        DType("F8_E4M3", 8),
        DType("F8_E8M0", 8),
        DType("F8_E4M3FNUZ", 8),
        DType("F8_E5M2FNUZ", 8),
        DType("I16", 16),
        DType("U16", 16),
        DType("F16", 16, arithmetic=True, torch_name="float16"),
        DType("BF16", 16, arithmetic=True, torch_name="bfloat16"),
        DType("I32", 32),
        DType("U32", 32),
        DType("F32", 32, arithmetic=True, torch_name="float32"),
        DType("C64", 64),
        DType("F64", 64),
        DType("I64", 64),
        DType("U64", 64),
    )
}

# What people type for --dtype.
ALIASES = {
    "float32": "F32",
    "fp32": "F32",
    "f32": "F32",
    "float16": "F16",
    "fp16": "F16",
    "half": "F16",
    "f16": "F16",
    "bfloat16": "BF16",
    "bf16": "BF16",
}


def is_arithmetic(name: str) -> bool:
    """Whether operators compute on this dtype."""
    return DTYPES[name].arithmetic
