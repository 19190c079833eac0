"""graft and delta of PEFT LoRA adapters, against the merge of the real library.

Ours and the library's differ where float32 sums differ by their order; the bound on that moves a
result over a rounding boundary at most. So each result must be a neighbour of the exact value's
rounding, and the library's too: `assert_rounds` checks both, and that nearly all are equal.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import assert_fails, decode, encode, read, weightsmith

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

LLAMA = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
    "attention_bias": True,
}
GPT2 = {"vocab_size": 67, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 2}


def llama(seed: int, dtype: torch.dtype, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA | changes)).to(dtype)


def gpt2(seed: int, dtype: torch.dtype, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.GPT2Config(**GPT2 | {"tie_word_embeddings": False} | changes)
    return transformers.GPT2LMHeadModel(config).to(dtype)


def randomise(model: Any, seed: int) -> None:
    """An adapter that was trained: nothing in it is zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name or value.requires_grad:
            noise = torch.randn(value.shape, generator=generator) * 0.05
            value.data += noise.to(value.dtype)


def train(
    model: Any, target: Path, *, autocast: bool = True, **config: Any
) -> dict[str, np.ndarray]:
    """Save an adapter of a model; returns the tensors of the library's own merge in float64.

    `autocast` is the library's default: factors are float32 whatever the model is.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 6} | config
        adapted = peft.get_peft_model(
            model, peft.LoraConfig(**given), autocast_adapter_dtype=autocast
        )
        randomise(adapted, 5)
        adapted.save_pretrained(target)
        merged = adapted.merge_and_unload()
    return {k: v.double().numpy() for k, v in merged.state_dict().items()}


def saved(model: Any, target: Path) -> Path:
    model.save_pretrained(target)
    return target


def floats(path: Path) -> dict[str, np.ndarray]:
    """All tensors in float64."""
    found = {}
    for name, (dtype, shape, data) in read(path).items():
        torch_dtype = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[dtype]
        values = torch.frombuffer(bytearray(data), dtype=torch_dtype).double().numpy()
        found[name] = values.reshape(shape)
    return found


def spacing(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """The distance of neighbours of a dtype at these values."""
    info = torch.finfo(dtype)
    exponent = np.floor(np.log2(np.maximum(np.abs(values), info.smallest_normal)))
    return np.exp2(exponent) * info.eps


def assert_merged(
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    dtype: torch.dtype,
    *,
    least_equal: float = 0.995,
    slack: float = 0.0,
    before: Mapping[str, np.ndarray] | None = None,
) -> None:
    """The same tensors; every element at most one rounding apart, nearly all of them equal.

    `slack` is what float32 sums of another order may differ by, for a dtype fine enough to see it.
    `before` is the model of which the library rounds the change too, before it adds it.
    """
    assert ours.keys() == theirs.keys()
    equal = total = 0
    for name, expected in theirs.items():
        apart = np.abs(ours[name] - expected)
        # Neighbours across a power of two are the larger of the two spacings apart.
        step = np.maximum(spacing(ours[name], dtype), spacing(expected, dtype))
        if before is not None:
            step = step + 0.5 * spacing(expected - before[name], dtype)
        assert (apart <= step + slack).all(), (name, (apart / step).max())
        equal += int((apart == 0).sum())
        total += apart.size
    assert equal >= least_equal * total


def graft(*arguments: object) -> dict[str, np.ndarray]:
    done = weightsmith("graft", *arguments, "-o", "out.safetensors", "--force")
    assert done.returncode == 0, done.stderr.decode()
    return floats(Path("out.safetensors"))


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "down_proj"]},
    "rank-stabilised": {"target_modules": ["v_proj"], "use_rslora": True, "r": 7},
    "patterns": {
        "target_modules": ATTENTION,
        "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.k_proj": 3},
        "alpha_pattern": {"model.layers.0.self_attn.v_proj": 17, "o_proj": 1},
    },
    "patterns, rank-stabilised": {
        "target_modules": ATTENTION,
        "use_rslora": True,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"q_proj": 5},
    },
    "layers": {"target_modules": ["up_proj", "gate_proj"], "layers_to_transform": [0, 2]},
    "all linear": {"target_modules": "all-linear"},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "modules to save": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "trained biases": {"target_modules": ["q_proj"], "bias": "all"},
    "biases of its own": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "bias of B": {"target_modules": ["q_proj", "k_proj"], "lora_bias": True},
    "gaussian": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_merge_of_peft(kind: str, here: Path) -> None:
    """Grafted onto its own base, an adapter is merged."""
    base = saved(llama(0, torch.bfloat16), here / "base")
    merged = train(llama(0, torch.bfloat16), here / "lora", **KINDS[kind])
    ours, before = graft(base, base, "lora"), floats(base)
    if kind == "embedding":
        assert_merged(ours, merged, torch.bfloat16, before=before, least_equal=0.9)
    else:
        assert_merged(ours, merged, torch.bfloat16)
    assert any((ours[name] != value).any() for name, value in before.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_other_dtypes(dtype: torch.dtype, here: Path) -> None:
    base = saved(llama(0, dtype), here / "base")
    merged = train(llama(0, dtype), here / "lora", target_modules="all-linear", r=8)
    # Sums of 8 products below 0.3 each, in two orders: 2 * 9 * 2^-24 * 8 * 0.09, times 6 / 8.
    slack = 6e-7 if dtype is torch.float32 else 0.0
    least = 0.2 if dtype is torch.float32 else 0.99
    assert_merged(graft(base, base, "lora"), merged, dtype, slack=slack, least_equal=least)


def test_factors_in_sixteen_bits(here: Path) -> None:
    """The library rounds B A to the adapter's dtype before it adds; we do not."""
    base = saved(llama(0, torch.bfloat16), here / "base")
    merged = train(
        llama(0, torch.bfloat16), here / "lora", autocast=False, target_modules=["q_proj"]
    )
    factors = {name: dtype for name, (dtype, _, _) in read(here / "lora").items()}
    assert set(factors.values()) == {"BF16"}
    ours = graft(base, base, "lora")
    tensors = floats(here / "lora")
    name = "model.layers.1.self_attn.q_proj"
    b, a = (tensors[f"base_model.model.{name}.lora_{side}.weight"] for side in "BA")
    before = floats(base)[f"{name}.weight"]
    wanted = before + 1.5 * (b @ a)
    assert (
        np.abs(ours[f"{name}.weight"] - wanted) <= 0.501 * spacing(wanted, torch.bfloat16)
    ).all()
    assert_merged(ours, merged, torch.bfloat16, before=floats(base), least_equal=0.9)


