"""How quantised tensors are described in config.json, and what their packed rows look like.

docs/formats.md specifies both to the byte. Whatever is read here comes from untrusted text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from weightsmith.dtypes import is_arithmetic
from weightsmith.header import TensorSpec

METHOD = "ptqtp"
VERSION = 1
TRITS_PER_BYTE = 5
MOST_PLANES = 3
MOST_IN_GROUP = 1 << 20
_MOST_DIMENSIONS = 8
_LARGEST_RATIO = 7

Ratios = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TritEncoding:
    """A tensor stored as trit planes; its rows are its last dimension.

    Attributes:
        shape: of the weights, [.., out, in].
        dtype: the weights had, and have again when they are unpacked.
        planes: K.
        group: input channels that share scales; the last group of a row may be shorter.
        ratios: small integers, one for each plane, that the scales of a group are tied to; no
            entry for free scales, several where each group has its own choice.
    """

    shape: tuple[int, ...]
    dtype: str
    planes: int
    group: int
    ratios: Ratios = ()

    @property
    def columns(self) -> int:
        """Weights in a row."""
        return self.shape[-1]

    @property
    def groups(self) -> int:
        """Groups in a row."""
        return -(-self.columns // self.group)

    @property
    def plane_bytes(self) -> int:
        """Bytes of one plane of a row."""
        return -(-self.columns // TRITS_PER_BYTE)

    @property
    def scale_bytes(self) -> int:
        """Bytes of a row's scales."""
        return 2 * self.groups * (1 if self.ratios else self.planes)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row: planes, scales and, where there are several ratios, their numbers."""
        choices = self.groups if len(self.ratios) > 1 else 0
        return self.planes * self.plane_bytes + self.scale_bytes + choices

    def entry(self) -> dict[str, Any]:
        """The tensor's entry in config.json."""
        return {
            "encoding": "trits",
            "shape": list(self.shape),
            "dtype": self.dtype,
            "planes": self.planes,
        }


@dataclass(frozen=True)
class Int8Encoding:
    """A matrix stored as 8-bit integers with one float16 scale at the end of each row."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def columns(self) -> int:
        """Weights in a row."""
        return self.shape[-1]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.columns + 2

    def entry(self) -> dict[str, Any]:
        """The tensor's entry in config.json."""
        return {"encoding": "int8", "shape": list(self.shape), "dtype": self.dtype}


Encoding = TritEncoding | Int8Encoding


def packed_spec(name: str, encoding: Encoding) -> TensorSpec:
    """The tensor of the packed rows: it keeps its name, so no loader takes it for weights."""
    return TensorSpec(name, "U8", (*encoding.shape[:-1], encoding.row_bytes))


def dense_spec(name: str, encoding: Encoding) -> TensorSpec:
    """The tensor that the packed rows stand for."""
    return TensorSpec(name, encoding.dtype, encoding.shape)


@dataclass(frozen=True)
class Quantization:
    """The `quantization_config` of a checkpoint: every quantised tensor by name."""

    group: int
    ratios: Ratios
    tensors: Mapping[str, Encoding]

    def record(self) -> dict[str, Any]:
        """As it stands in config.json."""
        return {
            "quant_method": METHOD,
            "version": VERSION,
            "group_size": self.group,
            "ratios": [list(ratio) for ratio in self.ratios],
            "tensors": {name: encoding.entry() for name, encoding in self.tensors.items()},
        }

    @classmethod
    def parse(cls, record: object) -> Quantization:
        """Read what `record` gives.

        Raises:
            ValueError: it is something else, with what is wrong.
        """
        if not isinstance(record, Mapping) or record.get("quant_method") != METHOD:
            raise ValueError(f"quant_method is not {METHOD}")
        if record.get("version") != VERSION:
            raise ValueError(f"version {record.get('version')!r} is not {VERSION}")
        group = _count(record.get("group_size"), "group_size", MOST_IN_GROUP)
        ratios = _ratios(record.get("ratios", []))
        entries = record.get("tensors")
        if not isinstance(entries, Mapping):
            raise ValueError("tensors is not an object")
        return cls(
            group,
            ratios,
            {
                str(name): _encoding(entry, group, ratios)
                for name, entry in entries.items()
                if entry is not None
            },
        )


def _count(value: object, what: str, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{what} is {value!r}")
    return value


def _ratios(given: object) -> Ratios:
    if not isinstance(given, list):
        raise ValueError("ratios is not a list")
    ratios = tuple(
        tuple(_count(part, "ratio", _LARGEST_RATIO) for part in ratio)
        for ratio in given
        if isinstance(ratio, list)
    )
    if len(ratios) != len(given) or len(ratios) > 255 or len({len(r) for r in ratios}) > 1:
        raise ValueError("ratios do not have one integer for each plane")
    return ratios


def _encoding(entry: object, group: int, ratios: Ratios) -> Encoding:
    if not isinstance(entry, Mapping):
        raise ValueError("an entry of tensors is not an object")
    shape, dtype = entry.get("shape"), entry.get("dtype")
    if (
        not isinstance(shape, list)
        or not 2 <= len(shape) <= _MOST_DIMENSIONS
        or not all(type(size) is int and size >= 0 for size in shape)
        or shape[-1] < 1
        or prod(shape) >= 1 << 62
    ):
        raise ValueError(f"shape {shape!r} is not that of a matrix")
    if not isinstance(dtype, str) or not is_arithmetic(dtype):
        raise ValueError(f"dtype {dtype!r} is not that of weights")
    if entry.get("encoding") == "int8":
        return Int8Encoding(tuple(shape), dtype)
    if entry.get("encoding") != "trits":
        raise ValueError(f"encoding {entry.get('encoding')!r} is not known")
    planes = _count(entry.get("planes"), "planes", MOST_PLANES)
    if any(len(ratio) != planes for ratio in ratios):
        raise ValueError("ratios do not have one integer for each plane")
    return TritEncoding(tuple(shape), dtype, planes, group, ratios)
