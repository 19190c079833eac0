"""The native draws against the numpy reference, bit for bit; and whether they are what they say."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from weightsmith.kernels.draws import reference

native = pytest.importorskip("weightsmith.kernels._native").draws
SHAPES = [(1, 1), (3, 1), (2, 4), (5, 7), (1, 255), (2, 256), (2, 257), (3, 1000), (9, 2049)]
FIRST_ROWS = [0, 1, 2**32 - 1, 2**40 + 5]
KEYS = [0, 1, 0x0123456789ABCDEF, 2**64 - 1]


@pytest.fixture(params=native.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    native.use_isa(request.param)
    yield request.param
    native.use_isa(native.isas()[-1])


def drawn(module: Any, kind: str, shape: tuple[int, int], key: int, first_row: int) -> np.ndarray:
    """The bits of the draws."""
    out = np.zeros(shape, np.uint32 if kind == "bits" else np.float32)
    getattr(module, f"draw_{kind}")(out, key, first_row)
    return out.view(np.uint32)


@pytest.mark.parametrize("kind", ["bits", "normals"])
@pytest.mark.parametrize("shape", SHAPES)
def test_native_is_the_reference(isa: str, kind: str, shape: tuple[int, int]) -> None:
    for key in KEYS:
        for first_row in FIRST_ROWS:
            at = (kind, shape, key, first_row)
            np.testing.assert_array_equal(drawn(native, *at), drawn(reference, *at))


def test_empty_arrays(isa: str) -> None:
    for module in (native, reference):
        for shape in ((0, 5), (5, 0)):
            assert drawn(module, "normals", shape, 1, 0).shape == shape


def test_philox_is_that_of_its_authors() -> None:
    """Known answer of Random123 for Philox4x32-10, counter and key 0."""
    expected = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert drawn(native, "bits", (1, 4), 0, 0).tolist() == [expected]


def test_a_draw_depends_on_its_place_only() -> None:
    whole = drawn(native, "normals", (20, 300), 7, 100)
    for first, last in ((0, 20), (3, 4), (19, 20)):
        part = drawn(native, "normals", (last - first, 300), 7, 100 + first)
        np.testing.assert_array_equal(part, whole[first:last])
    np.testing.assert_array_equal(drawn(native, "normals", (20, 77), 7, 100), whole[:, :77])


def exact(v: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Box and Muller in float64, of the same uniform numbers."""
    u = (v >> 1).astype(np.float64) * 2.0**-31 + 2.0**-32
    radius, angle = np.sqrt(-2 * np.log(u)), w.astype(np.float64) * (2 * np.pi * 2.0**-32)
    return radius * np.cos(angle), radius * np.sin(angle)


def test_normals_are_those_of_box_and_muller() -> None:
    """In float32: u is rounded to 24 bits, which near u = 1 moves the radius by up to 2^-24 / r."""
    shape = (100, 4000)
    words = drawn(native, "bits", shape, 3, 0).reshape(-1, 4)
    found = drawn(native, "normals", shape, 3, 0).view(np.float32).reshape(-1, 4)
    for k in (0, 2):
        x, y = exact(words[:, k], words[:, k + 1])
        radius = np.hypot(x, y)
        allowed = 8 * 2.0**-24 * np.maximum(radius, 1 / radius)
        assert (np.abs(found[:, k] - x) < allowed).all()
        assert (np.abs(found[:, k + 1] - y) < allowed).all()


def test_the_first_moments() -> None:
    """Of 16 million draws, within 5 standard errors of those of a normal distribution."""
    x = drawn(native, "normals", (4000, 4000), 99, 0).view(np.float32).astype(np.float64)
    n = x.size
    assert abs(x.mean()) < 5 / n**0.5
    assert abs(x.std() - 1) < 5 / (2 * n) ** 0.5
    assert abs((x**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 5 * (96 / n) ** 0.5
    assert abs((x[:, :-1] * x[:, 1:]).mean()) < 5 / n**0.5
    assert abs((x[:-1] * x[1:]).mean()) < 5 / n**0.5
    for bound, tail in ((1, 0.3173105), (3, 0.0026998), (5, 5.733e-7)):
        count = np.count_nonzero(np.abs(x) > bound)
        assert abs(count - n * tail) < 5 * (n * tail) ** 0.5


def test_other_keys_give_other_draws() -> None:
    a, b = (drawn(native, "normals", (100, 1000), key, 0).view(np.float32) for key in (5, 6))
    assert abs((a.astype(np.float64) * b).mean()) < 5 / a.size**0.5
