"""Bytes arrive on a device as they were, through two buffers that are never filled too early."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support import Tensors, from_bf16, random_tensors, read, weightsmith, write_directory

import weightsmith as package
from weightsmith import matrices, staging
from weightsmith.errors import UsageError
from weightsmith.matrices import DeviceDifference

CPU = torch.device("cpu")


@pytest.fixture
def small_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_STAGE_BYTES", 10)
    monkeypatch.setattr(staging._mine, "stages", {}, raising=False)


@pytest.mark.usefixtures("small_stages")
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("elements", [0, 1, 5, 20, 33])
@pytest.mark.parametrize("offset", [0, 1])
def test_what_arrives(dtype: str, elements: int, offset: int) -> None:
    kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    given = torch.randn(elements, 3, generator=torch.Generator().manual_seed(0)).to(kind)
    raw = given.view(torch.uint8).numpy().tobytes()
    area = memoryview(bytes(offset) + raw)[offset:]
    assert torch.equal(staging.upload(area, dtype, (elements, 3), CPU), given)


def test_an_array_stays_where_it_is() -> None:
    array = np.ones((2, 3), np.float32)
    assert staging.to_device(array, CPU).data_ptr() == array.ctypes.data


class Event:
    """Stands for a card's event: writes down what is asked of it."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name, self.diary = name, diary

    def synchronize(self) -> None:
        self.diary.append(f"wait {self.name}")

    def record(self) -> None:
        self.diary.append(f"sent {self.name}")


@pytest.mark.usefixtures("small_stages")
def test_a_buffer_is_filled_when_it_is_free() -> None:
    diary: list[str] = []
    for name, stage in zip("ab", staging._stages(CPU), strict=True):
        stage._arrived = Event(name, diary)
    found = staging.upload(memoryview(bytes(range(28))), "F32", (7,), CPU)
    assert found.view(torch.uint8).tolist() == list(range(28))
    assert diary == ["wait a", "sent a", "wait b", "sent b", "wait a", "sent a"]


def pair(here: Path) -> tuple[Path, Path]:
    shapes = {"model.layers.0.mlp.up_proj.weight": (96, 40), "model.norm.weight": (40,)}
    return tuple(write_directory(here / str(i), random_tensors(i, shapes)) for i in (0, 1))


def test_timber_by_way_of_a_device(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a card, on the CPU: the same bits."""
    inputs = pair(here)
    package.timber(*inputs, output="cpu")
    monkeypatch.setattr(matrices, "difference", DeviceDifference.of)
    package.timber(*inputs, output="device")
    assert read(Path("cpu")) == read(Path("device"))


def test_a_device_that_is_not_there(here: Path) -> None:
    with pytest.raises(UsageError, match="--device nonsense"):
        package.timber(*pair(here), output="out", device="nonsense")
    if not torch.cuda.is_available():
        done = weightsmith("timber", *pair(here / "again"), "--device", "cuda", "-o", "out")
        assert done.returncode == 2
        assert b"--device cuda" in done.stderr
    assert not Path("out").exists()


def steps(one: Tensors, other: Tensors) -> float:
    """The largest distance relative to the larger value, in bfloat16 steps."""
    found = 0.0
    for name, (_, _, data) in one.items():
        a, b = from_bf16(data), from_bf16(other[name][2])
        size = np.maximum(np.maximum(np.abs(a), np.abs(b)), 2.0**-20)
        found = max(found, float((np.abs(a - b) / size).max() * 2**7))
    return found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_card(here: Path) -> None:
    card = torch.device("cuda")
    raw = np.random.default_rng(0).bytes(3 * (8 << 20) + 4)
    found = staging.upload(memoryview(raw), "F32", (len(raw) // 4,), card)
    assert found.cpu().numpy().tobytes() == raw
    inputs = pair(here)
    package.timber(*inputs, output="cpu")
    package.timber(*inputs, output="card", device="cuda")
    # Eigenvectors differ in rounding, results by at most one step of bfloat16.
    assert steps(read(Path("cpu")), read(Path("card"))) <= 1
