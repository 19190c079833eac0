"""Train the tiny trio from scratch: base, tuned, instruct and thinking, 1.3 M weights each.

    python examples/trio/tiny.py build/trio --seed 0

| model | what it is |
|---|---|
| pretrained | knows five operations on rows of digits, from documents |
| base | pretrained after it saw chats too, with steps and without: it answers either way |
| tuned | base after chats about a sixth operation, which it knows from documents alone |
| instruct | base after chats with answers at once |
| thinking | base after chats with steps before the answer |
| retuned | instruct after it learned the sixth operation, as tuned did: to hold a graft against |

Seeds share the pretrained model. A model that is there already is not trained again.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from language import BEGIN, END, MAX_TOKENS, PAD, VOCABULARY, Example
from language import tokenizer as make_tokenizer
from learning import train
from texts import direct, documents, everything, new_skill, thoughtful
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Recipe:
    """How one model is made: from which parent, on what, for how long."""

    parent: str | None
    teaches: str
    examples: Callable[[Random], Iterator[Example]]
    steps: int
    batch: int
    peak_lr: float


RECIPES = {
    "pretrained": Recipe(None, "documents", documents, steps=1000, batch=128, peak_lr=2e-3),
    "base": Recipe("pretrained", "everything", everything, steps=200, batch=128, peak_lr=6e-4),
    "instruct": Recipe("base", "chats", direct, steps=100, batch=64, peak_lr=2e-4),
    "thinking": Recipe("base", "thinking chats", thoughtful, steps=100, batch=64, peak_lr=2e-4),
    "tuned": Recipe("base", "new skill", new_skill, steps=150, batch=64, peak_lr=2e-4),
    "retuned": Recipe("instruct", "new skill", new_skill, steps=150, batch=64, peak_lr=2e-4),
}


def config() -> LlamaConfig:
    """Six layers, so that they divide into thirds; 128 wide, the group of the trit planes."""
    return LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=VOCABULARY[BEGIN],
        eos_token_id=VOCABULARY[END],
        pad_token_id=VOCABULARY[PAD],
    )


def load(directory: Path) -> Any:
    """A model in float32, whatever it is stored in."""
    model: Any = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model.eval()


def make(root: Path, name: str, seed: int, shorten: int = 1) -> Path:
    """The directory of a model, trained first if it is not there; its parents likewise.

    Models go to ROOT/seed-N/NAME, but for the first, ROOT/pretrained, which all seeds share.
    `shorten` divides the number of steps, for tests.
    """
    recipe = RECIPES[name]
    if recipe.parent is None:
        seed, folder = 0, root
    else:
        folder = root / f"seed-{seed}"
    target = folder / name
    if target.exists():
        return target
    torch.manual_seed(seed)
    if recipe.parent is None:
        model: Any = LlamaForCausalLM(config())
    else:
        model = load(make(root, recipe.parent, seed, shorten))
    tokenizer = make_tokenizer()
    train(
        model,
        tokenizer,
        # Tuned and retuned see the same examples: the seed is that of what is taught.
        recipe.examples(Random(f"{seed} {recipe.teaches}")),  # noqa: S311 - not for secrets
        steps=max(recipe.steps // shorten, 2),
        batch=recipe.batch,
        peak_lr=recipe.peak_lr,
        label=f"seed {seed}, {name}",
    )
    folder.mkdir(parents=True, exist_ok=True)
    # Made beside the target and renamed at the end: a target that exists is complete.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as work:
        saved = Path(work) / name
        model.to(torch.bfloat16).save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        saved.rename(target)
    return target


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("root", type=Path, help="models go to ROOT/pretrained and ROOT/seed-N")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--only", choices=RECIPES, nargs="+", default=[*RECIPES])
    parser.add_argument("--shorten", type=int, default=1, help="divides the steps, for tests")
    options = parser.parse_args()
    torch.set_num_threads(1)  # more spin on such small products
    for seed in options.seed:
        started = time.monotonic()
        for name in options.only:
            print(make(options.root, name, seed, options.shorten), flush=True)
        print(f"seed {seed}: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
