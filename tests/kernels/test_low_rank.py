"""The native low-rank product against the numpy reference, bit for bit, and against float64."""

from collections.abc import Iterator

import numpy as np
import pytest
from weightsmith.kernels.low_rank import reference

native = pytest.importorskip("weightsmith.kernels._native").low_rank
# rows, rank, columns: around the tiles of 4 rows and strips of 16 and 32 columns
SHAPES = [(1, 1, 1), (3, 2, 15), (4, 8, 16), (5, 3, 17), (9, 16, 31), (8, 5, 32), (13, 7, 100)]


@pytest.fixture(params=native.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    native.use_isa(request.param)
    yield request.param
    native.use_isa(native.isas()[-1])


def factors(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    rows, rank, columns = shape
    rng = np.random.default_rng(rows * 1000 + columns)
    left, right = rng.standard_normal((rows, rank)), rng.standard_normal((rank, columns))
    return left.astype(np.float32), right.astype(np.float32)


def computed(module, left: np.ndarray, right: np.ndarray, scale: float) -> np.ndarray:
    out = np.full((left.shape[0], right.shape[1]), np.nan, np.float32)
    module.product(out, left, right, scale)
    return out.view(np.uint32)


@pytest.mark.parametrize("shape", SHAPES)
def test_native_is_the_reference(isa: str, shape: tuple[int, int, int]) -> None:
    left, right = factors(shape)
    for scale in (1.0, 0.3, -2.0):
        np.testing.assert_array_equal(
            computed(native, left, right, scale), computed(reference, left, right, scale)
        )


def test_subnormal_and_huge_numbers(isa: str) -> None:
    left = np.float32([[1e-30, 1e-30], [-1e-30, 2e19], [0.0, -0.0]])
    right = np.float32([[1e-12, 1e20, -3e-9], [1e-9, 1e19, 0.0]])
    np.testing.assert_array_equal(
        computed(native, left, right, 1.0), computed(reference, left, right, 1.0)
    )


def test_a_part_of_the_rows_is_that_of_the_whole(isa: str) -> None:
    left, right = factors((23, 6, 40))
    whole = computed(native, left, right, 0.7)
    for first, last in ((0, 1), (3, 10), (22, 23), (5, 23)):
        part = computed(native, np.ascontiguousarray(left[first:last]), right, 0.7)
        np.testing.assert_array_equal(part, whole[first:last])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_is_within_the_bound(shape: tuple[int, int, int]) -> None:
    left, right = (each.astype(np.float64) for each in factors(shape))
    found = computed(native, *factors(shape), 0.5).view(np.float32)
    n = (shape[1] + 1) * 2.0**-24
    bound = 0.5 * n / (1 - n) * (abs(left) @ abs(right))
    assert (abs(found - 0.5 * (left @ right)) <= bound).all()


def test_shapes_that_do_not_fit() -> None:
    left, right = factors((4, 3, 5))
    for module in (native, reference):
        with pytest.raises(ValueError, match="shapes"):
            module.product(np.zeros((4, 4), np.float32), left, right, 1.0)
        with pytest.raises(ValueError, match="shapes"):
            module.product(np.zeros((4, 5), np.float32), left[:, :2].copy(), right, 1.0)
