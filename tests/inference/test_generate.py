"""generate and bench: the functions under them, and the commands."""

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch
from packed_models import write_pair
from support import assert_fails, weightsmith
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from weightsmith.errors import UsageError, WeightsmithError
from weightsmith.inference.generate import Sampling, Speed, generate, prompt_ids, text_of
from weightsmith.inference.model import Loaded, load
from weightsmith.inference.speed import Settings, measure_apart

WORDS = [f"w{number}" for number in range(120)]
TEMPLATE = "{% for m in messages %}w3 {{ m['content'] }} w4{% endfor %}"


def add_tokenizer(directory: Path, template: str | None = None) -> None:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", eos_token="w2")
    if template is not None:
        fast.chat_template = template
    fast.save_pretrained(directory)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    packed, dense = write_pair(tmp_path_factory.mktemp("pair"))
    add_tokenizer(packed, TEMPLATE)
    add_tokenizer(dense)
    return packed, dense


@pytest.fixture(scope="module")
def loaded(pair: tuple[Path, Path]) -> Loaded:
    return load(pair[0])


def written(loaded: Loaded, ids: list[int], limit: int, sampling: Sampling) -> list[int]:
    return list(generate(loaded, ids, limit, sampling, Speed()))


def test_greedy_tokens_are_those_of_transformers(loaded: Loaded) -> None:
    ids = [5, 6, 7, 8]
    options = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}
    expected = loaded.model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()
    speed = Speed()
    found = list(generate(loaded, ids, 9, Sampling(), speed))
    assert found == [token for token in expected if token != 2]
    assert (speed.prompt, speed.generated) == (4, len(expected))


def test_a_seed_decides(loaded: Loaded) -> None:
    hot = [written(loaded, [5, 6], 12, Sampling(temperature=3.0, seed=s)) for s in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]
    greedy = written(loaded, [5, 6], 12, Sampling())
    assert written(loaded, [5, 6], 12, Sampling(temperature=3.0, top_p=1e-6)) == greedy


def test_the_end_of_the_text_ends_it(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    hot = Sampling(temperature=3.0, seed=1)
    whole = written(loaded, [5, 6], 9, hot)
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", [whole[-1]])
    end = whole.index(whole[-1])
    assert end > 0
    assert written(loaded, [5, 6], 9, hot) == whole[:end]


def test_the_chat_template_is_used_where_there_is_one(
    loaded: Loaded, pair: tuple[Path, Path]
) -> None:
    assert prompt_ids(loaded, "w9") == [3, 9, 4]
    assert prompt_ids(loaded, "w9", chat=False) == [9]
    assert prompt_ids(load(pair[1]), "w9") == [9]
    with pytest.raises(UsageError, match="no tokens"):
        prompt_ids(loaded, "", chat=False)


def test_text_grows_by_whole_characters() -> None:
    class Half:
        def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
            return bytes(ids).decode(errors="replace")

    loaded = Loaded(None, Half(), "test")
    assert list(text_of(loaded, iter("aé€".encode()))) == ["a", "é", "€"]


def test_the_command_writes_text_and_speed(pair: tuple[Path, Path]) -> None:
    packed, _ = pair
    plain = weightsmith("generate", packed, "w9 w10", "--tokens", 5)
    assert plain.returncode == 0, plain.stderr.decode()
    assert "tokens/s" in plain.stderr.decode()
    quiet = weightsmith("generate", packed, "w9 w10", "--tokens", 5, "-q", "--act", "float32")
    assert quiet.stderr == b""
    facts = json.loads(weightsmith("generate", packed, "w9 w10", "--tokens", 5, "--json").stdout)
    assert facts["prompt"] == 4
    assert facts["text"].split() == plain.stdout.decode().split()


def test_what_generate_refuses(pair: tuple[Path, Path], tmp_path: Path) -> None:
    packed, _ = pair
    assert_fails(weightsmith("generate", packed, "w9", "--act", "int4"), 2, "int8, int16")
    assert_fails(weightsmith("generate", tmp_path, "w9"), 2, "config.json")
    assert_fails(weightsmith("generate", "-", "w9"), 2, "stream")


def test_bench_measures_each_variant(pair: tuple[Path, Path]) -> None:
    packed, dense = pair
    options = ("--against", dense, "--tokens", 2, "--prompt", 4)
    done = weightsmith("bench", packed, *options, "--json")
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    variants = [(each["act"], each["dtype"]) for each in found]
    assert variants == [
        ("int8", "float32"),
        ("int16", "float32"),
        ("float32", "float32"),
        ("", "float32"),
        ("", "bfloat16"),
    ]
    assert all(each["decode"] > 0 and each["peak"] > each["weights"] > 0 for each in found)
    assert found[0]["weights"] < found[4]["weights"] < found[3]["weights"]


def test_what_bench_refuses(pair: tuple[Path, Path], tmp_path: Path) -> None:
    packed, _ = pair
    assert_fails(weightsmith("bench", packed, "--against", packed), 2, "packed too")
    missing = Settings(str(tmp_path), "float32", ("int8",), 1, 1, 1)
    with pytest.raises(WeightsmithError, match="no model"):
        measure_apart(missing)
