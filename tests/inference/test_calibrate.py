"""calibrate: against hooks on the whole model, for each family; what it refuses; its file."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_model
from support import assert_fails, decode, read, weightsmith

from weightsmith.checkpoint.hessians import FILE, HESSIANS, HessianRecord
from weightsmith.checkpoint.source import open_source
from weightsmith.errors import InvalidFile, Mismatch, UsageError, WeightsmithError
from weightsmith.header import Header
from weightsmith.inference.calibrate import Request, calibrate
from weightsmith.inference.documents import sample
from weightsmith.inference.model import load

TEXT = "".join(f"{number} is not {number * number}; " for number in range(40))
REQUEST = Request(tokens=96, window=32)
FAMILIES = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 8},
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text").write_text(TEXT)
    return tmp_path / "text"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "small")


def run(model: Path, text: Path, target: Path, request: Request = REQUEST) -> HessianRecord:
    source = open_source(str(model))
    try:
        return calibrate(source, model, text, target, request).record
    finally:
        source.close()


def by_hand(model: Path, windows: list[list[int]]) -> dict[str, np.ndarray]:
    """Sums over all linear layers of the whole model, in float64."""
    stock = load(model).model
    totals: dict[str, torch.Tensor] = {}
    for name, module in stock.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":

            def add(module, given, name=name) -> None:
                rows = given[0].reshape(-1, given[0].shape[-1]).double()
                totals[name] = totals.get(name, 0) + rows.T @ rows

            module.register_forward_pre_hook(add)
    with torch.inference_mode():
        stock(torch.tensor(windows))
    count = sum(map(len, windows))
    return {f"{name}.weight": (total / count).numpy() for name, total in totals.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_figures_are_those_of_the_whole_model(family: str, text: Path, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", family, **FAMILIES[family])
    record = run(model, text, tmp_path / "stats")
    drawn = sample(load(model).tokenizer, text, tokens=96, window=32, seed=0)
    expected = by_hand(model, drawn.windows)
    assert record.weights.keys() == expected.keys()
    found = read(tmp_path / "stats")
    for weight, matrix in expected.items():
        _, shape, data = found[record.weights[weight]]
        got = np.frombuffer(data, np.float32).reshape(shape)
        # Float32 along the layers: some hundred roundings, relative to the largest element.
        assert np.abs(got - matrix).max() <= 1e-5 * np.abs(matrix).max(), weight
    attention = "model.layers.1.self_attn."
    shared = {record.weights[f"{attention}{part}_proj.weight"] for part in "qkv"}
    assert shared == {f"{attention}q_proj.weight"}
    assert len(found) == 4 * 2


def test_sharded_bfloat16_is_the_same_model(model: Path, text: Path, tmp_path: Path) -> None:
    for name, options in (("one", ()), ("many", ("--shard-size", "20kB"))):
        done = weightsmith("cat", model, "--dtype", "bf16", *options, "-o", tmp_path / name)
        assert done.returncode == 0
    records = [run(tmp_path / name, text, tmp_path / f"{name}.stats") for name in ("one", "many")]
    assert records[0].model == records[1].model
    one, many = ((tmp_path / f"{name}.stats" / FILE).read_bytes() for name in ("one", "many"))
    assert one == many


def test_the_command_and_its_record(model: Path, text: Path, tmp_path: Path) -> None:
    arguments = ["--tokens", "100", "--window", "32", "--seed", "3", "--json"]
    done = weightsmith("calibrate", model, text, *arguments, "-o", tmp_path / "stats")
    facts = json.loads(done.stdout)
    assert facts["windows"] == [3, len(TEXT) // 32]
    assert [path.name for path in (tmp_path / "stats").iterdir()] == [FILE]
    _, metadata = decode((tmp_path / "stats" / FILE).read_bytes())
    content = json.loads(metadata[HESSIANS])
    assert content == {"version": 1, **facts["record"]}
    assert content["text"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert (content["tokens"], content["window"], content["seed"]) == (96, 32, 3)
    inspected = weightsmith("inspect", model, "--json")
    assert content["model"] == json.loads(inspected.stdout)["fingerprint"]
    assert weightsmith("verify", tmp_path / "stats").returncode == 0
    again = weightsmith("calibrate", model, text, *arguments, "-o", tmp_path / "stats")
    assert_fails(again, 2, "exists", "--force")


def test_windows_depend_on_the_seed_alone(model: Path, text: Path) -> None:
    tokenizer = load(model).tokenizer
    draws = [sample(tokenizer, text, tokens=96, window=32, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    everything = sample(tokenizer, text, tokens=10**6, window=32, seed=0)
    assert len(everything.windows) == everything.available == len(TEXT) // 32


def test_documents(model: Path, tmp_path: Path) -> None:
    tokenizer = load(model).tokenizer
    tokenizer.eos_token = "~"
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}|{% endfor %}"
    path = tmp_path / "some.jsonl"
    path.write_text('{"text": "abc"}\n\n{"messages": [{"role": "user", "content": "d"}]}\n')
    (window,) = sample(tokenizer, path, tokens=7, window=7, seed=0).windows
    assert tokenizer.decode(window) == "abc~d|~"
    for line in ("{}", "[]", "1", '{"text": 1}', "x"):
        path.write_text(f'{{"text": "a"}}\n{line}\n')
        with pytest.raises(InvalidFile, match="line 2"):
            sample(tokenizer, path, tokens=7, window=7, seed=0)


def test_models_it_cannot_follow(text: Path, tmp_path: Path) -> None:
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    moe = tiny_model(tmp_path / "moe", "qwen3_moe", **experts)
    with pytest.raises(UsageError, match="only linear layers can be calibrated"):
        run(moe, text, tmp_path / "stats")
    gpt2 = tiny_model(tmp_path / "gpt2", "gpt2", n_embd=48, n_layer=2, n_head=4)
    with pytest.raises(UsageError, match="only linear layers can be calibrated"):
        run(gpt2, text, tmp_path / "stats")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpt2", "moe", "text"]


def test_bad_input(model: Path, text: Path, tmp_path: Path) -> None:
    target = ("-o", tmp_path / "stats")
    assert_fails(weightsmith("calibrate", "-", text, *target), 2, "stream")
    assert_fails(weightsmith("calibrate", tmp_path, text, *target), 2, "config.json")
    assert_fails(weightsmith("calibrate", model, text, "-o", "-"), 2, "directory")
    assert_fails(weightsmith("calibrate", model, tmp_path / "none", *target), 1, "No such file")
    with pytest.raises(WeightsmithError, match="too short"):
        run(model, text, tmp_path / "stats", Request(4096, 4096))
    with pytest.raises(UsageError, match="--tokens 31"):
        run(model, text, tmp_path / "stats", Request(31, 32))
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    done = weightsmith("cat", model, "--exclude", "*.1.*k_proj.weight", "-o", broken, "--force")
    assert done.returncode == 0
    with pytest.raises(Mismatch, match=r"layers\.1\.self_attn\.k_proj"):
        run(broken, text, tmp_path / "stats")
    assert not (tmp_path / "stats").exists()


def test_infinite_activations_leave_nothing(text: Path, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    loaded = load(model)
    loaded.model.model.layers[0].mlp.up_proj.weight.data.fill_(1e38)
    loaded.model.save_pretrained(model)
    with pytest.raises(WeightsmithError, match="not finite"):
        run(model, text, tmp_path / "stats")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "text"]


def test_records_that_are_not_ours(model: Path, text: Path, tmp_path: Path) -> None:
    run(model, text, tmp_path / "stats")
    source = open_source(str(tmp_path / "stats"))
    header = source.header
    source.close()
    good = json.loads(header.metadata[HESSIANS])
    assert HessianRecord.of(header, "x").encode() == header.metadata[HESSIANS]
    some = next(iter(good["weights"]))
    damaged = {
        "no statistics": ["", "[]", "{}", "1"],
        "unknown version": [json.dumps(good | {"version": 2})],
        "damaged": [
            json.dumps(good | change)
            for change in ({"tokens": "9"}, {"more": 1}, {"weights": [1]}, {"weights": {some: 1}})
        ],
        "no such matrix": [json.dumps(good | {"weights": {some: "model.nothing"}})],
    }
    for message, entries in damaged.items():
        for entry in entries:
            with pytest.raises(InvalidFile, match=message):
                HessianRecord.of(Header(header.tensors, {HESSIANS: entry}), "x")
    with pytest.raises(InvalidFile, match="no statistics"):
        HessianRecord.of(Header(header.tensors, {}), "x")
