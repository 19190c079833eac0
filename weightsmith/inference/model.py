"""Load a checkpoint as a model that runs, with all of its weights or not at all."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightsmith.errors import InvalidFile, Mismatch, UsageError, WeightsmithError

CONFIG = "config.json"


@dataclass(frozen=True)
class Loaded:
    """A causal language model in evaluation mode and its tokenizer.

    Attributes:
        model: of transformers.
        tokenizer: of transformers, a fast one.
        label: how messages call the checkpoint.
    """

    model: Any
    tokenizer: Any
    label: str


def load(
    address: str | Path, *, dtype: str = "float32", device: str = "cpu", act: str = "int16"
) -> Loaded:
    """The model in a checkpoint directory, its weights widened or rounded to `dtype`.

    Packed weights stay packed, and are computed with as they are.

    Args:
        address: a directory with config.json, tokenizer and weights.
        dtype: that of weights and arithmetic, as torch names it.
        device: where it runs, as torch names it.
        act: what packed layers round activations to: int8, int16 or float32.

    Raises:
        UsageError: transformers is not installed, or the address is no directory.
        InvalidFile: packed rows are damaged.
        Mismatch: the checkpoint lacks weights that the model has; transformers would make them up.
        WeightsmithError: transformers cannot load it.
    """
    read_config(address)
    tokenizer = load_tokenizer(address)
    return Loaded(load_model(address, dtype=dtype, device=device, act=act), tokenizer, str(address))


def load_model(address: str | Path, *, dtype: str, device: str, act: str = "int16") -> Any:
    """The model alone; see `load`."""
    read_config(address)
    label = str(address)
    transformers = require_transformers()
    import torch

    with _quiet(transformers), told(label):
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            label, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
        )
    missing = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
    if missing:
        raise Mismatch(
            f"{len(missing)} weights of the model are missing or have another shape",
            file=label,
            tensor=min(missing),
            remedy="the checkpoint does not fit its config.json",
        )
    set_act(model, act)
    return model.eval().to(device)


def set_act(model: Any, act: str) -> None:
    """Let the packed layers of a model round activations to this from now on."""
    from weightsmith.inference.linear import Int8Linear, TernaryLinear

    for layer in model.modules():
        if isinstance(layer, TernaryLinear | Int8Linear):
            layer.act = act


def step(model: Any, ids: Any, cache: Any) -> tuple[Any, Any]:
    """One forward pass that goes on from a cache of keys and values.

    Args:
        model: of transformers.
        ids: tokens [batch, n] after those in the cache.
        cache: what an earlier step returned, or None.

    Returns:
        Logits [batch, 1, vocabulary] after the last token, and the cache with all of them.
    """
    # transformers 5.24 has renamed it.
    known = inspect.signature(model.forward).parameters
    name = "cache" if "cache" in known else "past_key_values"
    out = model(ids, **{name: cache}, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1:], getattr(out, name)


def load_tokenizer(address: str | Path) -> Any:
    """The fast tokenizer in a checkpoint directory.

    Raises:
        UsageError: transformers is not installed, or the tokenizer is of the slow kind.
        WeightsmithError: there is none that transformers can load.
    """
    transformers = require_transformers()
    with _quiet(transformers), told(str(address)):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(address), local_files_only=True)
    if not tokenizer.is_fast:
        raise UsageError("the tokenizer does not say where its tokens stand", file=address)
    return tokenizer


def read_config(address: str | Path) -> dict[str, Any]:
    """The config.json of a checkpoint directory.

    Raises:
        UsageError: a stream, a single file, or a directory without a config.json.
        InvalidFile: it is not a JSON object.
    """
    if str(address) == "-":
        raise UsageError(
            "a model that is to run cannot be a stream",
            expected="a directory with config, tokenizer and weights",
            remedy="write it with -o DIR first",
        )
    path = Path(address) / CONFIG
    if not path.is_file():
        raise UsageError(
            "no model that could run",
            file=address,
            expected=f"a directory with {CONFIG}, tokenizer and weights",
        )
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise InvalidFile("not valid JSON", file=path) from None
    if not isinstance(config, dict):
        raise InvalidFile("not a JSON object", file=path)
    return config


def require_transformers() -> Any:
    """The transformers package, or a UsageError that says how to get it."""
    try:
        import transformers
    except ImportError:
        raise UsageError(
            "this needs transformers", remedy="python -m pip install 'weightsmith[inference]'"
        ) from None
    return transformers


@contextmanager
def told(label: str) -> Iterator[None]:
    """Turn the many exceptions of a loader into one of ours."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsmithError(f"transformers cannot load it: {first}", file=label) from None


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No bars and reports of its own; what matters of them becomes an error of ours."""
    logger = logging.getLogger("transformers")
    bars, level = transformers.utils.logging.is_progress_bar_enabled(), logger.level
    logger.setLevel(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
