"""A model without its weights, whose layers get theirs one at a time."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightsmith.checkpoint.shard import PAGE
from weightsmith.checkpoint.source import Source
from weightsmith.dtypes import is_arithmetic
from weightsmith.errors import Mismatch, UsageError
from weightsmith.inference.model import read_config, require_transformers, told
from weightsmith.operators.unit import Block

if TYPE_CHECKING:
    from torch import Tensor, nn


class Layers:
    """The decoder layers of a causal language model, float32.

    Args:
        directory: where config.json is.
        source: where the weights are.

    Raises:
        UsageError: transformers is missing, or the model is not a plain stack of decoder layers
            whose matrices are all linear layers.
        Mismatch: the checkpoint's tensors are not the model's.
    """

    def __init__(self, directory: str | Path, source: Source) -> None:
        self._source = source
        self._model = _skeleton(directory)
        self._base: nn.Module = self._model.base_model
        self._prefix = _prefix(self._model, self._base)
        path, self._layers = _stack(self._base, self._model.config.num_hidden_layers, source.label)
        self._stack = f"{self._prefix}{path}."
        self._arguments: list[dict[str, Any]] = []
        for index in range(len(self._layers)):
            self._check(index)

    def __len__(self) -> int:
        return len(self._layers)

    def embed(self, ids: Tensor) -> Tensor:
        """What the first layer gets for token ids [n]: float32 [1, n, width].

        Whatever else the model hands its layers is kept for `run`; it depends on n alone.
        """
        import torch

        hidden: list[Tensor] = []
        arguments: list[dict[str, Any]] = []

        def record(states: Tensor, *rest: Any, **named: Any) -> Tensor:
            if rest:
                raise UsageError("the model hands its layers unnamed arguments")
            hidden.append(states)
            arguments.append(named)
            return states

        outer = {
            name: tensor
            for name, tensor in self._base.state_dict().items()
            if not (self._prefix + name).startswith(self._stack)
        }
        if any(tensor.is_meta for tensor in outer.values()):
            state = {name: self._read(self._prefix + name, t) for name, t in outer.items()}
            self._base.load_state_dict(state, strict=False, assign=True)
        for layer in self._layers:
            layer.forward = record
        try:
            with torch.inference_mode(), told(self._source.label):
                self._base(input_ids=ids[None], use_cache=False)
        finally:
            for layer in self._layers:
                del layer.forward
        self._arguments = arguments
        return hidden[0]

    def forget_embedding(self) -> None:
        """Give back the memory of all that is not a layer."""
        for name, child in self._base.named_children():
            if not self._stack.startswith(f"{self._prefix}{name}."):
                child.to("meta")

    def linears(self, index: int) -> dict[str, nn.Linear]:
        """The linear layers within a layer, by the names of their weights in the checkpoint."""
        from torch import nn

        return {
            f"{self._stack}{index}.{name}.weight": module
            for name, module in self._layers[index].named_modules()
            if isinstance(module, nn.Linear)
        }

    @contextmanager
    def resident(self, index: int, device: str) -> Iterator[None]:
        """Give a layer its weights for as long as the context lasts."""
        layer = self._layers[index]
        state = {
            name: self._read(f"{self._stack}{index}.{name}", tensor)
            for name, tensor in layer.state_dict().items()
        }
        layer.load_state_dict(state, strict=True, assign=True)
        layer.to(device)
        self._arguments[index] = _moved(self._arguments[index], device)
        try:
            yield
        finally:
            layer.to("meta")

    def run(self, index: int, states: Tensor) -> Tensor:
        """The output of a layer for its input [1, n, width]; a layer on meta only tells shapes."""
        import torch

        arguments = self._arguments[index]
        if states.is_meta:
            arguments = _moved(arguments, "meta")
        with torch.inference_mode():
            found = self._layers[index](states, **arguments)
        result: Tensor = found[0] if isinstance(found, tuple) else found
        return result

    def _check(self, index: int) -> None:
        """All tensors of a layer are there, and every matrix belongs to a linear layer."""
        layer, linear = self._layers[index], self.linears(index)
        for name, tensor in layer.state_dict().items():
            full = f"{self._stack}{index}.{name}"
            if tensor.dim() > 1 and full not in linear:
                raise UsageError(
                    "only linear layers can be calibrated",
                    file=self._source.label,
                    tensor=full,
                    expected="a weight of torch.nn.Linear",
                    got=f"a tensor of {tensor.dim()} dimensions, such as fused experts or a "
                    "transposed layer",
                )
            self._spec(full, tensor)

    def _spec(self, name: str, tensor: Tensor) -> Any:
        spec = self._source.header.by_name.get(name)
        shape = tuple(tensor.shape)
        if spec is None or spec.shape != shape or not is_arithmetic(spec.dtype):
            raise Mismatch(
                "the checkpoint does not fit its config.json",
                file=self._source.label,
                tensor=name,
                expected=f"floating-point numbers {list(shape)}",
                got="no such tensor" if spec is None else f"{spec.dtype} {list(spec.shape)}",
            )
        return spec

    def _read(self, name: str, like: Tensor) -> Tensor:
        import torch

        spec = self._spec(name, like)
        area = memoryview(mmap.mmap(-1, spec.nbytes + 2 * PAGE))
        data = self._source.read(name, 0, spec.nbytes, area)
        return torch.from_numpy(Block(spec.dtype, data, spec.shape).float32())


def _skeleton(directory: str | Path) -> Any:
    read_config(directory)
    transformers = require_transformers()
    try:
        from accelerate import init_empty_weights
    except ImportError:
        raise UsageError(
            "this needs accelerate", remedy="python -m pip install 'weightsmith[calibrate]'"
        ) from None

    with told(str(directory)), init_empty_weights(include_buffers=False):
        config = transformers.AutoConfig.from_pretrained(str(directory), local_files_only=True)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def _prefix(model: nn.Module, base: nn.Module) -> str:
    (name,) = (name for name, module in model.named_modules() if module is base)
    return f"{name}." if name else ""


def _stack(base: nn.Module, count: int, label: str) -> tuple[str, Any]:
    from torch import nn

    found = [
        (name, module)
        for name, module in base.named_children()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if len(found) != 1:
        raise UsageError("the model is not one stack of decoder layers", file=label)
    return found[0]


def _moved(value: Any, device: str) -> Any:
    """A copy of nested arguments with their tensors on another device."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(each, device) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_moved(each, device) for each in value)
    return value
