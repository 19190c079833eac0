"""Four models of Llama's shape that any numpy makes alike, and the masks of their dare merges."""

from pathlib import Path

import numpy as np
from support import Tensors, from_bf16, to_bf16, write_directory
from weightsmith.kernels.draws.reference import draw_bits

from weightsmith.operators.dare import key_of

HERE = Path(__file__).resolve().parent
LAYERS, WIDTH, INNER, HEADS, KEYS, VOCABULARY = 3, 16, 24, 2, 1, 24
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEYS,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
NARROW = WIDTH // HEADS * KEYS
SHAPES = {
    "model.embed_tokens.weight": (VOCABULARY, WIDTH),
    **{
        f"model.layers.{layer}.{name}.weight": shape
        for layer in range(LAYERS)
        for name, shape in {
            "input_layernorm": (WIDTH,),
            "self_attn.q_proj": (WIDTH, WIDTH),
            "self_attn.k_proj": (NARROW, WIDTH),
            "self_attn.v_proj": (NARROW, WIDTH),
            "self_attn.o_proj": (WIDTH, WIDTH),
            "post_attention_layernorm": (WIDTH,),
            "mlp.gate_proj": (INNER, WIDTH),
            "mlp.up_proj": (INNER, WIDTH),
            "mlp.down_proj": (WIDTH, INNER),
        }.items()
    },
    "model.norm.weight": (WIDTH,),
    "lm_head.weight": (VOCABULARY, WIDTH),
}


def write_models(directory: Path) -> dict[str, Tensors]:
    """base/ and the models a/, b/ and c/ tuned from it, a fifth of its size away.

    base32/ and so on hold them unrounded: there no two changes of a tensor have one magnitude,
    where it would be left to mergekit's sorting which of them ties keeps.
    """
    # RandomState is frozen: the expected results were computed from these very numbers.
    base = {
        n: np.random.RandomState(i).standard_normal(s).astype(np.float32)
        for i, (n, s) in enumerate(SHAPES.items())
    }
    made = {}
    for seed, role in enumerate(("base", "a", "b", "c")):
        rng = np.random.RandomState(1000 + seed)
        tensors: Tensors = {}
        exact: Tensors = {}
        for name, shape in SHAPES.items():
            moved = 0.2 * rng.standard_normal(shape).astype(np.float32) if seed else 0
            tensors[name] = "BF16", shape, to_bf16(base[name] + moved).tobytes()
            exact[name] = "F32", shape, np.float32(base[name] + moved).tobytes()
        write_directory(directory / role, tensors, config=CONFIG)
        write_directory(directory / f"{role}32", exact, config=CONFIG)
        made[role] = tensors
    return made


def values(tensors: Tensors) -> dict[str, np.ndarray]:
    """bfloat16 tensors as float32 arrays."""
    return {name: from_bf16(data).reshape(shape) for name, (_, shape, data) in tensors.items()}


def masks(densities: tuple[float, ...]) -> dict[str, np.ndarray]:
    """What dare keeps with seed 0, by the number of the model and the tensor: 1 or 0."""
    result = {}
    for number, density in enumerate(densities):
        for name, shape in SHAPES.items():
            size = int(np.prod(shape))
            bits = np.empty((-(-size // 4096), 4096), np.uint32)
            draw_bits(bits, key_of(0, number, name), 0)
            kept = bits.reshape(-1)[:size] < round(density * 2**32)
            result[f"{number}/{name}"] = kept.reshape(shape).astype(np.float32)
    return result
