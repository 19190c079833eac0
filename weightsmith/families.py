"""What tensors are called in the model families, where names are all there is to go by."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

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
# Families whose linear layers are stored [in, out].
TRANSPOSED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
VOCABULARY = (*EMBEDDINGS, *HEADS, "*lm_head.bias", "*final_logits_bias")

# Weights of attention and MLP, [out, in] where the family is not in TRANSPOSED.
LINEARS = (
    "*.{q,k,v,o,qkv,gate,up,down,gate_up,out}_proj.weight",
    "*.{q_a,q_b,kv_a,kv_b,o_a,o_b}_proj.weight",
    "*.kv_a_proj_with_mqa.weight",
    "*.{wq,wk,wv,wo,wqkv,w1,w2,w3,W_pack,fc1,fc2}.weight",
    "*.{query_key_value,dense,dense_h_to_4h,dense_4h_to_h,c_attn,c_proj,c_fc}.weight",
)
# Experts in one tensor, and the families that store them [experts, out, in].
FUSED_EXPERTS = ("*.experts.gate_up_proj", "*.experts.{gate,up,down}_proj")
EXPERTS_OUT_IN = frozenset(
    {
        *("deepseek_v2", "deepseek_v3", "dots1", "ernie4_5_moe", "glm4_moe", "hunyuan_v1_moe"),
        *("minimax", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_moe", "qwen3_next"),
    }
)
# What is [experts, in, out] in the checkpoints of these families, and gate and up side by side.
EXPERTS_IN_OUT = frozenset({"llama4", "llama4_text", "qwen3_vl_moe", "qwen3_vl_moe_text"})
# Families whose fused gate and up take turns, channel by channel.
EXPERTS_INTERLEAVED = frozenset({"gpt_oss", "openai_privacy_filter"})
# Gate, up and down of an expert; those of the second kind lie in block_sparse_moe, fused in mlp.
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
MIXTRAL_PROJECTIONS = ("w1", "w3", "w2")
MIXTRAL_NAMES = frozenset({"minimax", "mixtral", "phimoe"})
ROUTERS = ("*.gate.weight", "*router*", "*.shared_expert_gate.weight")
# Parts of multimodal models that are not the language model.
TOWERS = ("*vision*", "*visual*", "*audio*", "*multi_modal_projector*")


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a tensor name matches one of the globs."""
    return any(compile_glob(pattern).fullmatch(name) for pattern in patterns)


@dataclass(frozen=True)
class Decoder:
    """Where a family of pre-norm decoders keeps what reads and writes the residual stream.

    Names are those of modules; `layer` is a format with the number of the layer, and the names
    after it stand below it.

    Attributes:
        embedding, head, norm: outside the layers.
        layer: the prefix of a layer.
        readers: by the norm that they read through.
        writers: add to the stream.
        value, output: the two linear layers that values pass through, head by head.
        inner: norms within heads, which neither read nor write the stream.
    """

    embedding: str
    head: str
    norm: str
    layer: str
    readers: Mapping[str, tuple[str, ...]]
    writers: tuple[str, ...]
    value: str
    output: str
    inner: tuple[str, ...] = ()


_LLAMA = Decoder(
    embedding="model.embed_tokens",
    head="lm_head",
    norm="model.norm",
    layer="model.layers.{}.",
    readers={
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    },
    writers=("self_attn.o_proj", "mlp.down_proj"),
    value="self_attn.v_proj",
    output="self_attn.o_proj",
)
# By model_type. Sliding windows and biases change nothing here.
DECODERS: Mapping[str, Decoder] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": replace(_LLAMA, inner=("self_attn.q_norm", "self_attn.k_norm")),
}


_LAYER = re.compile(r"\.([0-9]{1,9})\.")


def layer_of(name: str) -> int | None:
    """The layer that a tensor belongs to: the first number in its name.

    >>> layer_of("model.layers.3.mlp.experts.7.up_proj.weight")
    3
    """
    found = _LAYER.search(name)
    return int(found[1]) if found else None
