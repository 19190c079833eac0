"""Packed checkpoints in transformers: the same logits, saved as they were, loud where they cannot run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch
from packed_models import write_pair
from safetensors.torch import load_file, save_file
from support import environment, weightsmith
from transformers import AutoModel, AutoModelForCausalLM

from weightsmith.errors import InvalidFile, WeightsmithError
from weightsmith.inference.linear import Int8Embedding, Int8Linear, TernaryLinear
from weightsmith.inference.model import load_model, set_act
from weightsmith.inference.transformers import PtqtpConfig
from weightsmith.tritplanes.remote import FILE, REFERENCE, code_for

IDS = torch.arange(5, 29)[None]
KINDS = {
    "two planes": {},
    "three planes": {"planes": 3},
    "one plane": {"planes": 1, "group": 32},
    "tied ratio": {"ratios": ((3, 2),)},
    "chosen ratios": {"ratios": ((3, 2), (5, 2), (3, 1))},
    "untied head": {"tied": False},
    "dense embedding": {"int8": False},
    "biases": {"attention_bias": True, "mlp_bias": True},
}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(IDS).logits.float()
    return found


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def in_a_new_process(code: str, where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        cwd=where,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_dense_model(kind: str, tmp_path: Path) -> None:
    packed, dense = write_pair(tmp_path, **KINDS[kind])
    expected = logits(load_model(dense, dtype="float32", device="cpu"))
    model = load_model(packed, dtype="float32", device="cpu")
    assert isinstance(model.model.layers[0].mlp.down_proj, TernaryLinear)
    # A few layers deep, what int8 loses in one product (1 %) has not grown to ten times as much.
    for act, bound in (("float32", 1e-5), ("int16", 1e-3), ("int8", 1e-1)):
        set_act(model, act)
        assert apart(logits(model), expected) <= bound, act


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_was_loaded(kind: str, tmp_path: Path) -> None:
    packed, _ = write_pair(tmp_path, **KINDS[kind])
    model = AutoModelForCausalLM.from_pretrained(packed)
    # No cast may hurt the scales.
    model.to(torch.bfloat16).to(torch.float32).save_pretrained(tmp_path / "saved")
    before = load_file(packed / "model.safetensors")
    after = load_file(tmp_path / "saved" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if tensor.dtype is torch.uint8:
            assert torch.equal(tensor, after[name]), name
    configs = [json.loads((d / "config.json").read_text()) for d in (packed, tmp_path / "saved")]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]
    assert "auto_map" not in configs[1]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert apart(logits(again), logits(model)) <= 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    packed, dense = write_pair(tmp_path, dtype=dtype)
    expected = logits(AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32))
    model = AutoModelForCausalLM.from_pretrained(packed)
    assert model.dtype is dtype
    assert apart(logits(model), expected) <= 0.05


def test_weights_are_held_once_and_small(tmp_path: Path) -> None:
    packed, dense = write_pair(tmp_path, hidden_size=256, intermediate_size=512, vocab_size=512)
    model = AutoModelForCausalLM.from_pretrained(packed)
    names = {name for name, _ in model.named_parameters()}
    assert not any("proj" in name or "embed" in name or "head" in name for name in names)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embedding, Int8Embedding)
    assert isinstance(head, Int8Linear)
    assert embedding.values.data_ptr() == head.values.data_ptr()
    held = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    bf16 = sum(t.numel() * 2 for t in load_file(dense / "model.safetensors").values())
    # 4 bits of codes, half a bit of scales at groups of 64, of 16; the embedding half of them.
    assert sum(held.values()) <= 0.36 * bf16
    model.tie_weights()


def test_greedy_generation_is_that_of_the_dense_model(tmp_path: Path) -> None:
    packed, dense = write_pair(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(packed)
    parent = AutoModelForCausalLM.from_pretrained(dense)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(IDS, **options), parent.generate(IDS, **options))


def test_a_model_without_its_head(tmp_path: Path) -> None:
    packed, dense = write_pair(tmp_path)
    with torch.inference_mode():
        found = AutoModel.from_pretrained(packed)(IDS).last_hidden_state
        expected = AutoModel.from_pretrained(dense)(IDS).last_hidden_state
    assert apart(found, expected) <= 1e-3


LOAD = "from transformers import AutoModelForCausalLM as A; m = A.from_pretrained({!r}{})"
SHOW = "; print(type(m.model.layers[0].mlp.up_proj).__name__)"


def test_import_weightsmith_is_enough_in_any_order(tmp_path: Path) -> None:
    packed, _ = write_pair(tmp_path)
    load = LOAD.format(str(packed), "") + SHOW
    for code in (f"import weightsmith; {load}", f"import transformers, weightsmith; {load}"):
        done = in_a_new_process(code, tmp_path)
        assert done.stdout.strip() == "TernaryLinear", done.stderr


def test_transformers_comes_though_the_plug_in_does_not(tmp_path: Path) -> None:
    code = "import weightsmith.autoload as a; a._OURS = 'no_such_module'; "
    code += "import transformers.quantizers.auto as t; print(t.AutoHfQuantizer.__name__)"
    done = in_a_new_process(code, tmp_path)
    assert done.stdout.strip() == "AutoHfQuantizer", done.stderr
    assert "packed checkpoints will not load: No module named 'no_such_module'" in done.stderr


def test_trust_remote_code_is_enough(tmp_path: Path) -> None:
    packed, _ = write_pair(tmp_path)
    code = LOAD.format(str(packed), ", trust_remote_code=True") + SHOW
    code += "; m.save_pretrained('saved')"
    done = in_a_new_process(code, tmp_path)
    assert done.stdout.strip() == "TernaryLinear", done.stderr
    assert not (tmp_path / "saved" / FILE).exists()
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_ptqtp_writes_the_code_and_unpack_takes_it_away(tmp_path: Path) -> None:
    _, dense = write_pair(tmp_path)
    for number, kept in enumerate(({}, {"AutoModel": "theirs.Model"})):
        config = json.loads((dense / "config.json").read_text())
        config |= {"auto_map": kept} if kept else {}
        (dense / "config.json").write_text(json.dumps(config))
        out, back = tmp_path / f"out{number}", tmp_path / f"back{number}"
        options = ("--group-size", 32, "--embeddings", "int8", "--head", "int8", "-o", out)
        assert weightsmith("ptqtp", dense, *options).returncode == 0
        found = json.loads((out / "config.json").read_text())["auto_map"]
        assert found == {**kept, "AutoConfig": REFERENCE}
        done = in_a_new_process(LOAD.format(str(out), ", trust_remote_code=True") + SHOW, tmp_path)
        assert kept or done.stdout.strip() == "TernaryLinear", done.stderr
        assert weightsmith("unpack", out, "-o", back).returncode == 0
        assert not (back / FILE).exists()
        assert json.loads((back / "config.json").read_text()).get("auto_map", {}) == kept


def test_a_model_with_code_of_its_own_keeps_it() -> None:
    own = {"model_type": "strange", "auto_map": {"AutoConfig": "theirs.Config"}}
    assert code_for(own) is None
    assert code_for({"model_type": 'x"; import os'}) is None


def test_without_either_loading_fails_on_the_shapes(tmp_path: Path) -> None:
    packed, _ = write_pair(tmp_path)
    done = in_a_new_process(LOAD.format(str(packed), ""), tmp_path)
    assert done.returncode != 0
    assert "Unknown quantization type, got ptqtp" in done.stderr
    assert "size mismatch" in done.stderr


def test_importing_weightsmith_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, weightsmith; print({'torch', 'numpy', 'transformers'} & sys.modules.keys())"
    assert in_a_new_process(code, tmp_path).stdout.strip() == "set()"


def change(packed: Path, target: Path, **changes: object) -> Path:
    """The same checkpoint with another quantization_config."""
    shutil.copytree(packed, target)
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] |= changes
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_what_cannot_run_is_refused(tmp_path: Path) -> None:
    packed, _ = write_pair(tmp_path)
    with pytest.raises(InvalidFile, match="version 2 is not 1"):
        AutoModelForCausalLM.from_pretrained(change(packed, tmp_path / "newer", version=2))
    record = json.loads((packed / "config.json").read_text())["quantization_config"]
    entry = record["tensors"]["model.layers.0.mlp.up_proj.weight"]
    for name, tensors in {
        "experts": {"model.layers.0.mlp.experts.up_proj": {**entry, "shape": [4, 160, 96]}},
        "norm": {"model.norm.weight": entry},
        "shape": {"model.layers.0.mlp.up_proj.weight": {**entry, "shape": [160, 95]}},
    }.items():
        changed = change(packed, tmp_path / name, tensors=tensors)
        with pytest.raises(WeightsmithError, match="no layer runs these packed rows"):
            AutoModelForCausalLM.from_pretrained(changed)
    wanted = PtqtpConfig(**record)
    with pytest.raises(WeightsmithError, match="does not quantise"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "dense", quantization_config=wanted)


def test_damaged_rows_are_refused(tmp_path: Path) -> None:
    packed, _ = write_pair(tmp_path)
    tensors = load_file(packed / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][7, 3] = 250
    save_file(tensors, packed / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="no five trits"):
        AutoModelForCausalLM.from_pretrained(packed)
