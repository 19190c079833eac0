"""Streams that are read late or twice: what has to wait, and that it waits on the disk."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import encode

from weightsmith.checkpoint.stream import StreamSource
from weightsmith.engine.spool import waiting
from weightsmith.header import Header, TensorSpec
from weightsmith.operators.operator import Slot, TensorPlan, whole

CONTENT = {name: bytes([number]) * 200_000 for number, name in enumerate("abcde")}


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamSource]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    data = encode({name: ("U8", (len(part),), part) for name, part in CONTENT.items()})
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(data,))
    writer.start()
    source = StreamSource(tmp_path / "fifo", "test", lambda _: None)
    yield source
    source.close()
    writer.join()


def read(source: StreamSource, name: str, start: int = 0, size: int = 1000) -> bytes:
    return bytes(source.read(name, start, size, memoryview(bytearray(size + 8192))))


def test_what_is_kept_can_be_read_in_any_order(stream: StreamSource) -> None:
    stream.keep(["b", "d"])
    for name in ("d", "b", "d", "e"):
        for start in (199_000, 0, 100):
            if name != "e":
                assert read(stream, name, start) == CONTENT[name][:1000]
    assert read(stream, "e") == CONTENT["e"][:1000]
    stream.drop("d")
    with pytest.raises(AssertionError, match="backwards"):
        read(stream, "d")
    assert read(stream, "b", 1) == CONTENT["b"][:1000]
    stream.finish()


def test_it_waits_on_the_disk_and_leaves_no_name(stream: StreamSource, tmp_path: Path) -> None:
    def open_files() -> list[str]:
        found = []
        for link in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # that of the listing itself
                found.append(os.readlink(f"/proc/self/fd/{link}"))
        return [name for name in found if str(tmp_path) in name and "fifo" not in name]

    stream.keep(CONTENT)
    assert open_files() == []
    read(stream, "c")
    assert len(open_files()) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]
    stream.drop("a")
    assert len(open_files()) == 2
    stream.finish()
    assert open_files() == []


def plans(*made_of: str) -> list[TensorPlan]:
    """Output tensors 0, 1, ..., each of the inputs named; a star asks for all of one."""
    result = []
    for number, names in enumerate(made_of):
        slots = tuple(
            Slot(0, TensorSpec(name[0], "U8", (200_000,)), whole="*" in name)
            for name in names.split()
        )
        result.append(whole(TensorSpec(str(number), "U8", (200_000,)), slots, "anything"))
    return result


@pytest.mark.parametrize(
    ("made_of", "expected"),
    [
        (("a", "b", "c", "d", "e"), {}),
        (("a", "c", "e"), {}),
        (("a", "c", "b"), {"b": "2"}),
        (("a", "b", "a"), {"a": "2"}),
        (("b a*", "c a*", "d"), {"a": "1"}),
        (("a", "b d*", "c d*", "e"), {"b": "1", "c": "2", "d": "2"}),
        (("a b",), {"a": "0"}),
    ],
)
def test_what_has_to_wait(made_of: tuple[str, ...], expected: dict[str, str]) -> None:
    header = Header(tuple(TensorSpec(name, "U8", (200_000,)) for name in CONTENT))
    assert waiting(0, header, plans(*made_of)) == expected
    assert waiting(1, header, plans(*made_of)) == {}
