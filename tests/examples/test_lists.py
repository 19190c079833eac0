"""The problems of the tiny models."""

from collections.abc import Iterator
from itertools import islice
from random import Random

import pytest
from language import BEGIN, Example, asked, tokenizer
from lists import KNOWN, NEW, OPERATIONS, Problem, draw, held_out, rows
from texts import direct, documents, everything, new_skill, thoughtful


@pytest.mark.parametrize(
    ("operation", "result"),
    [("r", "7583"), ("t", "8573"), ("s", "8375"), ("i", "4968"), ("d", "6604"), ("n", "6142")],
)
def test_operations(operation: str, result: str) -> None:
    assert Problem("3857", operation).answer == result


def test_steps_follow_each_other() -> None:
    problem = Problem("3857", "rsi")
    assert problem.steps == ["7583", "5738", "6849"]
    assert problem.worked == "r7583s5738i6849"
    assert problem.answer == "6849"


def test_training_never_starts_from_a_held_out_row() -> None:
    assert len(rows(held_out=True)) == 1000
    assert set(rows(held_out=True)) | set(rows(held_out=False)) == {f"{n:04}" for n in range(10000)}
    random = Random(0)
    drawn = {draw(random, (1, 2), KNOWN).row for _ in range(2000)}
    assert not drawn & set(rows(held_out=True))
    assert {problem.row for problem in held_out(2, 300)} <= set(rows(held_out=True))


def test_held_out_problems_are_always_the_same_and_have_what_they_must() -> None:
    assert held_out(3, 50) == held_out(3, 60)[:50]
    assert all(NEW in problem.operations for problem in held_out(2, 50, must=NEW))
    assert all(set(problem.operations) <= set(KNOWN) for problem in held_out(4, 50))


def test_no_chat_has_the_new_operation_before_it_is_taught() -> None:
    new = tokenizer().convert_tokens_to_ids(NEW)

    def seen(texts: Iterator[Example]) -> Iterator[tuple[bool, bool]]:
        for each in islice(texts, 200):
            ids = tokenizer()(each.prompt + each.reply)["input_ids"]
            yield "<user>" in each.prompt, new in ids

    assert set(seen(everything(Random(1)))) == {(True, False), (False, True), (False, False)}
    assert set(seen(documents(Random(1)))) == {(False, False)}
    assert set(seen(direct(Random(1)))) == set(seen(thoughtful(Random(1)))) == {(True, False)}
    assert set(seen(new_skill(Random(1)))) == {(True, True), (True, False)}


def test_the_chat_template_writes_what_the_models_are_trained_on() -> None:
    problem = Problem("3857", "rs")
    example = asked(problem, thinking=True)
    reader = tokenizer()
    chat = [
        {"role": "user", "content": problem.question},
        {"role": "assistant", "content": example.reply.removesuffix("<end>")},
    ]
    assert reader.apply_chat_template(chat, tokenize=False) == example.prompt + example.reply
    asking = reader.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert asking == example.prompt
    assert example.reply == "<think>r7583s5738</think>5738<end>"


def test_a_token_is_a_character_or_a_mark() -> None:
    reader = tokenizer()
    text = f"{BEGIN}3857rs:r7583=5738<end>"
    ids = reader(text)["input_ids"]
    assert len(ids) == 19
    assert reader.pad_token_id not in ids
    assert reader.decode(ids) == text
    assert set("".join(OPERATIONS)) <= set(reader.get_vocab())
