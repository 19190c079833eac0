"""The native fit against the numpy reference, bit for bit, on every instruction set."""

from collections.abc import Iterator

import numpy as np
import pytest
from weightsmith.kernels.trit_fit import MOST_STARTS, reference

native = pytest.importorskip("weightsmith.kernels._native").trit_fit

NONE = np.empty((0, 2), np.float32)
TIED = np.array([[3, 2], [5, 2], [3, 1], [4, 3]], np.float32)


@pytest.fixture(params=native.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    native.use_isa(request.param)
    yield request.param
    native.use_isa(native.isas()[-1])


def weights_of(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Normal, heavy-tailed, sparse, constant, tiny and huge rows."""
    rng = np.random.default_rng([rows, columns, seed])
    w = rng.standard_t(4, (rows, columns)) * 0.02
    w[1::7] = rng.standard_normal(w[1::7].shape)
    w[2::7] *= rng.random(w[2::7].shape) < 0.1
    w[3::7] = np.where(rng.random(w[3::7].shape) < 0.5, 0.3, -0.3)
    w[4::7] *= 1e-6
    w[5::7] *= 1e5
    w[6::14] = 0
    return w.astype(np.float32)


def run_fit(kernel, w, group, planes, ratios=NONE, starts=99, importance=None):  # type: ignore[no-untyped-def]
    groups = -(-w.shape[1] // group)
    scales = np.empty((len(w), groups, planes), np.float32)
    ratio = np.empty((len(w), groups), np.uint8)
    h = np.ones(w.shape[1], np.float32) if importance is None else importance
    counts = kernel.fit(scales, ratio, w, h, group, ratios, starts)
    return scales, ratio, counts


def run_assign(kernel, w, scales, group):  # type: ignore[no-untyped-def]
    trits = np.empty((len(w), scales.shape[2], w.shape[1]), np.int8)
    return trits, kernel.assign(trits, w, scales, group)


@pytest.mark.parametrize(("rows", "columns", "group"), [(1, 1, 128), (33, 200, 128), (17, 70, 32)])
@pytest.mark.parametrize("planes", [1, 2, 3])
def test_fit_and_assign(isa: str, rows: int, columns: int, group: int, planes: int) -> None:
    w = weights_of(rows, columns)
    for importance in (None, np.random.default_rng(1).random(columns, np.float32) + 0.01):
        scales, ratio, counts = run_fit(reference, w, group, planes, importance=importance)
        found = run_fit(native, w, group, planes, importance=importance)
        assert found[2] == counts
        assert np.array_equal(found[0], scales)
        assert np.array_equal(found[1], ratio)
    trits, (error, norm, zeros) = run_assign(reference, w, scales, group)
    again, measured = run_assign(native, w, scales, group)
    assert np.array_equal(again, trits)
    assert measured[:2] == pytest.approx((error, norm), rel=1e-12)
    assert measured[2] == zeros


def test_tied_scales(isa: str) -> None:
    w = weights_of(30, 150)
    for table in (TIED, TIED[:1]):
        scales, ratio, counts = run_fit(reference, w, 64, 2, table)
        found = run_fit(native, w, 64, 2, table)
        assert found[2] == counts
        assert np.array_equal(found[0], scales)
        assert np.array_equal(found[1], ratio)
        unit = scales[..., 0] / table[ratio][..., 0]
        assert np.array_equal(unit[..., None] * table[ratio], scales)
        assert np.array_equal(unit.astype(np.float16).astype(np.float32), unit)
    assert set(np.unique(run_fit(native, w, 64, 2, TIED)[1])) == {0, 1, 2, 3}


@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("starts", [1, 3])
def test_fewer_starts(isa: str, planes: int, starts: int) -> None:
    w = weights_of(20, 64)
    expected = run_fit(reference, w, 64, planes, starts=starts)
    found = run_fit(native, w, 64, planes, starts=starts)
    assert np.array_equal(found[0], expected[0])
    assert found[2] == expected[2]


def test_algorithm1(isa: str) -> None:
    w = weights_of(19, 150)
    scales = [np.ones((19, 3, 2)) for _ in range(2)]
    trits = [np.repeat(np.where(w < 0, -1, 1)[:, None], 2, axis=1).astype(np.int8) for _ in "ab"]
    for _ in range(4):
        moved = [
            kernel.algorithm1_step(s, t, w, 64)
            for kernel, s, t in zip((reference, native), scales, trits, strict=True)
        ]
        assert moved[1] == pytest.approx(moved[0], rel=1e-9)
        np.testing.assert_allclose(scales[1], scales[0], rtol=1e-9)
        assert np.array_equal(trits[1], trits[0])


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_feedback(isa: str, planes: int) -> None:
    w = weights_of(21, 48)
    rng = np.random.default_rng(0)
    factor = np.triu(rng.standard_normal((48, 48)) * 0.1 + np.eye(48)).astype(np.float32)
    group_of = rng.integers(0, 3, 48).astype(np.int32)
    scales = np.abs(rng.standard_normal((21, 3, planes)) * 0.05).astype(np.float16)
    scales = -np.sort(-scales.astype(np.float32), axis=2)
    results = []
    for kernel in (reference, native):
        trits, error, moved = np.empty((21, planes, 48), np.int8), np.empty_like(w), w.copy()
        kernel.feedback(trits, error, moved, factor, scales, group_of)
        results.append((trits, error, moved))
    for expected, found in zip(*results, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("columns", [1, 4, 5, 6, 127, 576])
@pytest.mark.parametrize("planes", [1, 2, 3])
def test_pack(columns: int, planes: int) -> None:
    trits = np.random.default_rng(0).integers(-1, 2, (9, planes, columns)).astype(np.int8)
    width = -(-columns // 5)
    results = []
    for kernel in (reference, native):
        # Part of a wider row, as in the file.
        room = np.full((9, planes * width + 7), 7, np.uint8)
        view = np.lib.stride_tricks.as_strided(
            room, (9, planes, width), (room.strides[0], width, 1)
        )
        kernel.pack(view, trits)
        assert (room[:, planes * width :] == 7).all()
        results.append(room)
        for reader in (reference, native):
            again = np.empty_like(trits)
            assert reader.unpack(again, view) == 0
            assert np.array_equal(again, trits)
        view[3, 0, 0] = 243
        assert kernel.unpack(np.empty_like(trits), view) == 1
    assert np.array_equal(*results)


def test_expand() -> None:
    rng = np.random.default_rng(0)
    trits = rng.integers(-1, 2, (9, 3, 150)).astype(np.int8)
    scales = rng.random((9, 3, 3), np.float32)
    expected, found = np.empty((9, 150), np.float32), np.empty((9, 150), np.float32)
    reference.expand(expected, trits, scales, 64)
    native.expand(found, trits, scales, 64)
    assert np.array_equal(found, expected)


def test_scales_beyond_float16_are_counted(isa: str) -> None:
    w = np.stack([np.linspace(-1, 1, 64), np.linspace(-3e5, 3e5, 64)]).astype(np.float32)
    scales, _, (_, overflows) = run_fit(native, w, 64, 2)
    assert overflows == 1
    assert np.isfinite(scales).all()
    assert run_fit(reference, w, 64, 2)[2][1] == 1


def test_wrong_shapes_are_refused() -> None:
    w = weights_of(4, 64)
    with pytest.raises(ValueError, match="do not go together"):
        run_fit(native, w, 64, 2, importance=np.ones(63, np.float32))
    with pytest.raises(ValueError, match="do not go together"):
        run_assign(native, w, np.ones((4, 2, 2), np.float32), 64)
    with pytest.raises(ValueError, match="do not go together"):
        native.feedback(
            np.empty((4, 2, 64), np.int8),
            np.empty_like(w),
            w,
            np.eye(64, dtype=np.float32),
            np.ones((4, 1, 2), np.float32),
            np.ones(64, np.int32),
        )


def test_the_number_of_starts_is_known() -> None:
    w = weights_of(8, 128)
    for planes, most in MOST_STARTS.items():
        everything = run_fit(native, w, 128, planes, starts=99)[0]
        assert np.array_equal(run_fit(native, w, 128, planes, starts=most)[0], everything)
