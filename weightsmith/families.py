"""What tensors are called in the model families, where names are all there is to go by."""

import re

from weightsmith.selection import compile_glob

EMBEDDINGS = (
    "*embed_tokens.weight",
    "*wte.weight",
    "*word_embeddings.weight",
    "*embed_in.weight",
    "*tok_embeddings.weight",
    "shared.weight",
)
HEADS = ("*lm_head.weight", "*embed_out.weight", "output.weight")
POSITIONS = ("*wpe.weight", "*position_embeddings.weight", "*embed_positions.weight")
ROUTERS = ("*.gate.weight", "*router*", "*shared_expert_gate.weight")
CONVOLUTIONS = ("*conv1d.weight", "*.conv.weight")
# Families whose linear layers are stored [in, out].
TRANSPOSED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
VOCABULARY = (*EMBEDDINGS, *HEADS, "*lm_head.bias", "*final_logits_bias")


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a tensor name matches one of the globs."""
    return any(compile_glob(pattern).fullmatch(name) for pattern in patterns)


def why_no_projection(name: str, shape: tuple[int, ...]) -> str:
    """What a tensor is if it is not the weight of a linear projection; empty if it is."""
    if len(shape) < 2:
        return "a vector"
    kinds = {
        "an embedding or a head": (*VOCABULARY, *POSITIONS),
        "a router": ROUTERS,
        "a convolution": CONVOLUTIONS,
    }
    return next((kind for kind, patterns in kinds.items() if matches(name, patterns)), "")


_LAYER = re.compile(r"\.([0-9]{1,9})\.")


def layer_of(name: str) -> int | None:
    """The layer that a tensor belongs to: the first number in its name.

    >>> layer_of("model.layers.3.mlp.experts.7.up_proj.weight")
    3
    """
    found = _LAYER.search(name)
    return int(found[1]) if found else None
