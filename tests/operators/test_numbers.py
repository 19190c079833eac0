"""Decimals rounded once to float32."""

import struct
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightsmith.operators.numbers import decimal, float32


@given(st.decimals(-1000, 1000, places=12))
def test_no_float32_is_nearer(number: Decimal) -> None:
    chosen = float32(number)
    assert chosen == np.float32(chosen)
    error = abs(Fraction(chosen) - Fraction(number))
    for neighbour in (np.float32(-np.inf), np.float32(np.inf)):
        other = float(np.nextafter(np.float32(chosen), neighbour))
        assert abs(Fraction(other) - Fraction(number)) >= error


def test_float64_on_the_way_would_round_twice() -> None:
    # Just above the middle of two float32 neighbours, by less than float64 can tell.
    number = Decimal(1) + Decimal(2) ** -24 + Decimal(2) ** -70
    assert np.float32(float(number)) == 1.0
    assert float32(number) == 1.0 + 2**-23


@pytest.mark.parametrize(
    ("text", "normal"),
    [("0.80", "0.8"), ("1.0", "1"), ("-0", "0"), ("1e2", "100"), (".5", "0.5"), ("1E-3", "0.001")],
)
def test_one_normal_form(text: str, normal: str) -> None:
    assert decimal(text) == Decimal(normal)
    assert struct.pack("<f", float32(decimal(text))) == struct.pack("<f", float(normal))
    assert str(decimal(text)) == normal


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1/2", "0x1", "1e999", "1e-999"])
def test_not_a_finite_number(text: str) -> None:
    with pytest.raises(ValueError, match=r"number|beyond"):
        decimal(text)


def test_too_large() -> None:
    with pytest.raises(ValueError, match="too large"):
        float32(Decimal("1e39"))
