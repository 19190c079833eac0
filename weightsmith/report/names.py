"""Where in a model a tensor sits, told from its name: which layer, which module in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"[0-9]+")
_NOT_COUNTED = ("bias", "norm")


@dataclass(frozen=True)
class Place:
    """The place of a tensor.

    Attributes:
        stack: the name's parts before the layer number, such as "model.layers".
        layer: the layer number, or None outside the layers.
        module: the parts after it without a final "weight", later numbers (those of experts) as
            "*"; outside the layers, the whole name.
    """

    stack: str
    layer: int | None
    module: str


def place_of(name: str) -> Place:
    """Take a name apart at its first number.

    >>> place_of("model.layers.3.self_attn.q_proj.weight")
    Place(stack='model.layers', layer=3, module='self_attn.q_proj')
    """
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if _NUMBER.fullmatch(part) and len(part) < 10]
    if not numbers or numbers[0] in (0, len(parts) - 1):
        return Place("", None, name)
    after = parts[numbers[0] + 1 :]
    if after[-1] == "weight" and len(after) > 1:
        after = after[:-1]
    module = ".".join("*" if _NUMBER.fullmatch(part) else part for part in after)
    return Place(".".join(parts[: numbers[0]]), int(parts[numbers[0]]), module)


def labels(places: Sequence[Place]) -> dict[Place, str]:
    """What to call the module of each place: with its stack where there are several stacks."""
    stacks = {place.stack for place in places if place.layer is not None}
    return {
        place: f"{place.stack}.*.{place.module}"
        if len(stacks) > 1 and place.layer is not None
        else place.module
        for place in places
    }


def counts(name: str) -> bool:
    """Whether a tensor enters a model's mean sigma: the paper skips biases and norms."""
    return not any(word in name.lower() for word in _NOT_COUNTED)
