"""The decoder layers of a checkpoint, by name: which tensors they have, and how to reorder them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weightsmith.errors import Mismatch, UsageError
from weightsmith.families import EMBEDDINGS, POSITIONS, TOWERS, matches
from weightsmith.header import TensorSpec
from weightsmith.operators.configuration import config_of
from weightsmith.operators.operator import InputView

_LAYER = re.compile(r"((?:.*?\.)?(?:layers|layer|h|blocks|block))\.([0-9]{1,9})\.(.+)")
COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
# One entry for each layer.
PER_LAYER = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers")
# Numbers of layers.
NUMBERS = ("mlp_only_layers", "moe_layers", "cross_attention_layers")
# The first so many layers are dense.
DENSE_FIRST = ("first_k_dense_replace",)
# Which layers are of which kind follows from their numbers, unless layer_types says it.
PERIODS = (
    "sliding_window_pattern",
    "full_attention_interval",
    "decoder_sparse_step",
    "interleave_moe_layer_step",
    "moe_layer_frequency",
    "attn_layer_period",
    "expert_layer_period",
)


@dataclass(frozen=True)
class Layers:
    """The decoder layers of an input.

    Attributes:
        label: how messages call the input.
        prefix: what stands before the numbers, such as "model.layers".
        by_number: for each layer its tensors, by what stands after the number.
        before, after: the other tensors: those that the first layer builds on (embeddings, other
            towers), and those behind the last (norm, head).
    """

    label: str
    prefix: str
    by_number: tuple[Mapping[str, TensorSpec], ...]
    before: tuple[TensorSpec, ...]
    after: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, view: InputView) -> Layers:
        """Find them.

        Raises:
            Mismatch: there are several stacks of layers, or their numbers have holes.
        """
        found: dict[str, dict[int, dict[str, TensorSpec]]] = {}
        before, after = [], []
        for spec in view.header.tensors:
            named = None if matches(spec.name, TOWERS) else _LAYER.fullmatch(spec.name)
            if named is not None:
                layers = found.setdefault(named[1], {})
                layers.setdefault(int(named[2]), {})[named[3]] = spec
            elif matches(spec.name, (*EMBEDDINGS, *POSITIONS, *TOWERS)):
                before.append(spec)
            else:
                after.append(spec)
        if len(found) > 1:
            raise Mismatch(
                "several stacks of layers", file=view.label, got=", ".join(sorted(found))
            )
        prefix, layers = next(iter(found.items()), ("", {}))
        if sorted(layers) != list(range(len(layers))):
            missing = min(set(range(len(layers))) - layers.keys())
            raise Mismatch(f"layer {missing} is missing", file=view.label)
        ordered = tuple(layers[number] for number in range(len(layers)))
        stated = next((n for n in map(_text(view).get, COUNTS) if type(n) is int), len(layers))
        if layers and stated != len(layers):
            raise Mismatch(
                "config.json and tensors disagree on the number of layers",
                file=view.label,
                expected=stated,
                got=len(layers),
            )
        return cls(view.label, prefix, ordered, tuple(before), tuple(after))

    def named(self, number: int, suffix: str) -> str:
        """The name of a layer's tensor."""
        return f"{self.prefix}.{number}.{suffix}"


def _text(view: InputView) -> Mapping[str, Any]:
    config = config_of(view)
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, Mapping) else config


def config_patch(
    views: Sequence[InputView], order: Sequence[tuple[int, int]], count: int
) -> dict[str, Any]:
    """What changes in the config.json of the first input.

    Args:
        views: the inputs.
        order: layer j of the output is `order[j]` = (input, layer).
        count: how many layers the first input has.

    Raises:
        UsageError: a key gives layers their kind by their numbers, in a way the order breaks.
    """
    if list(order) == [(0, layer) for layer in range(count)]:
        return {}
    configs = [_text(view) for view in views]
    first = configs[0]
    counts = [key for key in COUNTS if key in first] or [COUNTS[0]]
    patch: dict[str, Any] = dict.fromkeys(counts, len(order))
    for key in PER_LAYER:
        if isinstance(first.get(key), list):
            patch[key] = [_entry(configs[i], key, layer, views[i].label) for i, layer in order]
    for key in NUMBERS:
        if isinstance(first.get(key), list):
            patch[key] = [
                j for j, (i, layer) in enumerate(order) if layer in configs[i].get(key, ())
            ]
    for key in DENSE_FIRST:
        if type(first.get(key)) is int:
            dense = [layer < configs[i].get(key, 0) for i, layer in order]
            if sorted(dense, reverse=True) != dense:
                raise _broken(key, views[0])
            patch[key] = sum(dense)
    if "layer_types" not in patch:
        for key in PERIODS:
            period = first.get(key)
            if type(period) is not int or period < 2:
                continue
            if any(layer % period != j % period for j, (_, layer) in enumerate(order)):
                raise _broken(key, views[0])
    return {key: value for key, value in patch.items() if value != first.get(key)}


def _entry(config: Mapping[str, Any], key: str, layer: int, label: str) -> Any:
    entries = config.get(key)
    if not isinstance(entries, list) or layer >= len(entries):
        raise Mismatch(f"{key} in config.json says nothing of layer {layer}", file=label)
    return entries[layer]


def _broken(key: str, view: InputView) -> UsageError:
    return UsageError(
        f"{key} in config.json gives layers their kind by their numbers, and would give some "
        "another one",
        file=view.label,
        remedy="keep layers of one kind at places of that kind",
    )
