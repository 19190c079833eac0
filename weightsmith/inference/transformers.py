"""What makes transformers load packed checkpoints: the quantizer and its config, registered here.

`import weightsmith` imports this module as soon as transformers looks for quantizers, and so does
the small file of code beside a packed checkpoint, where it is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from weightsmith.errors import InvalidFile, WeightsmithError
from weightsmith.tritplanes.encoding import (
    METHOD,
    Encoding,
    Int8Encoding,
    Quantization,
    TritEncoding,
)
from weightsmith.tritplanes.remote import REFERENCE as CODE_REFERENCE

if TYPE_CHECKING:
    from torch import nn

WEIGHT = ".weight"


@register_quantization_config(METHOD)
class PtqtpConfig(QuantizationConfigMixin):
    """The quantization_config of a packed checkpoint.

    Args:
        act: what the CPU's kernels round activations to: "int8", "int16" or "float32".
        record: what stands in config.json.
    """

    def __init__(self, act: str = "int16", **record: Any) -> None:
        record.pop("quant_method", None)
        self.quant_method = METHOD  # type: ignore[assignment]
        self.act = act
        self.record = {"quant_method": METHOD, **record}

    def to_dict(self) -> dict[str, Any]:
        """As it was read."""
        return dict(self.record)

    def to_diff_dict(self) -> dict[str, Any]:
        """All of it: nothing is a default."""
        return self.to_dict()

    def quantization(self) -> Quantization:
        """The tensors by name.

        Raises:
            InvalidFile: config.json describes no packed tensors.
        """
        try:
            return Quantization.parse(self.record)
        except ValueError as error:
            raise InvalidFile(f"quantization_config of config.json: {error}") from None


@register_quantizer(METHOD)
class PtqtpQuantizer(HfQuantizer):
    """Puts layers that compute with packed rows into a model that has no memory yet."""

    quantization_config: PtqtpConfig

    def validate_environment(self, *_arguments: Any, **_options: Any) -> None:
        """Refuse to quantise weights here: `weightsmith ptqtp` does that."""
        if not self.pre_quantized:
            raise WeightsmithError(
                "from_pretrained does not quantise", remedy="weightsmith ptqtp MODEL -o DIR"
            )

    def _process_model_before_weight_loading(self, model: Any, **_options: Any) -> None:
        tensors = self.quantization_config.quantization().tensors
        replace_layers(model, tensors, self.quantization_config.act)

    def _process_model_after_weight_loading(self, model: Any, **_options: Any) -> Any:
        from weightsmith.inference.linear import Int8Linear, PackedLayer

        layers: list[PackedLayer] = [m for m in model.modules() if isinstance(m, PackedLayer)]
        # A head that is tied to an embedding takes over what that has become.
        for layer in sorted(layers, key=lambda layer: isinstance(layer, Int8Linear)):
            layer.expand_rows()
        if any(isinstance(layer, Int8Linear) and layer.tied for layer in layers):
            _untie(model)
        _forget_code(model.config)
        return model

    def is_serializable(self, *_arguments: Any, **_options: Any) -> bool:
        """save_pretrained writes the packed rows again."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Trits have no gradient."""
        return False

    @property
    def is_compileable(self) -> bool:
        """The kernels are operators of torch."""
        return True


def _forget_code(config: Any) -> None:
    """What save_pretrained writes does not point to a file of ours that it would not write."""
    kept = {k: v for k, v in getattr(config, "auto_map", {}).items() if v != CODE_REFERENCE}
    if hasattr(config, "auto_map"):
        config.auto_map = kept
        if not kept:
            del config.auto_map
    config._auto_class = None  # noqa: SLF001


def replace_layers(model: Any, tensors: Mapping[str, Encoding], act: str) -> None:
    """Replace the linear layers and embeddings whose weights are packed.

    Raises:
        WeightsmithError: a packed tensor is no weight of such a layer; loading would go wrong.
    """
    import torch
    from torch import nn

    from weightsmith.inference.linear import Int8Embedding, Int8Linear, TernaryLinear

    dtype = model.dtype
    for name, encoding in tensors.items():
        path, layer = _layer(model, name)
        made: nn.Module | None = None
        with torch.device("meta"):
            if isinstance(layer, nn.Linear) and tuple(layer.weight.shape) == encoding.shape:
                if isinstance(encoding, TritEncoding):
                    made = TernaryLinear(encoding, act, layer.bias)
                else:
                    made = Int8Linear(encoding, act, layer.bias)
            elif isinstance(layer, nn.Embedding) and isinstance(encoding, Int8Encoding):
                made = Int8Embedding(encoding, dtype, layer.padding_idx)
        if made is None:
            raise WeightsmithError(
                "no layer runs these packed rows",
                tensor=name,
                expected="the weight of a linear layer or of an 8-bit embedding",
                got=type(layer).__name__ if layer is not None else "no such layer",
                remedy="weightsmith unpack makes the checkpoint dense",
            )
        model.set_submodule(path, made)
    _tie_head(model, act)


def _layer(model: Any, name: str) -> tuple[str, nn.Module | None]:
    """The path and the layer of a tensor; a model without its head leaves out the prefix."""
    path = name.removesuffix(WEIGHT)
    prefix = f"{model.base_model_prefix}."
    for candidate in (path, path.removeprefix(prefix)):
        try:
            return candidate, model.get_submodule(candidate)
        except AttributeError:
            continue
    return path, None


def _tie_head(model: Any, act: str) -> None:
    """A head tied to an 8-bit embedding multiplies with the same rows."""
    import torch
    from torch import nn

    from weightsmith.inference.linear import Int8Embedding, Int8Linear

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = model.config.get_text_config().tie_word_embeddings
    if not (tied and isinstance(embedding, Int8Embedding) and isinstance(head, nn.Linear)):
        return
    encoding = Int8Encoding((embedding.num_embeddings, embedding.embedding_dim), "F32")
    with torch.device("meta"):
        made = Int8Linear(encoding, act, head.bias, tied_to=embedding)
    path = next(name for name, layer in model.named_modules() if layer is head)
    model.set_submodule(path, made)


def _untie(model: Any) -> None:
    """Layers share their rows from here on; transformers has no weight left to tie."""
    model.all_tied_weights_keys = {}
    model._tied_weights_keys = {}  # noqa: SLF001
