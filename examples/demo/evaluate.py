"""Measure how many held-out problems of a skill a checkpoint answers right.

    python evaluate.py build/demo/base --skill arithmetic words --problems 64

Weights are kept as stored and computed with in float32: bfloat16 arithmetic is many times slower
on processors without instructions for it.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch
from skills import SKILLS, Problem, held_out
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

MAX_ANSWER_TOKENS = 28  # the longest right answer has 14; a sentence around it still fits
BATCH = 32

logging.set_verbosity_error()  # type: ignore[no-untyped-call]
logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def load(checkpoint: Path) -> tuple[Any, Any]:
    """The model, in float32, and the tokenizer of a checkpoint directory."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return model.eval(), tokenizer


def prompt(tokenizer: Any, question: str) -> str:
    """The question as the model is used to seeing it."""
    message = {"role": "user", "content": question}
    text: str = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    return text


@torch.inference_mode()
def answers(model: Any, tokenizer: Any, questions: list[str]) -> list[str]:
    """The greedy answers of the model."""
    texts = []
    for start in range(0, len(questions), BATCH):
        prompts = [prompt(tokenizer, question) for question in questions[start : start + BATCH]]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        outputs = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_ANSWER_TOKENS)
        generated = outputs[:, inputs["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(generated, skip_special_tokens=True)
    return texts


def is_exact(problem: Problem, answer: str) -> bool:
    """Whether the answer is the right one and nothing else, but for case and a full stop."""
    return answer.strip().removesuffix(".").casefold() == problem.answer


def is_contained(problem: Problem, answer: str) -> bool:
    """Whether the right answer stands somewhere in the answer, as whole words."""
    return bool(re.search(rf"(?<![\w-]){re.escape(problem.answer)}(?![\w-])", answer.casefold()))


def score(model: Any, tokenizer: Any, skill: str, count: int) -> dict[str, float]:
    """The share of `count` held-out problems answered exactly, and answered in passing."""
    problems = held_out(skill, count)
    given = answers(model, tokenizer, [problem.question for problem in problems])
    pairs = list(zip(problems, given, strict=True))
    return {
        "problems": count,
        "exact": sum(is_exact(*pair) for pair in pairs) / count,
        "contained": sum(is_contained(*pair) for pair in pairs) / count,
    }


def main() -> None:
    """Print the scores of a checkpoint as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--skill", nargs="+", choices=SKILLS, default=list(SKILLS))
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--ask", metavar="QUESTION", help="also answer this question")
    options = parser.parse_args()
    model, tokenizer = load(options.checkpoint)
    result: dict[str, Any] = {
        skill: score(model, tokenizer, skill, options.problems) for skill in options.skill
    }
    if options.ask:
        (result["answer"],) = answers(model, tokenizer, [options.ask])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
