"""Run mergekit on recipes; for its own interpreter: peer.py MASKS RECIPE OUT [RECIPE OUT ...].

MASKS is a safetensors file with what dare is to keep, for mergekit's draws depend on the order of
its work: the tensor "N/NAME" is the mask of model N (base not counted) in the tensor NAME.
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions
from safetensors.torch import load_file

torch.set_num_threads(1)
masks = load_file(sys.argv[1])
asked: Iterator[str] = iter(())
execute = ExecuteMergeMethodTask.execute


def noted(self: Any, **given: Any) -> Any:
    """Remember which masks the tensor takes."""
    global asked  # noqa: PLW0603 - torch.bernoulli is not told for what it draws
    name = self.output_weight.name
    asked = iter([f"{number}/{name}" for number in range(len(self.model_order))])
    return execute(self, **given)


def given_mask(probability: torch.Tensor) -> torch.Tensor:
    """Stand in for torch.bernoulli."""
    return masks[next(asked)].reshape(probability.shape).to(probability.dtype)


ExecuteMergeMethodTask.execute = noted
torch.bernoulli = given_mask
options = MergeOptions(quiet=True, copy_tokenizer=False, clone_tensors=True, write_model_card=False)
for recipe, out in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
    with open(recipe, encoding="utf-8") as file:
        run_merge(MergeConfiguration.model_validate(yaml.safe_load(file)), out, options=options)
