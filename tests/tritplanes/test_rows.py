"""Packed rows: exact both ways for every shape, and hostile bytes refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from weightsmith.tritplanes import rows
from weightsmith.tritplanes.encoding import (
    Int8Encoding,
    Quantization,
    Ratios,
    TritEncoding,
    packed_spec,
)

TIED: Ratios = ((3, 2), (5, 2), (3, 1), (4, 3))


@st.composite
def packed(draw: st.DrawFn) -> tuple[TritEncoding, rows.Planes]:
    planes, count = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    columns, group = draw(st.integers(1, 70)), draw(st.integers(1, 80))
    ratios = draw(st.sampled_from([(), TIED[:1], TIED])) if planes == 2 else ()
    encoding = TritEncoding((count, columns), "BF16", planes, group, ratios)
    trits = draw(arrays(np.int8, (count, planes, columns), elements=st.integers(-1, 1)))
    choice = draw(
        arrays(
            np.uint8,
            (count, encoding.groups),
            elements=st.integers(0, max(0, len(ratios) - 1)),
        )
    )
    wanted = (count, encoding.groups, 1 if ratios else planes)
    scales = draw(arrays(np.float16, wanted, elements=st.floats(0, 9000, width=16)))
    wide = scales.astype(np.float32)
    if ratios:
        wide = wide * np.array(ratios, np.float32)[choice]
    return encoding, rows.Planes(trits, wide, choice)


@given(packed())
def test_rows_come_back_exactly(drawn: tuple[TritEncoding, rows.Planes]) -> None:
    encoding, planes = drawn
    found = rows.pack_trits(encoding, planes)
    assert found.shape == packed_spec("w", encoding).shape
    again = rows.unpack_trits(encoding, found)
    for name in ("trits", "scales", "choice"):
        assert np.array_equal(getattr(again, name), getattr(planes, name)), name
    dense = rows.decode(encoding, found)
    spread = np.repeat(planes.scales, encoding.group, axis=1)[:, : encoding.columns]
    exact = (spread.astype(np.float64).transpose(0, 2, 1) * planes.trits).sum(axis=1)
    np.testing.assert_allclose(dense, exact, rtol=1e-6, atol=0.01)


def test_a_row_by_hand() -> None:
    """One row of six weights in two groups of five and one, two planes: docs/formats.md."""
    encoding = TritEncoding((1, 6), "F32", 2, 5)
    trits = np.array([[[1, 0, -1, 0, 1, 1], [0, 0, 0, 0, 0, -1]]], np.int8)
    scales = np.array([[[1.0, 0.5], [2.0, 0.25]]], np.float32)
    found = rows.pack_trits(encoding, rows.Planes(trits, scales, np.zeros((1, 2), np.uint8)))
    codes = [2 + 3 * 1 + 9 * 0 + 27 * 1 + 81 * 2, 2 + 3 + 9 + 27 + 81, 121, 0 + 3 + 9 + 27 + 81]
    assert found.tobytes() == bytes(codes) + np.array([1, 0.5, 2, 0.25], "<f2").tobytes()
    assert rows.decode(encoding, found).tolist() == [[1, 0, -1, 0, 1, 1.75]]


def test_hostile_rows_are_refused() -> None:
    encoding = TritEncoding((1, 5), "F32", 1, 5)
    good = np.array([[121, 0, 0x3C]], np.uint8)
    assert rows.decode(encoding, good).tolist() == [[0.0] * 5]
    for bytes_, message in (
        ([243, 0, 0x3C], "no five trits"),
        ([121, 0, 0x7C], "not finite"),
        ([121, 0, 0xBC], "negative"),
        ([121, 1, 0x7E], "not finite"),
    ):
        with pytest.raises(rows.InvalidRows, match=message):
            rows.decode(encoding, np.array([bytes_], np.uint8))
    tied = TritEncoding((1, 5), "F32", 2, 5, TIED)
    with pytest.raises(rows.InvalidRows, match="ratio is not in the list"):
        rows.decode(tied, np.array([[121, 121, 0, 0x3C, 4]], np.uint8))
    with pytest.raises(rows.InvalidRows, match="not finite"):
        rows.decode(Int8Encoding((1, 1), "F32"), np.array([[1, 0, 0x7C]], np.uint8))


def test_int8_rows() -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((20, 33)).astype(np.float32)
    weights[3] = 0
    packed_rows = rows.pack_int8(weights)
    encoding = Int8Encoding(weights.shape, "BF16")
    assert packed_rows.shape == packed_spec("w", encoding).shape
    largest = np.abs(weights).max(axis=1, keepdims=True)
    # Half a step of largest/127, and what rounding the scale to float16 adds at the far end.
    off = np.abs(rows.decode(encoding, packed_rows) - weights)
    assert (off <= largest / 127 * (0.5 + 127 * 2.0**-11)).all()
    with pytest.raises(OverflowError):
        rows.pack_int8(np.full((1, 2), 1e8, np.float32))


def test_the_configuration_comes_back() -> None:
    tensors = {
        "a": TritEncoding((3, 4, 5), "BF16", 2, 64, TIED),
        "b": Int8Encoding((7, 9), "F16"),
    }
    quantization = Quantization(64, TIED, tensors)
    assert Quantization.parse(quantization.record()) == quantization


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2 is not 1"),
        ({"quant_method": "gptq"}, "quant_method is not ptqtp"),
        ({"group_size": 0}, "group_size is 0"),
        ({"group_size": True}, "group_size is True"),
        ({"ratios": [[3]]}, "ratios do not have one integer for each plane"),
        ({"ratios": [[3, 9]]}, "ratio is 9"),
        ({"tensors": []}, "tensors is not an object"),
        ({"tensors": {"a": 1}}, "not an object"),
        ({"tensors": {"a": {"encoding": "trits"}}}, "shape None"),
        ({"tensors": {"a": {"encoding": "nf4", "shape": [1, 2], "dtype": "F32"}}}, "'nf4'"),
        ({"tensors": {"a": {"encoding": "int8", "shape": [1, 0], "dtype": "F32"}}}, "shape"),
        ({"tensors": {"a": {"encoding": "int8", "shape": [1 << 40] * 2, "dtype": "F32"}}}, "sha"),
        ({"tensors": {"a": {"encoding": "int8", "shape": [1, 2], "dtype": "U8"}}}, "dtype 'U8'"),
        (
            {"tensors": {"a": {"encoding": "trits", "shape": [1, 2], "dtype": "F32", "planes": 4}}},
            "planes is 4",
        ),
    ],
)
def test_untrusted_configurations_are_refused(change: dict[str, object], message: str) -> None:
    record = Quantization(64, (), {"a": TritEncoding((4, 5), "BF16", 2, 64)}).record()
    with pytest.raises(ValueError, match=message):
        Quantization.parse(record | change)
