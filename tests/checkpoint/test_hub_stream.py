"""Byte ranges of a checkpoint on the Hub: how few, how they fail, and what they make up for."""

import threading
from pathlib import Path

import numpy as np
import pytest
from hubserver import TOKEN, Fault, Hub, Repo
from support import encode, random_tensors, read, write_directory

import weightsmith as package
from weightsmith.checkpoint.readahead import ReadAhead
from weightsmith.checkpoint.remote import RemoteFile, read_ahead
from weightsmith.checkpoint.source import Source, open_source
from weightsmith.errors import WeightsmithError
from weightsmith.header import Header, TensorSpec

SIZE = 1 << 20
LARGE = {f"t{n}": ("U8", (SIZE,), np.random.default_rng(n).bytes(SIZE)) for n in range(4)}


@pytest.fixture
def large(hub: Hub) -> Hub:
    hub.repos["me/large"] = Repo()
    hub.repos["me/large"].commit({"config.json": b"{}", "model.safetensors": encode(LARGE)})
    return hub


def opened(address: str = "hf://me/large") -> Source:
    return open_source(address, stream=True)


def whole(source: Source, name: str) -> bytes:
    return bytes(source.read(name, 0, SIZE, memoryview(bytearray(SIZE + 8192))))


def test_any_range(large: Hub) -> None:
    source = opened()
    area = memoryview(bytearray(SIZE + 8192))
    for announced in (False, True):
        if announced:
            read_ahead(source, [("t1", 0, SIZE), ("t2", 5, 70_000)], 4 << 20)
        for name, start, nbytes in [("t1", 0, SIZE), ("t2", 5, 70_000), ("t3", 9, 1), ("t3", 4, 0)]:
            expected = LARGE[name][2][start : start + nbytes]
            assert bytes(source.read(name, start, nbytes, area)) == expected
    source.close()


def test_nothing_is_fetched_that_was_not_announced(large: Hub) -> None:
    source = opened()
    large.forget()
    read_ahead(source, [("t1", 0, SIZE), ("t3", 0, SIZE)], 64 << 20)
    assert whole(source, "t1") + whole(source, "t3") == LARGE["t1"][2] + LARGE["t3"][2]
    assert large.sent == 2 * SIZE
    source.close()


def test_several_ranges_are_under_way(large: Hub) -> None:
    """The first answer waits until the fourth question has been asked."""
    source = opened()
    together = threading.Barrier(4, timeout=30)
    large.hook = lambda line: together.wait() and None if "/files/" in line else None
    read_ahead(source, ((name, 0, SIZE) for name in LARGE), 32 << 20)
    assert [whole(source, name) for name in LARGE] == [data for _, _, data in LARGE.values()]
    source.close()


def test_the_hub_is_asked_once_for_the_place(large: Hub) -> None:
    source = opened()
    read_ahead(source, ((name, 0, SIZE) for name in LARGE), 8 << 20)
    assert all(whole(source, name) for name in LARGE)
    assert len(large.asked("resolve.*safetensors")) == 1
    # The address that it gave for the bytes expires.
    large.expiry += 1
    read_ahead(source, ((name, 0, SIZE) for name in LARGE), 8 << 20)
    assert [whole(source, name) for name in LARGE] == [data for _, _, data in LARGE.values()]
    assert len(large.asked("resolve.*safetensors")) > 1
    source.close()


