"""Reading a shard: mapped where that pays, copied elsewhere, the same bytes and the same errors."""

import os
from pathlib import Path

import numpy as np
import pytest
from support import encode

from weightsmith.checkpoint.shard import PAGE, Shard
from weightsmith.errors import InvalidFile

SIZE = 1 << 20
DATA = np.random.default_rng(0).bytes(SIZE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode({"a": ("U8", (SIZE,), DATA)}))
    return path


def area(nbytes: int) -> memoryview:
    return memoryview(bytearray(nbytes + 2 * PAGE))


@pytest.mark.parametrize("mappable", [True, False], ids=["mapped", "copied"])
@pytest.mark.parametrize(("start", "nbytes"), [(0, SIZE), (1, SIZE - 1), (70_001, 300_000), (5, 0)])
def test_any_range(path: Path, mappable: bool, start: int, nbytes: int) -> None:
    shard = Shard(path)
    shard._mappable = mappable
    scratch = area(nbytes)
    found = shard.read("a", start, nbytes, scratch)
    assert bytes(found) == DATA[start : start + nbytes]
    assert (found.obj is scratch.obj) != (mappable and nbytes > PAGE)
    del found
    shard.close()


@pytest.mark.parametrize("nbytes", [100, 500_000], ids=["copied", "mapped"])
def test_a_file_that_becomes_shorter(path: Path, nbytes: int) -> None:
    """An error that names file and tensor, not a signal."""
    shard = Shard(path)
    os.truncate(path, 300_000)
    with pytest.raises(InvalidFile, match=r"became shorter while it was read \(tensor a"):
        shard.read("a", SIZE - nbytes, nbytes, area(nbytes))
    shard.close()


def test_memory_does_not_grow_with_what_was_read(path: Path) -> None:
    shard = Shard(path)
    for _ in range(3):
        shard.read("a", 0, SIZE, area(SIZE))
        maps = Path("/proc/self/maps").read_text()
        assert str(path) not in maps
    shard.close()


@pytest.mark.parametrize(
    ("failure", "stays"), [(22, False), (14, True)], ids=["old-kernel", "bad-page"]
)
def test_where_populating_fails_the_copy_answers(
    path: Path, monkeypatch: pytest.MonkeyPatch, failure: int, stays: bool
) -> None:
    shard = Shard(path)

    def refuse(*_: object) -> memoryview:
        raise OSError(failure, "no")

    monkeypatch.setattr(shard, "_map", refuse)
    assert bytes(shard.read("a", 0, SIZE, area(SIZE))) == DATA
    assert shard._mappable == stays
    shard.close()
