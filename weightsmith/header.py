"""The header of a safetensors file: parse it strictly, write it the way the reference does.

The format: 8 bytes N (unsigned, little-endian), N bytes of JSON, then the tensors' bytes without
holes. The rules kept here are those of the reference implementation, plus: no duplicate key at any
level, no NaN or Infinity literal, integers that are integers, first byte `{`.
"""

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from weightsmith.dtypes import DTYPES
from weightsmith.errors import InvalidFile, printable

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 1_000_000
MAX_TENSORS_VARIABLE = "WEIGHTSMITH_MAX_TENSORS"
_MAX_BYTES = 2**63 - 1


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype (the format's name, such as "BF16") and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @cached_property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numel * DTYPES[self.dtype].bits // 8

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Header:
    """All that is known of a checkpoint before any data.

    Attributes:
        tensors: in byte order.
        metadata: the strings of `__metadata__`.
        raw: the JSON as it was read, so that an unchanged header is written back unchanged.
    """

    tensors: tuple[TensorSpec, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = field(default=None, compare=False, repr=False)

    @cached_property
    def by_name(self) -> dict[str, TensorSpec]:
        """The tensors by name."""
        return {spec.name: spec for spec in self.tensors}

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where each tensor begins, in bytes from the start of the data."""
        return {
            spec.name: offset for spec, offset in zip(self.tensors, self._starts(), strict=True)
        }

    @cached_property
    def nbytes(self) -> int:
        """Size of the data, in bytes."""
        return sum(spec.nbytes for spec in self.tensors)

    def _starts(self) -> Iterator[int]:
        offset = 0
        for spec in self.tensors:
            yield offset
            offset += spec.nbytes

    def encode(self) -> bytes:
        """The 8 length bytes and the JSON, padded with spaces to a multiple of 8."""
        text = self.raw if self.raw is not None else self._json()
        if len(text) > MAX_HEADER_BYTES:
            raise InvalidFile(
                f"the output's header would take {len(text):,} bytes",
                expected=f"at most {MAX_HEADER_BYTES:,}",
                remedy="write a sharded directory (--shard-size)",
            )
        return struct.pack("<Q", len(text)) + text

    def _json(self) -> bytes:
        entries: dict[str, object] = {"__metadata__": dict(self.metadata)} if self.metadata else {}
        for spec in self.tensors:
            begin = self.offsets[spec.name]
            entries[spec.name] = {
                "dtype": spec.dtype,
                "shape": spec.shape,
                "data_offsets": (begin, begin + spec.nbytes),
            }
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        return text + b" " * (-len(text) % 8)


def reference_order(tensors: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Widest alignment first, then by name: the order in which the reference library writes."""
    position = {name: index for index, name in enumerate(DTYPES)}
    return tuple(sorted(tensors, key=lambda spec: (-position[spec.dtype], spec.name)))


def header_length(prefix: bytes, file: object) -> int:
    """Check the first 8 bytes of a file and return the length of its header."""
    if len(prefix) < 8:
        raise InvalidFile(
            "too short for safetensors", file=file, expected="8 bytes", got=len(prefix)
        )
    length: int = struct.unpack("<Q", prefix)[0]
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise InvalidFile(
            "not a safetensors file: impossible header length",
            file=file,
            expected=f"2 to {MAX_HEADER_BYTES:,} bytes",
            got=f"{length:,}",
        )
    return length


def parse_header(text: bytes, file: object) -> Header:
    """Parse and validate the JSON of a header.

    Args:
        text: the N bytes after the length.
        file: label for messages.

    Raises:
        InvalidFile: for every broken rule, naming the tensor.
    """
    entries = _load_json(text, file)
    metadata = _parse_metadata(entries.pop("__metadata__", None), file)
    limit = int(os.environ.get(MAX_TENSORS_VARIABLE, MAX_TENSORS))
    if len(entries) > limit:
        raise InvalidFile(
            "too many tensors",
            file=file,
            expected=f"at most {limit:,}",
            got=f"{len(entries):,}",
            remedy=f"set {MAX_TENSORS_VARIABLE} to raise the limit if you trust the file",
        )
    placed = sorted(
        (_parse_entry(name, entry, file) for name, entry in entries.items()),
        key=lambda item: item[1:],
    )
    end = 0
    for spec, begin, stop in placed:
        if begin != end:
            raise InvalidFile(
                "tensor data overlaps or leaves a hole",
                file=file,
                tensor=spec.name,
                expected=f"to begin at byte {end}",
                got=begin,
            )
        end = stop
    return Header(tuple(spec for spec, _, _ in placed), metadata, text)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {printable(key)!r} stands twice")
        result[key] = value
    return result


def _no_constant(literal: str) -> object:
    raise ValueError(f"{literal} is not JSON")


def _load_json(text: bytes, file: object) -> dict[str, object]:
    if not text.startswith(b"{"):
        raise InvalidFile("header does not begin with '{'", file=file, got=repr(text[:1])[1:])
    try:
        entries: dict[str, object] = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        # JSON escapes can spell half a surrogate pair, which no UTF-8 text can hold.
        "".join(entries).encode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise InvalidFile("header is not UTF-8", file=file, got=error.reason) from None
    except RecursionError:
        raise InvalidFile("header is nested too deeply", file=file) from None
    except ValueError as error:
        raise InvalidFile(f"header is not valid JSON: {printable(str(error))}", file=file) from None
    return entries


def _parse_metadata(metadata: object, file: object) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise InvalidFile("__metadata__ is not an object", file=file, got=type(metadata).__name__)
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise InvalidFile(
                f"__metadata__ entry {printable(key)!r} is not a string",
                file=file,
                got=type(value).__name__,
            )
    return metadata


def _is_count(value: object) -> bool:
    # bool is a subclass of int; 1.0 and 1e400 are floats; both are refused here.
    return type(value) is int and 0 <= value <= _MAX_BYTES


def _parse_entry(name: str, entry: object, file: object) -> tuple[TensorSpec, int, int]:
    def bad(what: str, expected: object = None, got: object = None) -> InvalidFile:
        return InvalidFile(what, file=file, tensor=name, expected=expected, got=got)

    if not isinstance(entry, dict):
        raise bad("entry is not an object", got=type(entry).__name__)
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise bad(
            "unknown dtype", expected="one of " + ", ".join(DTYPES), got=printable(repr(dtype))
        )
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        raise bad("shape is not a list of non-negative integers", got=printable(repr(shape)))
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise bad("data_offsets is not two non-negative integers", got=printable(repr(offsets)))
    begin, stop = offsets
    if stop < begin:
        raise bad("data ends before it begins", got=f"[{begin}, {stop}]")
    bits = DTYPES[dtype].bits
    for dimension in shape:
        bits *= dimension
        # As in the reference, any prefix that overflows is an error even if a later 0 cancels it.
        if bits > _MAX_BYTES * 2:
            raise bad("shape is too large", got=shape)
    if bits % 8:
        raise bad("sub-byte tensor does not end on a byte", got=f"{bits} bits")
    if stop - begin != bits // 8:
        raise bad("size does not fit dtype and shape", f"{bits // 8} bytes", stop - begin)
    return TensorSpec(name, dtype, tuple(shape)), begin, stop