@pytest.mark.parametrize(
    "targets", [["c_attn", "c_fc"], ["c_proj"], ["c_attn", "c_proj", "lm_head"], ["wte"]], ids=str
)
def test_weights_that_are_stored_transposed(targets: list[str], here: Path) -> None:
    """GPT-2's Conv1D, square ones too, whatever fan_in_fan_out says in the end."""
    base = saved(gpt2(0, torch.bfloat16), here / "base")
    merged = train(
        gpt2(0, torch.bfloat16), here / "lora", target_modules=targets, fan_in_fan_out=True
    )
    before = floats(base)
    merged = {name: value for name, value in merged.items() if name in before}
    ours = graft(base, base, "lora")
    if targets == ["wte"]:
        assert_merged(ours, merged, torch.bfloat16, before=before, least_equal=0.8)
    else:
        assert_merged(ours, merged, torch.bfloat16)


def test_onto_another_model(here: Path) -> None:
    """INSTRUCT gains exactly what the delta of the adapter says, scaled."""
    base = saved(llama(0, torch.bfloat16), here / "base")
    instruct = saved(llama(1, torch.bfloat16), here / "instruct")
    train(llama(0, torch.bfloat16), here / "lora", **KINDS["modules to save"])
    done = weightsmith("delta", base, "lora", "-o", "delta.safetensors")
    assert done.returncode == 0, done.stderr.decode()
    change, before = floats(Path("delta.safetensors")), floats(instruct)
    assert len(change) == 3 + 1 + 7  # q_proj, head and, as their names end in "norm", all norms
    ours = graft(base, instruct, "lora", "--scale", "-0.5")
    for name, value in before.items():
        expected = value - 0.5 * change.get(name, 0.0)
        assert (np.abs(ours[name] - expected) <= 0.501 * spacing(expected, torch.bfloat16)).all()
    again = graft(base, instruct, "delta.safetensors", "--missing", "keep", "--scale", "-0.5")
    for name in before:
        np.testing.assert_array_equal(ours[name], again[name])


