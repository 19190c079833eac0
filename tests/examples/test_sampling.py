"""The batched sampler, against transformers' own generation and against probabilities."""

from typing import Any

import pytest
import sampling
import torch
from language import MAX_TOKENS, prompt, tokenizer
from lists import held_out
from sampling import GREEDY, Decoding, choose, sample
from scoring import ask, is_right
from tiny import config
from transformers import LlamaForCausalLM

PROMPTS = [prompt(problem.question) for length in (1, 3, 2) for problem in held_out(length, 5)]


@pytest.fixture(scope="module")
def model() -> Any:
    """Random weights, large enough that tokens differ from each other."""
    torch.manual_seed(0)
    small = config()
    small.num_hidden_layers, small.initializer_range = 2, 0.3
    return LlamaForCausalLM(small).eval()


def test_greedy_is_what_transformers_generates(model: Any) -> None:
    reader = tokenizer()
    found = sample(model, reader, PROMPTS, decoding=Decoding(temperature=0, limit=20))
    for text, (answer,) in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([reader(text)["input_ids"]])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20
        )
        assert answer == whole[0, ids.shape[1] :].tolist()


def test_a_seed_is_a_set_of_answers_whatever_the_batches(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(seed: int) -> list[list[list[int]]]:
        return sample(model, tokenizer(), PROMPTS, samples=6, seed=seed, decoding=Decoding())

    first = drawn(1)
    assert drawn(1) == first
    assert drawn(2) != first
    monkeypatch.setattr(sampling, "_ROWS", 7)
    assert drawn(1) == first


def test_answers_stop_at_the_end_token_or_the_limit(model: Any) -> None:
    reader = tokenizer()
    answers = sample(model, reader, PROMPTS, samples=20, decoding=Decoding(temperature=3, limit=9))
    flat = [answer for drawn in answers for answer in drawn]
    assert all(reader.eos_token_id not in answer[:-1] for answer in flat)
    assert all(len(answer) == 9 or answer[-1] == reader.eos_token_id for answer in flat)
    assert {len(answer) for answer in flat} > {9}  # some ended early: both ways were tried


def test_tokens_come_as_often_as_their_probability_says() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    rows = 4000
    # Evenly spaced numbers instead of drawn ones: shares are then exact to one in `rows`.
    luck = (torch.arange(rows) + 0.5) / rows
    tokens = choose(logits.expand(rows, -1), luck, Decoding(temperature=2))
    shares = torch.bincount(tokens, minlength=4) / rows
    assert torch.allclose(shares, (logits / 2).softmax(0), atol=2 / rows)


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, {0}), (0.7, {0, 2}), (0.95, {0, 1, 2})])
def test_top_p_keeps_the_fewest_tokens_that_hold_it(top_p: float, kept: set[int]) -> None:
    logits = torch.tensor([0.6, 0.12, 0.25, 0.03]).log().expand(1000, -1)
    luck = torch.arange(1000) / 1000
    assert set(choose(logits, luck, Decoding(top_p=top_p)).tolist()) == kept


def test_candidates_are_not_seen_in_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few likely tokens hold top_p in the first rows, and not in the last: they are too flat."""
    torch.manual_seed(0)
    logits = torch.randn(200, 500) * torch.linspace(6, 0.1, 200)[:, None]
    luck = torch.rand(200)
    expected = choose(logits, luck, Decoding(top_p=0.9))
    monkeypatch.setattr(sampling, "_CANDIDATES", 40)
    for rows in (slice(0, 20), slice(None)):
        assert torch.equal(choose(logits[rows], luck[rows], Decoding(top_p=0.9)), expected[rows])


def test_limits_fit_the_models() -> None:
    longest = max(len(tokenizer()(prompt(p.question))["input_ids"]) for p in held_out(4, 10))
    assert longest + GREEDY.limit <= MAX_TOKENS


def test_what_counts_as_right() -> None:
    (problem,) = held_out(2, 1)
    ids = tokenizer()
    for reply, right in [
        (f"{problem.answer}<end>", True),
        (f"<think>{problem.worked}</think>{problem.answer}<end>", True),
        (f"{problem.answer}", False),
        (f"{problem.answer}{problem.answer}<end>", False),
        (f"{problem.answer}</think><end>", False),
        (f"<think>{problem.answer}<end>", False),
    ]:
        assert is_right(problem, ids(reply)["input_ids"]) is right


def test_a_score_has_all_of_pass_at_k(model: Any) -> None:
    found = ask(model, held_out(1, 4), samples=8, decoding=Decoding(limit=6))
    assert list(found["pass"]) == ["1", "2", "4", "8"]
    assert found["pass"]["1"] == found["mean"]
    assert found["tokens"] <= 6
