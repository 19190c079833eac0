"""What a recipe file comes to."""

from dataclasses import dataclass

from weightsmith.operators.operator import Operator


@dataclass(frozen=True)
class Recipe:
    """A recipe, read.

    Attributes:
        operator: what is to be done.
        addresses: of its inputs.
        dtype: the output dtype (the format's name), or None.
        notices: what the user should know about it.
    """

    operator: Operator
    addresses: tuple[str, ...]
    dtype: str | None = None
    notices: tuple[str, ...] = ()
