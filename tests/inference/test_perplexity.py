"""perplexity: against a sum over single predictions, in any windows, beside a parent."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from models import logits, tiny_model
from support import assert_fails, weightsmith

from weightsmith.errors import Mismatch, UsageError, WeightsmithError
from weightsmith.inference.model import load
from weightsmith.inference.perplexity import perplexity
from weightsmith.inference.tokens import windows

# Bytes are tokens, so the two of each accented letter share one character.
TEXT = "It is a truth universally acknowledged; déjà vu. " * 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1)


def log_probabilities(directory: Path, window: int, stride: int) -> np.ndarray:
    """Rows of ln p for all scored tokens, each from a run on just the tokens before it."""
    ids = load(directory).tokenizer(TEXT)["input_ids"]
    rows, scored, start = [], 1, 0
    while scored < len(ids):
        stop = min(start + window, len(ids))
        for at in range(max(scored, start + 1), stop):
            row = logits_of(directory, ids[start:at])[-1].double()
            rows.append((row - row.logsumexp(0)).numpy())
        scored, start = max(scored, stop), start + stride
    return np.array(rows)


_MODELS: dict[Path, torch.nn.Module] = {}


def logits_of(directory: Path, ids: list[int]) -> torch.Tensor:
    model = _MODELS.setdefault(directory, load(directory).model)
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize(("window", "stride"), [(1024, 1024), (32, 32), (32, 10)])
def test_figures_are_those_of_single_predictions(
    model: Path, other: Path, window: int, stride: int
) -> None:
    found = perplexity(model, TEXT, against=other, window=window, stride=stride)
    ids = load(model).tokenizer(TEXT)["input_ids"]
    p, q = (log_probabilities(each, window, stride) for each in (model, other))
    scored = [
        at for part in windows(len(ids), window, stride) for at in range(part.first, part.stop)
    ]
    targets = [ids[at] for at in scored]
    assert found.scored == len(scored) == len(p)
    # float32 logits of a few units: 2e-5 is some ten roundings of the largest.
    loss, parent_loss = (-x[range(len(x)), targets].mean() for x in (p, q))
    assert found.loss == pytest.approx(loss, abs=2e-5)
    assert found.perplexity == pytest.approx(math.exp(loss), rel=2e-5)
    assert found.parent is not None
    assert found.parent.loss == pytest.approx(parent_loss, abs=2e-5)
    assert found.parent.kl == pytest.approx((np.exp(q) * (q - p)).sum(1).mean(), abs=4e-5)
    assert found.parent.agreement == (p.argmax(1) == q.argmax(1)).mean()


def test_every_byte_is_counted_once(model: Path) -> None:
    found = perplexity(model, TEXT)
    assert found.scored == len(TEXT.encode()) - 1
    assert found.nbytes == len(TEXT.encode()) - 1  # nothing predicts the first
    assert found.bits_per_byte == pytest.approx(found.loss / math.log(2))
    assert perplexity(model, TEXT, window=16).nbytes < found.nbytes
    assert perplexity(model, TEXT, window=16, stride=3).nbytes == found.nbytes


def test_windows_score_each_token_once() -> None:
    for count in range(2, 20):
        for window in range(2, 8):
            for stride in range(1, window + 1):
                parts = list(windows(count, window, stride))
                scored = [at for part in parts for at in range(part.first, part.stop)]
                assert len(scored) == len(set(scored))
                assert all(part.start < part.first and part.stop <= count for part in parts)
                if stride < window:
                    assert scored == list(range(1, count))


def test_a_model_is_its_own_parent(model: Path) -> None:
    loaded = load(model)
    found = perplexity(loaded, TEXT, against=loaded, tokens=20)
    assert found.tokens == 20
    assert found.parent is not None
    assert (found.parent.kl, found.parent.agreement) == (0, 1)


def test_the_command(model: Path, other: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT)
    done = weightsmith(
        "perplexity", model, "--text", tmp_path / "text", "--against", other, "--json"
    )
    facts = json.loads(done.stdout)
    expected = perplexity(model, TEXT, against=other)
    assert facts == {"model": str(model), "against": str(other), **expected.facts()}
    done = weightsmith("perplexity", model, "--text", tmp_path / "text", "--tokens", "40")
    assert done.returncode == 0
    assert b"perplexity" in done.stdout
    assert done.stderr == b""


def test_what_cannot_be_scored_is_refused(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("a")
    run = ("perplexity", model, "--text")
    assert_fails(weightsmith(*run, text), 2, "too short")
    assert_fails(weightsmith(*run, tmp_path / "none"), 1, "No such file")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    assert_fails(weightsmith(*run, tmp_path / "latin"), 1, "UTF-8")
    assert_fails(weightsmith("perplexity", "-", "--text", text), 2, "stream", "-o DIR")
    assert_fails(weightsmith("perplexity", tmp_path, "--text", text), 2, "config.json")
    for options in ({"window": 1}, {"stride": 0}, {"window": 8, "stride": 9}, {"tokens": 1}):
        with pytest.raises(UsageError, match=f"--{list(options)[-1]}"):
            perplexity(model, TEXT, **options)


def test_weights_are_never_made_up(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    done = weightsmith("cat", model, "--exclude", "*norm.weight", "-o", broken, "--force")
    assert done.returncode == 0
    with pytest.raises(Mismatch, match="missing"):
        load(broken)
    (broken / "config.json").write_text("{}")
    with pytest.raises(WeightsmithError, match="transformers cannot load it"):
        load(broken)


def test_a_parent_of_another_kind_is_refused(model: Path, tmp_path: Path) -> None:
    wide = tiny_model(tmp_path / "wide", vocab_size=300)
    with pytest.raises(Mismatch, match="another vocabulary"):
        perplexity(model, TEXT, against=wide)


def test_infinite_logits_are_refused(model: Path) -> None:
    loaded = load(model)
    loaded.model.get_output_embeddings().weight.data.fill_(math.inf)
    with pytest.raises(WeightsmithError, match="not finite"):
        perplexity(loaded, TEXT)


def test_stock_transformers_agrees(model: Path) -> None:
    ids = load(model).tokenizer(TEXT)["input_ids"]
    rows = logits(model, ids)[:-1]
    loss = torch.nn.functional.cross_entropy(rows, torch.tensor(ids[1:]))
    assert perplexity(model, TEXT).loss == pytest.approx(float(loss), abs=2e-5)
