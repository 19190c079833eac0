"""Hostile safetensors files: one for each rule of the reader, with the message it must end in."""

import json
import struct
from typing import Any


def raw(text: bytes, data: bytes = b"") -> bytes:
    """A file with this header text."""
    return struct.pack("<Q", len(text)) + text + data


def entries(data: bytes = b"\0" * 4, **tensors: Any) -> bytes:
    """A file with these header entries."""
    return raw(json.dumps(tensors).encode(), data)


def f32(begin: int = 0, end: int = 4, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    """One header entry."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


_GOOD = b'"dtype":"F32","shape":[1],"data_offsets":[0,4]'
_DEEP = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"

# Name: (content, what the message says, the tensor it names or None).
HOSTILE: dict[str, tuple[bytes, str, str | None]] = {
    "shorter-than-8": (b"\1\0\0", "too short", None),
    "header-length-0": (raw(b""), "impossible header length", None),
    "header-length-huge": (struct.pack("<Q", 2**63) + b"{}", "impossible header length", None),
    "header-over-cap": (struct.pack("<Q", 100_000_001) + b"{}", "impossible header length", None),
    "header-cut": (struct.pack("<Q", 1000) + b'{"a":', "header is cut short", None),
    "leading-space": (raw(b" {}"), "does not begin with '{'", None),
    "array-header": (raw(b"[1]"), "does not begin with '{'", None),
    "byte-order-mark": (raw(b"\xef\xbb\xbf{}"), "does not begin with '{'", None),
    "not-json": (raw(b"{'a': 1}"), "not valid JSON", None),
    "text-after-object": (raw(b"{} x"), "not valid JSON", None),
    "trailing-nul": (raw(b"{}\0"), "not valid JSON", None),
    "not-utf8": (raw(b'{"\xff":{}}'), "not UTF-8", None),
    "lone-surrogate": (
        raw(b'{"\\ud800":{' + _GOOD + b"}}", b"\0" * 4),
        "not UTF-8",
        None,
    ),
    "nested-too-deep": (raw(_DEEP), "nested too deeply", None),
    "nan-literal": (raw(b'{"a":NaN}'), "NaN is not JSON", None),
    "infinity-literal": (raw(b'{"a":-Infinity}'), "-Infinity is not JSON", None),
    "number-of-digits": (raw(b'{"a":' + b"9" * 5000 + b"}"), "not valid JSON", None),
    "duplicate-tensor": (
        raw(b'{"a":{' + _GOOD + b'},"a":{' + _GOOD + b"}}", b"\0" * 4),
        "the key 'a' stands twice",
        None,
    ),
    "duplicate-field": (
        raw(b'{"a":{"dtype":"F32",' + _GOOD + b"}}", b"\0" * 4),
        "the key 'dtype' stands twice",
        None,
    ),
    "duplicate-metadata": (
        raw(b'{"__metadata__":{"k":"1","k":"2"}}'),
        "the key 'k' stands twice",
        None,
    ),
    "metadata-not-object": (raw(b'{"__metadata__":[]}'), "__metadata__ is not an object", None),
    "metadata-not-string": (raw(b'{"__metadata__":{"k":1}}'), "is not a string", None),
    "entry-not-object": (raw(b'{"a":3}'), "entry is not an object", "a"),
    "unknown-dtype": (entries(a=f32(dtype="F33")), "unknown dtype", "a"),
    "dtype-not-string": (entries(a=f32(dtype=32)), "unknown dtype", "a"),
    "shape-missing": (entries(a={"dtype": "F32", "data_offsets": [0, 4]}), "shape is not", "a"),
    "shape-float": (entries(a=f32(shape=[1.0])), "shape is not", "a"),
    "shape-infinite": (
        raw(b'{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,4]}}', b"\0" * 4),
        "shape is not",
        "a",
    ),
    "shape-boolean": (entries(a=f32(shape=[True])), "shape is not", "a"),
    "shape-negative": (entries(a=f32(shape=[-1])), "shape is not", "a"),
    "shape-overflow": (entries(b"", a=f32(0, 0, [2**62, 4, 0])), "shape is too large", "a"),
    "shape-beyond-int64": (entries(b"", a=f32(0, 0, [2**63])), "shape is not", "a"),
    "offsets-missing": (entries(a={"dtype": "F32", "shape": [1]}), "data_offsets is not", "a"),
    "offsets-three": (
        entries(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}),
        "data_offsets is not",
        "a",
    ),
    "offsets-boolean": (
        entries(a={"dtype": "U8", "shape": [1], "data_offsets": [False, True]}),
        "data_offsets is not",
        "a",
    ),
    "offsets-negative": (entries(a=f32(-4, 0)), "data_offsets is not", "a"),
    "offsets-reversed": (entries(a=f32(4, 0)), "data ends before it begins", "a"),
    "size-unlike-shape": (entries(a=f32(shape=[2])), "size does not fit", "a"),
    "sub-byte": (entries(b"\0", a=f32(0, 1, [1], "F4")), "does not end on a byte", "a"),
    "first-not-at-zero": (entries(b"\0" * 8, a=f32(4, 8)), "overlaps or leaves a hole", "a"),
    "hole": (entries(b"\0" * 12, a=f32(), b=f32(8, 12)), "overlaps or leaves a hole", "b"),
    "overlap": (entries(b"\0" * 6, a=f32(), b=f32(2, 6)), "overlaps or leaves a hole", "b"),
    "alias": (entries(a=f32(), b=f32()), "overlaps or leaves a hole", "b"),
    "data-truncated": (entries(b"\0" * 6, a=f32(), b=f32(4, 8)), "truncated", "b"),
    "data-appended": (entries(b"\0" * 9, a=f32()), "bytes after the last tensor", None),
}

# What the reference accepts and we accept too: being strict must not mean being incompatible.
HARMLESS: dict[str, bytes] = {
    "no-tensor-name": entries(**{"": f32()}),
    "rank-0": entries(a=f32(shape=[])),
    "zero-size": entries(b"\0" * 4, a=f32(0, 0, [0, 5]), b=f32()),
    "trailing-spaces": raw(b'{"a":{' + _GOOD + b"}}   ", b"\0" * 4),
    "trailing-newline": raw(b'{"a":{' + _GOOD + b"}}\n", b"\0" * 4),
    "metadata-null": raw(b'{"__metadata__":null,"a":{' + _GOOD + b"}}", b"\0" * 4),
    "unknown-field": entries(a=f32() | {"more": 1}),
    "misaligned": entries(b"\0" * 5, a=f32(0, 1, [1], "U8"), b=f32(1, 5)),
    "unordered-header": entries(b"\0" * 8, a=f32(4, 8), b=f32(0, 4)),
}