def test_a_delta_of_an_adapter_is_a_delta(here: Path) -> None:
    base = saved(llama(0, torch.bfloat16), here / "base")
    train(llama(0, torch.bfloat16), here / "lora", **KINDS["embedding"])
    for lossless in ([], ["--lossless"]):
        done = weightsmith("delta", base, "lora", "-o", "delta", *lossless)
        if lossless:
            assert_fails(done, 2, "--lossless", "adapter")
            continue
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(Path("delta/config.json").read_text())["dtype"] == "float32"
        assert not Path("delta/adapter_config.json").exists()
        assert {dtype for dtype, _, _ in read(Path("delta")).values()} == {"F32"}
    done = weightsmith("delta", base, "delta", "-o", "again")
    assert_fails(done, 4, "TUNED is a delta", "delta of a delta")
    instruct = saved(llama(1, torch.bfloat16), here / "instruct")
    direct = graft(base, instruct, "lora", "--scale", "0.7")
    through = graft(base, instruct, "delta", "--missing", "keep", "--scale", "0.7")
    for name, value in direct.items():
        np.testing.assert_array_equal(value, through[name])


def test_the_result_does_not_depend_on_how_it_is_cut(here: Path) -> None:
    base = saved(llama(0, torch.bfloat16, hidden_size=64, vocab_size=3001), here / "base")
    train(
        llama(0, torch.bfloat16, hidden_size=64, vocab_size=3001),
        here / "lora",
        target_modules=["embed_tokens", "down_proj", "lm_head"],
    )
    outputs = []
    for options in (["--jobs", 1], ["--jobs", 2, "--memory", "1MB"], ["--memory", "200KB"]):
        done = weightsmith(
            "graft", base, base, "lora", "-o", "out.safetensors", "--force", *options
        )
        assert done.returncode == 0, done.stderr.decode()
        outputs.append(Path("out.safetensors").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories base/, instruct/ and a plain adapter lora/, read only."""
    root = tmp_path_factory.mktemp("lora")
    saved(llama(0, torch.bfloat16), root / "base")
    saved(llama(1, torch.bfloat16), root / "instruct")
    train(llama(0, torch.bfloat16), root / "lora", **KINDS["plain"])
    return root


def changed(lora: Path, target: Path, **config: Any) -> Path:
    """The plain adapter with other words in its configuration."""
    target.mkdir()
    weights = (lora / "lora/adapter_model.safetensors").read_bytes()
    (target / "adapter_model.safetensors").write_bytes(weights)
    content = json.loads((lora / "lora/adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(content | config))
    return target


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "another method": ({"peft_type": "LOHA"}, 4, "LOHA"),
    "dora": ({"use_dora": True}, 4, "use_dora"),
    "qalora": ({"use_qalora": True}, 4, "use_qalora"),
    "activated": ({"alora_invocation_tokens": [1, 2]}, 4, "alora_invocation_tokens"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, 4, "pissa_niter_4"),
    "experts": ({"target_parameters": ["mlp.experts.gate_up_proj"]}, 4, "target_parameters"),
    "tokens": ({"trainable_token_indices": [3]}, 4, "trainable_token_indices"),
    "replication": ({"layer_replication": [[0, 2], [1, 3]]}, 4, "layer_replication"),
    "another rank": ({"r": 5}, 4, "lora_A"),
    "no rank": ({"r": "4"}, 3, "an integer"),
    "no alpha": ({"lora_alpha": None}, 3, "lora_alpha"),
    "no pattern": ({"rank_pattern": {"(": 3}}, 3, "rank_pattern"),
    "no patterns": ({"alpha_pattern": [1]}, 3, "alpha_pattern"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind: str, lora: Path, here: Path) -> None:
    config, code, words = REFUSED[kind]
    adapter = changed(lora, here / "odd", **config)
    done = weightsmith("graft", lora / "base", lora / "instruct", adapter, "-o", "out")
    assert_fails(done, code, words, "odd")


def rename(lora: Path, target: Path, change: Callable[[str], str]) -> Path:
    adapter = changed(lora, target)
    path = adapter / "adapter_model.safetensors"
    tensors, metadata = decode(path.read_bytes())
    path.write_bytes(encode({change(name): t for name, t in tensors.items()}, metadata))
    return adapter


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("layers.1.", "layers.9.", "model.layers.9.mlp.down_proj.weight, which is not in"),
        ("layers.1.mlp.down_proj.lora_A.", "layers.1.mlp.down_proj.lora_C.", "plain LoRA"),
        ("layers.1.mlp.down_proj.lora_A.", "layers.2.mlp.x.lora_A.", "without the other"),
        ("layers.1.mlp.down_proj.", "layers.1.mlp.up_proj.", "do not make the tensor"),
    ],
)
def test_tensors_that_fit_nothing_are_named(
    old: str, new: str, words: str, lora: Path, here: Path
) -> None:
    adapter = rename(lora, here / "odd", lambda name: name.replace(old, new))
    done = weightsmith("graft", lora / "base", lora / "instruct", adapter, "-o", "out")
    assert_fails(done, 4, words, "base_model.model.model.layers")
    assert not Path("out").exists()


def test_factors_without_a_configuration(lora: Path, here: Path) -> None:
    bare = Path("bare.safetensors")
    bare.write_bytes((lora / "lora/adapter_model.safetensors").read_bytes())
    done = weightsmith("graft", lora / "base", lora / "instruct", bare, "-o", "out")
    assert_fails(done, 4, "without their configuration", "adapter_config.json")


def test_an_adapter_is_no_model(lora: Path, here: Path) -> None:
    done = weightsmith("graft", lora / "base", lora / "lora", lora / "lora", "-o", "out")
    assert_fails(done, 4, "INSTRUCT is an adapter")
    done = weightsmith("delta", lora / "lora", lora / "base", "-o", "out")
    assert_fails(done, 4, "BASE is an adapter")


def test_the_base_is_compared_by_name_and_by_shape(lora: Path, here: Path) -> None:
    for name, said in (("org/base", ""), ("org/other", "was trained on org/other"), (None, "name")):
        adapter = changed(lora, here / f"a{said[:3]}", base_model_name_or_path=name)
        done = weightsmith(
            "graft", lora / "base", lora / "instruct", adapter, "-o", "out.safetensors", "--force"
        )
        assert done.returncode == 0
        text = done.stderr.decode()
        assert said in text
        assert ("taken on trust" in text) is bool(said)
    odd = saved(llama(0, torch.bfloat16, intermediate_size=40), here / "odd")
    done = weightsmith("graft", odd, lora / "instruct", lora / "lora", "-o", "out.safetensors")
    assert_fails(done, 4, "odd", "[32, 56]", "[32, 40]")


def test_tensors_that_no_adapter_changes_are_copied(lora: Path, here: Path) -> None:
    """Of whatever dtype: nothing is asked about them."""
    tensors, metadata = decode((lora / "instruct/model.safetensors").read_bytes())
    tensors["counts"] = ("I64", (3,), bytes(range(24)))
    Path("instruct.safetensors").write_bytes(encode(tensors, metadata))
    done = weightsmith(
        "graft", lora / "base", "instruct.safetensors", lora / "lora", "-o", "out.safetensors"
    )
    assert done.returncode == 0, done.stderr.decode()
    found = read(Path("out.safetensors"))
    touched = {n for n in tensors if n.endswith(("q_proj.weight", "down_proj.weight"))}
    assert {n for n in tensors if found[n] != tensors[n]} == touched


def test_selection_and_scales_by_pattern(lora: Path, here: Path) -> None:
    arguments = (lora / "base", lora / "instruct", lora / "lora")
    before, plain = floats(lora / "instruct"), graft(*arguments)
    part = graft(*arguments, "--scale", "1", "--scale", "*.layers.0.*=0", "--exclude", "*q_proj*")
    for name, value in part.items():
        kept = "layers.0." in name or "q_proj" in name
        np.testing.assert_array_equal(value, before[name] if kept else plain[name])
    done = weightsmith("graft", *arguments, "--scale", "1", "--scale", "*norm*=2", "-o", "x")
    assert_fails(done, 2, "*norm*", "matches no tensor")


def test_the_record_holds_what_decides(lora: Path, here: Path) -> None:
    """Equal factors under another alpha are another adapter."""
    records = []
    for alpha in (6, 12):
        adapter = changed(lora, here / f"a{alpha}", lora_alpha=alpha)
        graft(lora / "base", lora / "instruct", adapter)
        _, metadata = decode(Path("out.safetensors").read_bytes())
        records.append(json.loads(metadata["weightsmith.provenance"])["inputs"]["tuned"])
    assert records[0]["fingerprint"] == records[1]["fingerprint"]
    assert [record["adapter"]["lora_alpha"] for record in records] == [6, 12]


def test_square_weights_go_by_the_family(lora: Path, here: Path) -> None:
    """A Llama stores [out, in]; what fan_in_fan_out says counts where the family is not known."""
    plain = graft(lora / "base", lora / "instruct", lora / "lora")
    adapter = changed(lora, here / "fan", fan_in_fan_out=True)
    for name, value in graft(lora / "base", lora / "instruct", adapter).items():
        np.testing.assert_array_equal(value, plain[name])
    for role in ("base", "instruct"):
        content = (lora / role / "model.safetensors").read_bytes()
        Path(f"{role}.safetensors").write_bytes(content)
    unknown = graft("base.safetensors", "instruct.safetensors", adapter)
    differ = {name for name, value in unknown.items() if (value != plain[name]).any()}
    assert differ == {name for name in unknown if name.endswith("q_proj.weight")}
