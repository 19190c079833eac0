"""mergekit's merge methods, as our operators with the values of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from weightsmith.errors import UsageError
from weightsmith.operators.blending import Numbers, Resolved
from weightsmith.operators.dare import Dare
from weightsmith.operators.linear import Linear
from weightsmith.operators.merge import Place
from weightsmith.operators.operator import Operator
from weightsmith.operators.slerp import Slerp
from weightsmith.operators.task_arithmetic import TaskArithmetic
from weightsmith.operators.ties import Ties
from weightsmith.recipes.settings import Scope, flag, number_for

Places = Mapping[str, Place]
Values = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A model in a slice.

    Attributes:
        model: its number among the inputs.
        first: its first layer.
        scopes: the parameters that hold for it, the narrowest first.
        count: how many layers; None for all.
    """

    model: int
    first: int
    scopes: tuple[Scope, ...]
    count: int | None = None


@dataclass(frozen=True)
class Slice:
    """Sources in the order of the operator's inputs.

    Attributes:
        sources: the models.
        count: how many layers; None for all.
        scopes: the parameters that hold for no source alone, the narrowest first.
    """

    sources: tuple[Source, ...]
    count: int | None
    scopes: tuple[Scope, ...]

    def flag(self, name: str, *, default: bool) -> bool:
        """A parameter that is true or false."""
        return flag(name, self.scopes, default)

    def one(self, name: str, places: Places, default: str | None) -> Resolved[Decimal]:
        """By tensor, a number for all sources."""
        found = {
            tensor: _given(number_for(name, self.scopes, tensor, place.depth), name, default)
            for tensor, place in places.items()
        }
        return Resolved(by_name=found)

    def each(
        self, name: str, places: Places, default: str | None, first: int = 0
    ) -> Resolved[Numbers]:
        """By tensor, a number for each source from the one numbered `first` on."""
        found = {
            tensor: Numbers(
                _given(
                    number_for(name, source.scopes, own or tensor, place.depth),
                    name,
                    default if own else "0",
                )
                for source, own in zip(self.sources[first:], place.names[first:], strict=True)
            )
            for tensor, place in places.items()
        }
        return Resolved(by_name=found)


def _given(value: Decimal | None, name: str, default: str | None) -> Decimal:
    if value is not None:
        return value
    if default is None:
        raise UsageError(f"the recipe gives no {name}", remedy=f"parameters: {{{name}: ...}}")
    return Decimal(default)


@dataclass(frozen=True)
class Method:
    """How a merge method is carried out.

    Attributes:
        operator: ours.
        parameters: what mergekit's method reads.
        values: the operator's parameters: of a slice, by the places of tensors, with a seed.
        based: whether there must be a base model; it becomes the first source.
        sources: how many there must be; None for any number.
    """

    operator: type[Operator]
    parameters: frozenset[str]
    values: Callable[[Slice, Places, int], Values]
    based: bool = False
    sources: int | None = None

    def arranged(
        self,
        sources: Sequence[Source],
        base: int | None,
        count: int | None,
        scopes: tuple[Scope, ...],
        where: str,
    ) -> Slice:
        """A slice with its sources in the operator's order.

        Raises:
            UsageError: their number is wrong, one comes twice, or the base model is missing.
        """
        models = [source.model for source in sources]
        if len(set(models)) < len(models):
            raise UsageError(f"{where}: one model stands twice")
        if self.sources is not None and len(models) != self.sources:
            raise UsageError(f"{where}: the method takes {self.sources}", got=f"{len(models)}")
        if self.based:
            if base is None:
                raise UsageError("the recipe has no base_model, which the method needs")
            if base not in models:
                raise UsageError(f"{where}: the base model is not among the sources")
            sources = sorted(sources, key=lambda source: source.model != base)
        return Slice(tuple(sources), count, scopes)


def _linear(given: Slice, places: Places, _: int) -> Values:
    return {
        "weight": given.each("weight", places, None),
        "no_normalize": not given.flag("normalize", default=True),
    }


def _passthrough(given: Slice, places: Places, _: int) -> Values:
    return {"weight": given.each("scale", places, "1"), "no_normalize": True}


def _slerp(given: Slice, places: Places, _: int) -> Values:
    return {"t": given.one("t", places, None)}


def _vectors(given: Slice, places: Places) -> Values:
    given.flag("int8_mask", default=False)  # how mergekit stores signs: nothing follows from it
    return {
        "weight": given.each("weight", places, None, first=1),
        "lam": given.one("lambda", places, "1"),
    }


def _task_arithmetic(given: Slice, places: Places, _: int) -> Values:
    return {**_vectors(given, places), "normalize": given.flag("normalize", default=False)}


def _ties(given: Slice, places: Places, _: int) -> Values:
    return {
        **_vectors(given, places),
        "density": given.each("density", places, "1", first=1),
        "rescale": "l1" if given.flag("rescale", default=False) else "none",
        "no_normalize": not given.flag("normalize", default=True),
    }


def _dare(given: Slice, places: Places, seed: int) -> Values:
    return {
        **_vectors(given, places),
        "density": given.each("density", places, "1", first=1),
        "rescale": "l1" if given.flag("rescale", default=True) else "none",
        "normalize": given.flag("normalize", default=False),
        "seed": seed,
    }


def _dare_ties(given: Slice, places: Places, seed: int) -> Values:
    return {**_dare(given, places, seed), "elect": True}


_VECTORS = frozenset({"weight", "lambda", "normalize", "int8_mask"})
_SPARSE = _VECTORS | {"density", "rescale"}
METHODS = {
    "linear": Method(Linear, frozenset({"weight", "normalize"}), _linear),
    "passthrough": Method(Linear, frozenset({"scale"}), _passthrough, sources=1),
    "slerp": Method(Slerp, frozenset({"t"}), _slerp, based=True, sources=2),
    "task_arithmetic": Method(TaskArithmetic, _VECTORS, _task_arithmetic, based=True),
    "ties": Method(Ties, _SPARSE, _ties, based=True),
    "dare_linear": Method(Dare, _SPARSE, _dare, based=True),
    "dare_ties": Method(Dare, _SPARSE, _dare_ties, based=True),
}
