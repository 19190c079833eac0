"""extract-lora: the adapter's files, what is left out, and that PEFT takes it."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import (
    Trio,
    assert_fails,
    encode,
    from_bf16,
    random_tensors,
    read,
    weightsmith,
    write_directory,
)

PROJECTIONS = [f"model.layers.{i}.mlp.{p}_proj" for i in (0, 1) for p in ("down", "up")]


def extract(*arguments: object) -> dict:
    done = weightsmith("extract-lora", *arguments, "--json")
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def delta(trio: Trio, name: str) -> np.ndarray:
    _, shape, tuned = trio.tensors["tuned"][name]
    base = trio.tensors["base"][name][2]
    return (from_bf16(tuned).astype(np.float64) - from_bf16(base)).reshape(shape)


def factors(target: Path, module: str) -> tuple[np.ndarray, np.ndarray]:
    tensors = read(target / "adapter_model.safetensors")
    found = []
    for side in "BA":
        dtype, shape, data = tensors[f"base_model.model.{module}.lora_{side}.weight"]
        values = from_bf16(data) if dtype == "BF16" else np.frombuffer(data, np.float32)
        found.append(values.reshape(shape).astype(np.float64))
    return found[0], found[1]


def test_the_adapter_holds_the_truncated_delta(trio: Trio, here: Path) -> None:
    report = extract(trio.base, trio.tuned, "--rank", 5, "-o", "adapter")
    config = json.loads(Path("adapter/adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 5, 5)
    assert config["target_modules"] == ["down_proj", "up_proj"]
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert [entry["name"] for entry in report["tensors"]] == [f"{m}.weight" for m in PROJECTIONS]
    assert len(read(Path("adapter/adapter_model.safetensors"))) == 8
    for entry, module in zip(report["tensors"], PROJECTIONS, strict=True):
        b, a = factors(Path("adapter"), module)
        whole = delta(trio, f"{module}.weight")
        expected = truncated(whole, 5)
        assert np.abs(b @ a - expected).max() < 1e-6 * np.linalg.norm(expected)
        share = (expected**2).sum() / (whole**2).sum()
        assert entry["energy"] == pytest.approx(share, rel=1e-6)
        assert entry["norm_delta"] == pytest.approx(np.linalg.norm(whole), rel=1e-6)
    assert {path.name for path in Path("adapter").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert str(trio.base) not in Path("adapter/adapter_model.safetensors").read_bytes().decode(
        "latin1"
    )


def test_what_is_not_captured_is_said(trio: Trio, here: Path) -> None:
    report = extract(trio.base, trio.tuned, "--rank", 99, "-o", "adapter")
    missed = {entry["name"]: entry["reason"] for entry in report["not_captured"]}
    assert missed == {
        "model.embed_tokens.weight": "embedding",
        "model.layers.0.input_layernorm.weight": "1 dimensions",
        "model.norm.weight": "1 dimensions",
        "lm_head.weight": "output head",
    }
    squares = {name: (delta(trio, name) ** 2).sum() for name in trio.tensors["base"]}
    held = sum(square for name, square in squares.items() if name not in missed)
    assert report["energy"] == pytest.approx(held / sum(squares.values()), rel=1e-6)
    text = weightsmith("extract-lora", trio.base, trio.tuned, "--rank", 2, "-o", "other").stdout
    assert b"not captured: 4 tensors" in text
    assert b"lm_head.weight: output head, |delta|" in text


def test_ranks_that_differ(trio: Trio, here: Path) -> None:
    tensors = dict(trio.tensors["base"])
    name = "model.layers.1.mlp.up_proj.weight"
    for each in tensors:
        if each.startswith("model.layers") and each != name:
            tensors[each] = trio.tensors["tuned"][each]
    _, shape, data = tensors[name]
    change = np.outer(np.ones(shape[0]), np.ones(shape[1])) * 0.5
    wide = from_bf16(data).reshape(shape) + change
    tensors[name] = "F32", shape, wide.astype(np.float32).tobytes()
    write_directory(Path("tuned"), tensors)
    report = extract(trio.base, "tuned", "--rank", "energy=0.99", "-o", "adapter")
    ranks = {entry["name"].removesuffix(".weight"): entry["rank"] for entry in report["tensors"]}
    assert ranks[name.removesuffix(".weight")] == 1
    config = json.loads(Path("adapter/adapter_config.json").read_text())
    assert {m: config["rank_pattern"].get(m, config["r"]) for m in ranks} == ranks
    assert config["rank_pattern"] == config["alpha_pattern"] != {}
    assert "lm_head.weight" in report["unchanged"]
    for entry in report["tensors"]:
        assert entry["energy"] >= 0.99


def test_selection_and_names(trio: Trio, here: Path) -> None:
    only = ["--select", "*.layers.0.mlp.*"]
    report = extract(trio.base, trio.tuned, "--rank", "erank", *only, "-o", "one")
    config = json.loads(Path("one/adapter_config.json").read_text())
    # The short names would name those of layer 1 too.
    assert config["target_modules"] == PROJECTIONS[:2]
    reasons = {entry["reason"] for entry in report["not_captured"]}
    assert "not selected" in reasons
    heads = extract(
        trio.base,
        trio.tuned,
        "--rank",
        2,
        "--select",
        "lm_head*",
        "--base-name",
        "a/b",
        "-o",
        "two",
    )
    assert [entry["name"] for entry in heads["tensors"]] == ["lm_head.weight"]
    config = json.loads(Path("two/adapter_config.json").read_text())
    assert (config["target_modules"], config["base_model_name_or_path"]) == (["lm_head"], "a/b")


def test_dtype(trio: Trio, here: Path) -> None:
    extract(trio.base, trio.tuned, "--rank", 3, "--dtype", "bf16", "-o", "narrow")
    tensors = read(Path("narrow/adapter_model.safetensors"))
    assert {dtype for dtype, _, _ in tensors.values()} == {"BF16"}
    b, a = factors(Path("narrow"), PROJECTIONS[0])
    expected = truncated(delta(trio, f"{PROJECTIONS[0]}.weight"), 3)
    assert np.abs(b @ a - expected).max() < 2e-2 * np.abs(expected).max()


def test_same_inputs_same_bytes(trio: Trio, here: Path) -> None:
    for target in ("one", "two"):
        extract(trio.base, trio.tuned, "--rank", 3, "-o", target)
    for path in Path("one").iterdir():
        assert path.read_bytes() == (Path("two") / path.name).read_bytes()


def test_errors_leave_nothing(trio: Trio, here: Path) -> None:
    command = ["extract-lora", trio.base, trio.tuned]
    assert_fails(weightsmith(*command, "--rank", "x", "-o", "out"), 2, "--rank x", "erank")
    assert_fails(weightsmith(*command, "--rank", "4", "-o", "-"), 2, "an adapter is a directory")
    assert_fails(weightsmith(*command, "--rank", "4"), 2, "Missing option")
    assert_fails(weightsmith(*command, "--rank", "4", "--dtype", "int8", "-o", "out"), 2, "--dtype")
    same = weightsmith("extract-lora", trio.base, trio.base, "--rank", "4", "-o", "out")
    assert_fails(same, 4, "nothing to extract")
    bad = encode(random_tensors(0) | {PROJECTIONS[0] + ".weight": nan_matrix()})
    Path("bad.safetensors").write_bytes(bad)
    done = weightsmith("extract-lora", trio.base, "bad.safetensors", "--rank", "4", "-o", "out")
    assert_fails(done, 1, "NaN or infinite", PROJECTIONS[0], "--exclude")
    assert [path.name for path in here.iterdir()] == ["bad.safetensors"]


def nan_matrix() -> tuple[str, tuple[int, ...], bytes]:
    return "F32", (24, 56), np.full((24, 56), np.nan, np.float32).tobytes()


def test_an_existing_target_is_kept_without_force(trio: Trio, here: Path) -> None:
    command = ["extract-lora", trio.base, trio.tuned, "-o", "out", "--rank"]
    assert weightsmith(*command, "2").returncode == 0
    before = Path("out/adapter_model.safetensors").read_bytes()
    assert_fails(weightsmith(*command, "3"), 2, "the target exists", "--force")
    assert Path("out/adapter_model.safetensors").read_bytes() == before
    assert weightsmith(*command, "3", "--force").returncode == 0
    assert [path.name for path in here.iterdir()] == ["out"]


def test_a_family_that_stores_its_layers_transposed_is_refused(trio: Trio, here: Path) -> None:
    for name in ("a", "b"):
        write_directory(Path(name), random_tensors(1))
        config = Path(name) / "config.json"
        config.write_text(json.dumps({"model_type": "gpt2"}))
    done = weightsmith("extract-lora", "a", "b", "--rank", "4", "-o", "out")
    assert_fails(done, 2, "gpt2 stores its linear layers [in, out]")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what other libraries warn of is theirs
@pytest.mark.parametrize("rank", ["4", "erank", "energy=0.9"])
def test_peft_loads_and_merges_it(rank: str, here: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    import torch

    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained("base")
    with torch.no_grad():
        for parameter in model.parameters():
            thin = torch.randn(len(parameter), 3) @ torch.randn(3, parameter[0].numel())
            change = thin.reshape(parameter.shape) + torch.randn_like(parameter)
            parameter.add_(change, alpha=0.01)
    tuned = model.state_dict()
    model.save_pretrained("tuned")
    report = extract("base", "tuned", "--rank", rank, "-o", "adapter")
    ranks = {entry["name"]: entry["rank"] for entry in report["tensors"]}
    assert len(ranks) == 14

    fresh = transformers.LlamaForCausalLM.from_pretrained("base")
    adapted = peft.PeftModel.from_pretrained(fresh, "adapter")
    held = peft.get_peft_model_state_dict(adapted)
    written = read(Path("adapter/adapter_model.safetensors"))
    assert {name: tuple(tensor.shape) for name, tensor in held.items()} == {
        name: shape for name, (_, shape, _) in written.items()
    }
    merged = adapted.merge_and_unload().state_dict()
    for name, tensor in merged.items():
        expected = base[name].double().numpy()
        if name in ranks:
            change = (tuned[name] - base[name]).double().numpy()
            expected = expected + truncated(change, ranks[name])
        assert np.abs(tensor.double().numpy() - expected).max() < 1e-6, name
