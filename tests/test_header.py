"""Our header parser and writer against the safetensors library, both ways."""

import json

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from support import decode, encode, random_tensors

from weightsmith.header import Header, TensorSpec, header_length, parse_header, reference_order

NUMPY = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
checkpoints = st.dictionaries(
    names.filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(NUMPY)), shapes),
    max_size=6,
)
metadata = st.dictionaries(names, names, max_size=3)


def parse(content: bytes) -> tuple[Header, int]:
    length = header_length(content[:8], "test")
    return parse_header(content[8 : 8 + length], "test"), 8 + length


@given(checkpoints, metadata)
def test_we_read_what_the_library_writes(tensors: dict, strings: dict) -> None:
    arrays = {name: np.zeros(shape, NUMPY[dtype]) for name, (dtype, shape) in tensors.items()}
    content = save(arrays, strings or None)
    header, start = parse(content)
    assert {s.name: (s.dtype, s.shape) for s in header.tensors} == tensors
    assert dict(header.metadata) == strings
    assert content[:start] == header.encode()
    assert len(content) == start + header.nbytes
    # Not only passed through: written anew from its parts it is the same, but for key order.
    anew = Header(header.tensors, header.metadata).encode()
    assert json.loads(anew[8:]) == json.loads(content[8:start])
    assert len(anew) == start


@given(checkpoints, metadata)
def test_the_library_reads_what_we_write(tensors: dict, strings: dict) -> None:
    specs = tuple(TensorSpec(name, dtype, shape) for name, (dtype, shape) in tensors.items())
    header = Header(specs, strings)
    content = header.encode() + bytes(header.nbytes)
    assert len(header.encode()) % 8 == 0
    found = dict(safetensors.deserialize(content))
    assert {n: (e["dtype"], tuple(e["shape"])) for n, e in found.items()} == tensors
    assert parse(content)[0] == header


def test_bytes_of_a_tiny_file() -> None:
    content = encode({"b": ("F32", (1,), b"abcd"), "é": ("U8", (2,), b"ef")}, {"k": "v"})
    text = (
        '{"__metadata__":{"k":"v"},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        '"é":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}'
    ).encode()
    padded = text + b" " * (-len(text) % 8)
    assert content == len(padded).to_bytes(8, "little") + padded + b"abcdef"


def test_reference_order_is_the_librarys() -> None:
    arrays = {f"t{i}": np.zeros(2, dtype) for i, dtype in enumerate(NUMPY.values())}
    header, _ = parse(save(arrays))
    assert reference_order(reversed(header.tensors)) == header.tensors


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}], ids=["without", "with-metadata"])
def test_decode_gives_back_what_was_encoded(metadata: dict) -> None:
    tensors = random_tensors(3)
    assert decode(encode(tensors, metadata)) == (tensors, metadata)
