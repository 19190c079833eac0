"""The tiny models are trained anew to the same bits; results are kept and not measured twice."""

from pathlib import Path

import pytest
import torch
from experiment import Results, made
from language import Example, tokenizer
from learning import tensors
from lists import held_out
from scoring import perplexity
from support import read
from tiny import RECIPES, load, make
from transformers import AutoTokenizer

import weightsmith


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All models, hardly trained."""
    root = tmp_path_factory.mktemp("trio")
    for name in RECIPES:
        directory = make(root, name, seed=3, shorten=1000)
    return directory.parent


def test_training_is_reproducible(trio: Path, tmp_path: Path) -> None:
    again = make(tmp_path, "instruct", seed=3, shorten=1000)
    assert read(again) == read(trio / "instruct")
    assert read(tmp_path / "pretrained") == read(trio.parent / "pretrained")
    other = make(tmp_path, "base", seed=4, shorten=1000)
    assert read(other) != read(trio / "base")


def test_what_is_there_is_not_trained_again(trio: Path) -> None:
    before = (trio / "base" / "model.safetensors").stat().st_mtime_ns
    assert make(trio.parent, "base", seed=3) == trio / "base"
    assert (trio / "base" / "model.safetensors").stat().st_mtime_ns == before


def test_every_model_is_stored_in_bfloat16_with_its_tokenizer(trio: Path) -> None:
    for model in (trio.parent / "pretrained", *trio.iterdir()):
        assert {dtype for dtype, _, _ in read(model).values()} == {"BF16"}
        loaded = AutoTokenizer.from_pretrained(model)
        text = "<begin><user>3857rs<assistant>"
        assert loaded(text)["input_ids"] == tokenizer()(text)["input_ids"]
        assert loaded.chat_template == tokenizer().chat_template


def test_the_models_go_through_weightsmith(trio: Path) -> None:
    inputs = (trio / "base", trio / "instruct", trio / "tuned")
    with made(weightsmith.graft, *inputs, scale=0.5) as grafted:
        assert perplexity(load(grafted), held_out(1, 4), thinking=False) > 1
    assert not grafted.exists()


def test_the_loss_is_on_the_reply_alone() -> None:
    ids, targets = tensors(tokenizer(), [Example("<begin>3", "857<end>"), Example("<begin>", "1")])
    assert ids.shape == targets.shape == (2, 6)
    assert torch.equal(targets[0, 2:], ids[0, 2:])
    assert targets[0, :2].tolist() == [-100, -100]
    assert targets[1].tolist() == [-100, ids[1, 1], -100, -100, -100, -100]


def test_a_point_is_measured_once(tmp_path: Path) -> None:
    asked = []

    def measure() -> dict[str, float]:
        asked.append(1)
        return {"mean": 0.5}

    for _ in range(2):
        results = Results(tmp_path / "a.jsonl")
        for seed in (0, 1):
            line = results.find({"seed": seed, "lambda": 0.5}, measure)
            assert line == {"seed": seed, "lambda": 0.5, "mean": 0.5}
    assert len(asked) == 2
    assert len(results.where(seed=1)) == 1
