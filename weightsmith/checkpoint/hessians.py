"""The file that `calibrate` writes: second moments of what the linear layers of a model get.

One float32 matrix [in, in] for each distinct input; `weightsmith.hessians` in the metadata says
which weight belongs to which. docs/calibrate.md specifies it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from weightsmith.errors import InvalidFile
from weightsmith.header import Header, TensorSpec

FILE = "hessians.safetensors"
HESSIANS = "weightsmith.hessians"
VERSION = 1


@dataclass(frozen=True)
class HessianRecord:
    """What is known of the matrices of a file.

    Attributes:
        model: fingerprint of the model that ran, "sampled:" and a hash.
        chain: what the same model is known by as a stream.
        text: SHA-256 of the text file.
        tokens: how many tokens each matrix is a mean over.
        window: tokens in a window.
        seed: that of the choice of windows.
        weights: the matrix of each weight, by tensor names.
    """

    model: str
    chain: str
    text: str
    tokens: int
    window: int
    seed: int
    weights: Mapping[str, str]

    def encode(self) -> str:
        """The value of the metadata's entry."""
        return json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def of(cls, header: Header, label: object) -> "HessianRecord":
        """The record in a header.

        Raises:
            InvalidFile: no such record, one of another version, or one that the tensors belie.
        """
        try:
            content: dict[str, Any] = json.loads(header.metadata.get(HESSIANS, ""))
            version = content.pop("version")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InvalidFile(
                "no statistics of calibrate", file=label, remedy="weightsmith calibrate makes them"
            ) from None
        if version != VERSION:
            raise InvalidFile(
                "statistics of an unknown version", file=label, expected=VERSION, got=repr(version)
            )
        try:
            record = cls(**content)
            right = _sound(record)
        except (TypeError, AttributeError):
            right = False
        if not right:
            raise InvalidFile("the record of the statistics is damaged", file=label)
        for weight, name in record.weights.items():
            spec = header.by_name.get(name)
            if spec is None or not _is_hessian(spec):
                raise InvalidFile(
                    "the statistics have no such matrix",
                    file=label,
                    tensor=name,
                    expected=f"float32 [in, in] for {weight}",
                    got=spec,
                )
        return record


def _sound(record: HessianRecord) -> bool:
    texts = (record.model, record.chain, record.text, *record.weights, *record.weights.values())
    numbers = (record.tokens, record.window, record.seed)
    return all(isinstance(text, str) for text in texts) and all(type(n) is int for n in numbers)


def _is_hessian(spec: TensorSpec) -> bool:
    return spec.dtype == "F32" and len(spec.shape) == 2 and spec.shape[0] == spec.shape[1]
