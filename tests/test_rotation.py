"""Rotations: orthogonal, spread out, the same for any block; against a product of matrices."""

import numpy as np
import pytest

from weightsmith.rotation import Rotation


def dense(rotation: Rotation) -> np.ndarray:
    matrix = np.eye(rotation.width)
    rotation.right(matrix)
    return matrix


@pytest.mark.parametrize("size", [1, 2, 3, 7, 24, 64, 80, 576])
@pytest.mark.parametrize(("count", "repeat"), [(1, 1), (3, 1), (2, 3)])
def test_orthogonal_and_spread_out(size: int, count: int, repeat: int) -> None:
    rotation = Rotation(size, 5, "x", count, repeat)
    matrix = dense(rotation)
    # Sums of at most 576 products of float64.
    assert np.abs(matrix @ matrix.T - np.eye(rotation.width)).max() < 1e-13
    assert np.abs(matrix).max() <= np.sqrt(2 / size) + 1e-12
    blocks = matrix.reshape(count, repeat, size, count, repeat, size)
    for block in range(count):
        for copy in range(repeat):
            inside = blocks[block, copy, :, block, copy]
            assert np.array_equal(inside, blocks[block, 0, :, block, 0])
            # cos a + sin a is zero at odd multiples of pi / 4, which no odd m has.
            assert np.abs(inside).min() > 1e-3 / np.sqrt(size)
    assert np.count_nonzero(matrix) <= count * repeat * size**2


def test_powers_of_two_are_hadamard() -> None:
    rotation = Rotation(64, 5, "x")
    hadamard = np.ones((1, 1))
    for _ in range(6):
        hadamard = np.kron([[1, 1], [1, -1]], hadamard)
    expected = rotation.signs()[:, None] * hadamard / 8
    assert np.array_equal(dense(rotation), expected)


def test_left_is_the_transpose_and_blocks_do_not_matter() -> None:
    rotation = Rotation(48, 5, "x", 2)
    rng = np.random.default_rng(0)
    tall = rng.standard_normal((3000, 96))
    right = tall.copy()
    rotation.right(right)
    left = np.ascontiguousarray(tall.T)
    rotation.left(left)
    assert np.array_equal(left, right.T)
    for start, stop in ((0, 1), (1, 8), (2000, 3000)):
        part = tall[start:stop].copy()
        rotation.right(part)
        assert np.array_equal(part, right[start:stop])
    assert np.allclose(right, tall @ dense(rotation), atol=1e-12)


def test_seed_and_label_make_the_signs() -> None:
    drawn = [Rotation(64, *given).signs() for given in ((0, "a"), (1, "a"), (0, "b"), (0, "a"))]
    assert np.array_equal(drawn[0], drawn[3])
    assert len({tuple(signs) for signs in drawn}) == 3
    assert {1.0, -1.0} == set(drawn[0])
    # The same on every machine, for all time: outputs depend on it.
    assert Rotation(8, 0, "stream").signs().tolist() == EXPECTED


EXPECTED = [1.0, 1.0, -1.0, 1.0, -1.0, -1.0, -1.0, 1.0]
