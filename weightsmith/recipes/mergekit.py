"""Recipes as mergekit 0.1.5 reads them, carried out by our operators.

Written from its documentation and its behaviour; tests/recipes compares the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightsmith.checkpoint.tokenizer import FILE
from weightsmith.dtypes import ALIASES
from weightsmith.errors import UsageError, printable
from weightsmith.operators.merge import Merge, Part
from weightsmith.recipes.methods import METHODS, Method, Slice, Source
from weightsmith.recipes.recipe import Recipe

_KEYS = {
    *("merge_method", "models", "slices", "base_model", "parameters"),
    *("dtype", "out_dtype", "tokenizer_source"),
}
_UNSUPPORTED = {"modules", "tokenizer", "chat_template", "residual_weight"}


def read(document: Mapping[str, Any], policies: Mapping[str, str], seed: int) -> Recipe:
    """A parsed YAML document.

    Args:
        document: with a merge_method.
        policies: of operators with several inputs, by field (see operators.policies).
        seed: of random draws.

    Raises:
        UsageError: something is missing, makes no sense, or is not supported, by its name.
    """
    return _Reader(document, policies, seed).recipe()


@dataclass
class _Reader:
    document: Mapping[str, Any]
    policies: Mapping[str, str]
    seed: int

    def __post_init__(self) -> None:
        self._addresses: list[str] = []
        self._notices: list[str] = []

    def recipe(self) -> Recipe:
        name = self.document["merge_method"]
        if not isinstance(name, str) or name not in METHODS:
            raise UsageError(
                f"merge_method {_shown(name)} is not supported",
                expected="one of " + ", ".join(sorted(METHODS)),
            )
        method = METHODS[name]
        self._keys(self.document, _KEYS, "the recipe")
        base = self.document.get("base_model")
        primary = None if base is None else self._model(base)
        slices = self._slices(method, primary)
        values = [self._part(method, each) for each in slices]
        self._tokenizer()
        # Where models lack a head, mergekit takes their embedding for it.
        policies = {"lm_head": "untie", **self.policies}
        operator = Merge(
            method=method.operator,
            parts=tuple(values),
            policies=policies,
            recipe=self._record(),
        )
        return Recipe(operator, tuple(self._addresses), self._dtype(), tuple(self._notices))

    def _slices(self, method: Method, base: int | None) -> list[Slice]:
        shared = self._parameters(self.document, method, "parameters")
        given = [key for key in ("models", "slices") if self.document.get(key)]
        if len(given) != 1:
            raise UsageError(
                "a recipe has either models or slices", got=" and ".join(given) or "neither"
            )
        entries = _list(self.document[given[0]], given[0])
        if given == ["models"]:
            sources = [
                self._source(entry, {"model", "parameters"}, method, f"models[{i}]", (shared,))
                for i, entry in enumerate(entries)
            ]
            if base is not None and base not in [source.model for source in sources]:
                sources.append(Source(base, 0, (shared,)))
            return [method.arranged(sources, base, None, (shared,), "models")]
        slices = []
        for number, entry in enumerate(entries):
            where = f"slices[{number}]"
            given_slice = _mapping(entry, where)
            self._keys(given_slice, {"sources", "base_model", "parameters"}, where)
            scopes = (self._parameters(given_slice, method, f"{where}.parameters"), shared)
            ours = given_slice.get("base_model")
            sources = [
                self._source(source, {"model", "layer_range", "parameters"}, method, name, scopes)
                for i, source in enumerate(_list(given_slice.get("sources"), f"{where}.sources"))
                for name in (f"{where}.sources[{i}]",)
            ]
            counts = {source.count or 0 for source in sources}
            if len(counts) > 1:
                raise UsageError(f"{where}: layer ranges of different lengths", got=sorted(counts))
            (count,) = counts
            own = base if ours is None else self._model(ours)
            slices.append(method.arranged(sources, own, count, scopes, where))
        return slices

    def _source(
        self, entry: Any, keys: set[str], method: Method, where: str, outer: tuple[Any, ...]
    ) -> Source:
        given = _mapping(entry, where)
        self._keys(given, keys, where)
        if "model" not in given:
            raise UsageError(f"{where} has no model")
        first, last = 0, None
        if "layer_range" in keys:
            bounds = given.get("layer_range")
            whole = isinstance(bounds, list) and [type(b) for b in bounds] == [int, int]
            if not whole or not 0 <= bounds[0] <= bounds[1]:  # type: ignore[index]
                raise UsageError(
                    f"{where}.layer_range", expected="[first, last + 1]", got=_shown(bounds)
                )
            first, last = bounds  # type: ignore[misc]
        own = self._parameters(given, method, f"{where}.parameters")
        model = self._model(given["model"])
        return Source(model, first, (own, *outer), None if last is None else last - first)

    def _parameters(self, entry: Mapping[str, Any], method: Method, where: str) -> Any:
        given = entry.get("parameters")
        parameters = {} if given is None else _mapping(given, where)
        for key in parameters:
            if key not in method.parameters:
                self._notices.append(f"{where}.{key} means nothing to the method: ignored")
        return parameters

    def _part(self, method: Method, given: Slice) -> Part:
        return Part(
            tuple(source.model for source in given.sources),
            tuple(source.first for source in given.sources),
            given.count,
            lambda places: method.values(given, places, self.seed),
        )

    def _model(self, reference: Any) -> int:
        """The number of the model among the inputs."""
        address = address_of(reference)
        if address not in self._addresses:
            self._addresses.append(address)
        return self._addresses.index(address)

    def _keys(self, entry: Mapping[str, Any], known: set[str], where: str) -> None:
        for key in entry:
            if key in _UNSUPPORTED:
                raise UsageError(f"{key} in {where} is not supported")
            if key not in known:
                self._notices.append(f"{printable(str(key))} in {where} is unknown: ignored")

    def _dtype(self) -> str | None:
        for key in ("out_dtype", "dtype"):
            name = self.document.get(key)
            if name is not None:
                found = ALIASES.get(str(name).lower().removeprefix("torch."))
                if found is None:
                    raise UsageError(
                        f"{key}: {_shown(name)}", expected="float32, float16 or bfloat16"
                    )
                return found
        return None

    def _tokenizer(self) -> None:
        """Raise UsageError unless the tokenizer is that of the first input, copied."""
        source = self.document.get("tokenizer_source")
        if source is None or source == "base":
            return
        if source != "union" and address_of(source) == self._addresses[0]:
            return
        named = [] if source == "union" else [address_of(source)]
        files = [Path(address) / FILE for address in {*self._addresses, *named}]
        if not all(file.is_file() for file in files) or len({f.read_bytes() for f in files}) > 1:
            raise UsageError(
                f"tokenizer_source: {_shown(source)} is not supported: the tokenizers differ, or "
                "are not known",
                expected="base, the first model, or models of one tokenizer",
                remedy="leave it out: the output has the tokenizer of the base or first model",
            )

    def _record(self) -> dict[str, Any]:
        """The recipe, with numbers for models: paths are not for published files."""

        def known(entry: Any) -> Any:
            if isinstance(entry, Mapping):
                models = ("model", "base_model")
                return {
                    str(k): f"model {self._model(v) + 1}" if k in models else known(v)
                    for k, v in entry.items()
                }
            return [known(item) for item in entry] if isinstance(entry, list) else entry

        kept = {k: v for k, v in self.document.items() if k in _KEYS - {"tokenizer_source"}}
        return {**known(kept), **({"seed": self.seed} if self.seed else {})}


def address_of(reference: Any) -> str:
    """Where a model is: a path if there is one of that name, else a repository on the Hub.

    Raises:
        UsageError: it is no model, or one with an adapter.
    """
    revision = None
    if isinstance(reference, Mapping):
        if unknown := reference.keys() - {"model", "path", "revision"}:
            raise UsageError(f"{printable(min(map(str, unknown)))} of a model is not supported")
        revision = reference.get("revision")
        reference = reference.get("path", reference.get("model"))
        if isinstance(reference, Mapping):
            return address_of(reference)
    if not isinstance(reference, str) or not reference:
        raise UsageError("not a model", got=_shown(reference))
    if Path(reference).exists() or "://" in reference:
        return reference
    if "+" in reference:
        raise UsageError(
            "model+adapter is not supported",
            got=printable(reference),
            remedy="graft adds an adapter to its model; name the result",
        )
    if reference.count("/") != 1 or reference.startswith((".", "/", "~")):
        return reference  # a path, and whoever opens it says that it is not there
    return f"hf://{reference}" + (f"@{revision}" if revision else "")


def _mapping(entry: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise UsageError(f"{where} is not a mapping", got=_shown(entry))
    return entry


def _list(entry: Any, where: str) -> Sequence[Any]:
    if not isinstance(entry, list) or not entry:
        raise UsageError(f"{where} is not a list", got=_shown(entry))
    return entry


def _shown(value: Any) -> str:
    return printable(repr(value), limit=80)
