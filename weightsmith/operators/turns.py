"""What a rotation does to each tensor of a decoder whose residual stream and values it turns.

With a rotation Q of the stream, R of the values of a layer (blockwise, one block for each head),
and g the gain of the norm that a layer reads through, as they stand in the checkpoint ([out, in]):

    embedding        E Q
    reader           W diag(g) Q            query, key, gate, up, head
    value            R^T W diag(g) Q        bias R^T b
    output           Q^T W R                bias Q^T b
    writer           Q^T W                  down; bias Q^T b
    norm             1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from weightsmith.dtypes import is_arithmetic
from weightsmith.errors import Mismatch, UsageError
from weightsmith.families import DECODERS, Decoder
from weightsmith.header import TensorSpec
from weightsmith.operators.configuration import config_of
from weightsmith.operators.operator import InputView
from weightsmith.rotation import Rotation

_CONSTANTS = ".rotary_emb.inv_freq"  # old checkpoints have them


@dataclass(frozen=True)
class Turn:
    """left^T W diag(gain) right, or ones.

    Attributes:
        left: turns the output channels; a bias has no others.
        right: turns the input channels.
        gain: the norm whose gain is folded into the input channels.
        ones: the tensor is a gain that is folded elsewhere.
    """

    left: Rotation | None = None
    right: Rotation | None = None
    gain: str | None = None
    ones: bool = False


@dataclass(frozen=True)
class Anatomy:
    """What a model's config.json says of its shape.

    Attributes:
        family: what its modules are called.
        label: how messages call the checkpoint.
        layers: their number.
        width: channels of the residual stream.
        head: channels of a head.
        heads, values: numbers of query heads and of key and value heads.
        tied: whether the output head is the embedding.
    """

    family: Decoder
    label: str
    layers: int
    width: int
    head: int
    heads: int
    values: int
    tied: bool

    @classmethod
    def of(cls, view: InputView) -> Anatomy:
        """Read it.

        Raises:
            UsageError: no config.json, an unknown family, or sizes that make no sense.
        """
        if view.config is None:
            raise UsageError(
                "the model's config.json is not known",
                file=view.label,
                remedy="give the model as its directory, or by a pipe on this machine",
            )
        config = config_of(view)
        kind = config.get("model_type")
        family = DECODERS.get(kind) if isinstance(kind, str) else None
        if family is None:
            raise UsageError(
                "no table says which tensors of this family read and write its residual stream",
                file=view.label,
                expected=f"a model_type of {', '.join(sorted(DECODERS))}",
                got=kind,
            )
        heads = _size(config, "num_attention_heads", view.label)
        width = _size(config, "hidden_size", view.label)
        values = _size(config, "num_key_value_heads", view.label, heads)
        if heads % values:
            raise UsageError(f"{heads} heads cannot share {values} keys", file=view.label)
        return cls(
            family,
            view.label,
            _size(config, "num_hidden_layers", view.label),
            width,
            _size(config, "head_dim", view.label, width // heads),
            heads,
            values,
            config.get("tie_word_embeddings") is True,
        )

    def turns(self, specs: Mapping[str, TensorSpec], seed: int) -> dict[str, Turn | None]:
        """The turn of every tensor, and of the head that a tied model lacks; None: as it is.

        Raises:
            Mismatch: a tensor is missing, has another shape or dtype, or is not the family's.
        """
        found: dict[str, Turn | None] = {}
        for part in self._parts(seed):
            spec = specs.get(part.name)
            if spec is not None:
                self._check(part, spec)
                found[part.name] = part.turn
            elif part.required:
                raise Mismatch("the model lacks a tensor", file=self.label, tensor=part.name)
        head = f"{self.family.head}.weight"
        if self.tied and head in found:
            raise Mismatch(
                "config.json ties the head to the embedding, yet it has a tensor of its own",
                file=self.label,
                tensor=head,
                remedy="cat --exclude leaves the tensor out; or correct tie_word_embeddings",
            )
        for name in specs:
            if name not in found and not name.endswith(_CONSTANTS):
                raise Mismatch(
                    "a tensor that is not known in this family: it might read the stream",
                    file=self.label,
                    tensor=name,
                )
            found.setdefault(name, None)
        if self.tied:
            found[head] = self._head(seed)
        return found

    def _head(self, seed: int) -> Turn:
        return Turn(right=self._stream(seed), gain=f"{self.family.norm}.weight")

    def _stream(self, seed: int) -> Rotation:
        return Rotation(self.width, seed, "stream")

    def _parts(self, seed: int) -> Iterator[_Part]:
        family, stream, width = self.family, self._stream(seed), self.width
        yield _Part(f"{family.embedding}.weight", Turn(right=stream), (None, width))
        yield _Part(f"{family.norm}.weight", Turn(ones=True), (width,))
        yield _Part(f"{family.head}.weight", self._head(seed), (None, width), not self.tied)
        for index in range(self.layers):
            yield from self._layer(family.layer.format(index), seed)

    def _layer(self, prefix: str, seed: int) -> Iterator[_Part]:
        family, stream, width = self.family, self._stream(seed), self.width
        label = f"{prefix}{family.value}"
        values = Rotation(self.head, seed, label, self.values)
        outputs = Rotation(self.head, seed, label, self.values, self.heads // self.values)
        for norm, readers in family.readers.items():
            gain = f"{prefix}{norm}.weight"
            yield _Part(gain, Turn(ones=True), (width,))
            for reader in readers:
                left = values if reader == family.value else None
                rows = left.width if left else None
                yield _Part(f"{prefix}{reader}.weight", Turn(left, stream, gain), (rows, width))
                bias = Turn(left) if left else None
                yield _Part(f"{prefix}{reader}.bias", bias, (rows,), required=False)
        for writer in family.writers:
            right = outputs if writer == family.output else None
            columns = right.width if right else None
            yield _Part(f"{prefix}{writer}.weight", Turn(stream, right), (width, columns))
            yield _Part(f"{prefix}{writer}.bias", Turn(stream), (width,), required=False)
        for norm in family.inner:
            yield _Part(f"{prefix}{norm}.weight", None, (None,), required=False)

    def _check(self, part: _Part, spec: TensorSpec) -> None:
        fits = len(spec.shape) == len(part.shape) and all(
            want in (None, got) for want, got in zip(part.shape, spec.shape, strict=True)
        )
        if not fits or not is_arithmetic(spec.dtype):
            shown = " x ".join("any" if n is None else str(n) for n in part.shape)
            raise Mismatch(
                "the tensor cannot be rotated",
                file=self.label,
                tensor=part.name,
                expected=f"float32, float16 or bfloat16 of {shown}",
                got=spec,
            )


@dataclass(frozen=True)
class _Part:
    """A tensor that a model of the family has, or may have."""

    name: str
    turn: Turn | None
    shape: tuple[int | None, ...]
    required: bool = True


def _size(config: Mapping[str, Any], key: str, label: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise UsageError(f"config.json has no {key}", file=label, got=value)
    return value
