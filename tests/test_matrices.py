"""Parts of stored tensors: any dtype, either direction, whatever their alignment."""

import numpy as np
import pytest
import torch

from weightsmith.matrices import Cut, DeviceDifference, Difference, StoredMatrix

CUTS: list[Cut] = [
    (slice(None), slice(None)),
    (slice(1, 3), slice(None)),
    (slice(None), slice(2, 5)),
]
TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SHAPE = (4, 2, 3)


def tensor(dtype: str, seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).to(TORCH[dtype])


def stored(values: torch.Tensor, dtype: str, offset: int = 0) -> StoredMatrix:
    """The bytes of a tensor, `offset` bytes behind an aligned address."""
    raw = values.view(torch.uint8).numpy().tobytes()
    area = bytearray(offset) + bytearray(raw)
    return StoredMatrix.of(memoryview(area)[offset:], dtype, SHAPE)


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("offset", [0, 1])
def test_a_part_is_widened(dtype: str, cut: Cut, offset: int) -> None:
    values = tensor(dtype, 0)
    found = stored(values, dtype, offset)[cut]
    assert torch.equal(found, values.reshape(4, 6)[cut].float())


@pytest.mark.parametrize("cut", CUTS)
def test_a_difference_is_that_of_float32(cut: Cut) -> None:
    left, right = tensor("F16", 0), tensor("BF16", 1)
    cpu = torch.device("cpu")
    pair = stored(left, "F16"), stored(right, "BF16", 1)
    expected = (left.float() - right.float()).reshape(4, 6)[cut]
    # The second is what a card does, here by the CPU.
    for difference in (Difference(*pair), DeviceDifference.of(*pair, cpu)):
        assert difference.shape == (4, 6)
        assert difference.device == cpu
        assert torch.equal(difference[cut], expected)


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("transposed", [False, True])
def test_parts_are_stored_rounded(dtype: str, transposed: bool) -> None:
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    out = stored(torch.zeros(SHAPE, dtype=TORCH[dtype]), dtype, 1)
    for cut in ((slice(None), slice(0, 4)), (slice(None), slice(4, 6))):
        part = values[cut]
        assert out.store(cut, part.T.contiguous().T if transposed else part) == 0
    expected = values.to(TORCH[dtype])
    assert torch.equal(out[CUTS[0]], expected.float())


def test_overflows_are_counted() -> None:
    out = stored(torch.zeros(SHAPE, dtype=torch.float16), "F16")
    values = torch.tensor([[1e9, -1e9, 1.0], [np.inf, 0.0, 70000.0]])
    assert out.store((slice(0, 2), slice(1, 4)), values) == 3