def test_no_token_for_the_cdn(large: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    source = opened()
    assert whole(source, "t0") == LARGE["t0"][2]
    assert large.leaked == []
    source.close()


@pytest.mark.parametrize("how", ["cut", "drop", 500, 503, 408])
def test_a_broken_range_is_taken_up_again(large: Hub, how: int | str) -> None:
    source = opened()
    large.forget()
    large.faults += [Fault("GET /files/", how), Fault("GET /files/", how)]
    assert whole(source, "t2") == LARGE["t2"][2]
    assert len(large.requests) == 3
    # What has come is not fetched again.
    assert large.sent < SIZE + 100
    source.close()


def test_a_limit_is_waited_for(large: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(RemoteFile, "_wait", lambda _, seconds: waited.append(seconds))
    source = opened()
    for header in ({"Retry-After": "7"}, {"RateLimit": '"resolvers";r=0;t=55'}):
        large.faults.append(Fault("GET /files/", 429, headers=header))
    assert whole(source, "t2") == LARGE["t2"][2]
    assert waited == [7, 55]
    source.close()


@pytest.mark.parametrize("how", ["drop", 500])
def test_it_is_given_up_in_the_end(large: Hub, how: int | str) -> None:
    source = opened()
    large.faults.append(Fault("GET /files/", how, times=99))
    read_ahead(source, [("t2", 0, SIZE)], 8 << 20)
    with pytest.raises(WeightsmithError, match=r"hf://me/large/model.safetensors"):
        whole(source, "t2")
    source.close()


def test_a_server_without_ranges(hub: Hub, tmp_path: Path) -> None:
    with (path := tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(1 << 29)
    hub.repos["me/large"] = Repo()
    hub.repos["me/large"].commit({"model.safetensors": path})
    hub.faults.append(Fault("GET /files/", "whole", times=9))
    with pytest.raises(WeightsmithError, match="does not serve byte ranges") as caught:
        opened()
    assert "without --stream the whole file is downloaded" in str(caught.value)
    # The body is not read: no more is sent than fits into the buffers of the system.
    assert hub.sent < 1 << 27


def test_a_branch_that_moves_changes_nothing(large: Hub, tmp_path: Path) -> None:
    """Shards and sidecars of one commit, whatever is pushed while we read."""
    large.add("me/sharded", write_directory(tmp_path / "m", random_tensors(1), shard_size=6000))
    repo = large.repos["me/sharded"]
    other = write_directory(tmp_path / "other", random_tensors(2), shard_size=6000)

    def push(line: str) -> None:
        if "GET /files" in line and len(repo.commits) == 1:
            repo.commit({path.name: path.read_bytes() for path in other.iterdir()})

    large.hook = push
    package.cat("hf://me/sharded", output=tmp_path / "out", stream=True)
    assert len(repo.commits) > 1
    assert read(tmp_path / "out") == random_tensors(1)


def test_another_file_under_the_same_address_is_noticed(large: Hub) -> None:
    source = opened()
    repo = large.repos["me/large"]
    files = repo.commits[repo.branches["main"]]
    assert isinstance(files["model.safetensors"], bytes)
    files["model.safetensors"] += b"more"
    with pytest.raises(WeightsmithError, match="of another file"):
        whole(source, "t0")
    source.close()


def test_a_header_longer_than_the_first_request(hub: Hub, tmp_path: Path) -> None:
    many = {f"a.tensor.with.a.rather.long.name.{n}": (1,) for n in range(2000)}
    model = write_directory(tmp_path / "model", random_tensors(4, many))
    hub.add("me/many", model)
    source = opened("hf://me/many")
    assert source.header == open_source(str(model)).header
    assert len(hub.asked("resolve.*model.safetensors|GET /files")) == 3
    source.close()


def test_a_plan_and_a_selection_leave_the_rest_alone(hub: Hub, tmp_path: Path) -> None:
    """The rest: weights that are not selected, and a tokenizer that nobody looks into."""
    hub.add("me/model", write_directory(tmp_path / "model", random_tensors(1)))
    package.cat("hf://me/model", output=tmp_path / "x.safetensors", dry_run=True)
    package.cat("hf://me/model", output=tmp_path / "x.safetensors", stream=True, select="*norm*")
    assert hub.asked("tokenizer") == []
    assert len(read(tmp_path / "x.safetensors")) == 2


def test_other_names_change_nothing_of_it(large: Hub, tmp_path: Path) -> None:
    package.cat(
        "hf://me/large",
        output=tmp_path / "x.safetensors",
        stream=True,
        select="u1",
        rename="s/^t/u/",
    )
    assert read(tmp_path / "x.safetensors") == {"u1": LARGE["t1"]}
    # The first request is for the header, and the samples are small.
    assert SIZE < large.sent < 1.1 * SIZE + (1 << 16)


@pytest.mark.parametrize(
    ("operator", "inputs", "options"),
    [
        ("graft", "aba", {}),
        ("interpolate", "ab", {"lam": "0.3"}),
        ("ptqtp", "a", {}),
        ("rotate", "a", {}),
        ("timber", "ab", {}),
    ],
)
@pytest.mark.parametrize("memory", ["1MiB", "512MiB"])
def test_every_kind_of_operator(
    hub: Hub, tmp_path: Path, operator: str, inputs: str, options: dict[str, str], memory: str
) -> None:
    """Elements, rows, whole tensors, and tensors that are read more than once."""
    from models import tiny_model  # takes seconds to import

    for seed, name in enumerate("ab"):
        hub.add(f"me/{name}", tiny_model(tmp_path / name, seed=seed))
    run = getattr(package, operator)
    run(*(tmp_path / name for name in inputs), output=tmp_path / "here", **options)
    far = [f"hf://me/{name}" for name in inputs]
    run(*far, output=tmp_path / "there", stream=True, memory=memory, **options)
    assert read(tmp_path / "there") == read(tmp_path / "here")


class TestReadAhead:
    """Pieces, without a network."""

    DATA = bytes(range(256)) * 40_000

    def make(self, spans, memory: int) -> tuple[ReadAhead, list[tuple[int, int]]]:
        asked: list[tuple[int, int]] = []

        def fetch(file: int, begin: int, end: int) -> memoryview:
            asked.append((begin, end))
            return memoryview(self.DATA[begin:end])

        return ReadAhead(spans, fetch, memory), asked

    def take(self, ahead: ReadAhead, begin: int, end: int) -> bytes | None:
        parts = ahead.parts(0, begin, end)
        return None if parts is None else b"".join(parts)

    def test_neighbours_and_overlaps_are_one_request(self) -> None:
        spans = [(0, 10, 80), (0, 60, 130), (0, 130, 200), (0, 1200, 1300)]
        ahead, asked = self.make(spans, 1 << 20)
        for _, begin, end in spans:
            assert self.take(ahead, begin, end) == self.DATA[begin:end]
        assert asked == [(10, 1300)]
        ahead.close()

    def test_far_ones_are_not(self) -> None:
        ahead, asked = self.make([(0, 0, 100), (0, 50_000, 50_100)], 1 << 20)
        assert self.take(ahead, 50_000, 50_100) == self.DATA[50_000:50_100]
        assert self.take(ahead, 0, 100) == self.DATA[:100]
        assert sorted(asked) == [(0, 100), (50_000, 50_100)]
        ahead.close()

    def test_what_was_not_announced_is_none(self) -> None:
        ahead, _ = self.make([(0, 100, 200)], 1 << 20)
        assert ahead.parts(0, 50, 150) is None
        assert ahead.parts(0, 150, 250) is None
        assert ahead.parts(1, 100, 200) is None
        ahead.close()

    def test_a_read_larger_than_the_memory(self) -> None:
        size = len(self.DATA)
        ahead, asked = self.make([(0, 0, size)], 1 << 20)
        assert self.take(ahead, 0, size) == self.DATA
        assert not ahead._futures
        assert sum(end - begin for begin, end in asked) == size
        ahead.close()

    def test_what_is_read_again_is_kept_for_it(self) -> None:
        ahead, asked = self.make([(0, 0, 100), (0, 9000, 9100)] * 3, 64 << 20)
        for _ in range(3):
            assert self.take(ahead, 0, 100) == self.DATA[:100]
            assert self.take(ahead, 9000, 9100) == self.DATA[9000:9100]
        assert len(asked) == 2
        ahead.close()

    def test_no_more_is_held_than_was_allowed(self) -> None:
        ahead, _ = self.make([(0, 0, len(self.DATA))], memory := 1 << 20)
        most = 0
        for begin in range(0, len(self.DATA), 1000):
            self.take(ahead, begin, min(begin + 1000, len(self.DATA)))
            most = max(most, ahead._held)
        assert memory // 2 < most <= memory + (1 << 18)
        ahead.close()

    def test_what_is_passed_over_makes_room_in_the_end(self) -> None:
        size = 1 << 18
        spans = [(0, start, start + size) for start in range(0, 30 * size, size)]
        ahead, _ = self.make(spans, 4 * size)
        for _, begin, end in spans[1::2]:
            assert self.take(ahead, begin, end) == self.DATA[begin:end]
        assert ahead._held <= 5 * size
        assert self.take(ahead, *spans[0][1:]) == self.DATA[:size]
        ahead.close()

    def test_out_of_order_reads_come_before_those_in_order(self) -> None:
        spans = [(0, start, start + 300_000) for start in range(0, 9_000_000, 300_000)]
        ahead, _ = self.make(spans, 1 << 20)
        for _, begin, end in reversed(spans):
            assert self.take(ahead, begin, end) == self.DATA[begin:end]
        ahead.close()


def test_one_layer_of_three_gigabytes(hub: Hub, tmp_path: Path) -> None:
    """No more than 1.05 times the bytes of the layer, and the headers."""
    hidden, wide = 2048, 5632
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32_000, hidden)}
    for layer in range(28):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"} | {
            f"{prefix}mlp.gate_proj.weight": (wide, hidden),
            f"{prefix}mlp.up_proj.weight": (wide, hidden),
            f"{prefix}mlp.down_proj.weight": (hidden, wide),
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
        }
    header = Header(tuple(TensorSpec(name, "BF16", shape) for name, shape in shapes.items()))
    assert header.nbytes > 2.9e9
    path = tmp_path / "model.safetensors"
    encoded = header.encode()
    with path.open("wb") as file:
        file.write(encoded)
        file.truncate(len(encoded) + header.nbytes)
    hub.repos["me/three"] = Repo()
    hub.repos["me/three"].commit({"config.json": b"{}", "model.safetensors": path})
    done = package.cat(
        "hf://me/three", output=tmp_path / "layer.safetensors", stream=True, select="*.layers.7.*"
    )
    layer = sum(spec.nbytes for spec in header.tensors if ".layers.7." in spec.name)
    assert done.nbytes == layer
    assert (tmp_path / "layer.safetensors").stat().st_size > layer
    assert layer < hub.sent < 1.05 * layer + len(encoded)
