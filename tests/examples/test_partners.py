"""The worked answers that the larger thinking model learns."""

import re
from itertools import islice

import pytest

pytest.importorskip("gguf")
from partners import PARTNERS, examples, with_steps


def test_steps_are_true_and_lead_to_the_answer() -> None:
    direct = islice(examples(PARTNERS["instruct"]), 300)
    for plain, worked in zip(direct, examples(PARTNERS["thinking"]), strict=False):
        assert worked == with_steps(plain)
        thoughts, _, answer = worked.answer.removeprefix("<think>").partition("</think>")
        assert answer == plain.answer
        steps = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", thoughts)
        assert len(steps) == len(thoughts.split(", ")) >= 2
        for a, operation, b, result in steps:
            value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[operation]
            assert value == int(result)
        assert steps[-1][-1] == answer
