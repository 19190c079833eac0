"""Write synthetic checkpoints in Llama's layout, of any depth, in shards of at most 1 GB.

The weights are bfloat16 noise of a realistic size. A second seed adds a small change to the same
noise, as a fine-tune would. Every piece of a checkpoint starts elsewhere in that noise, so that a
misplaced piece shows.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from weightsmith.kernels import elementwise

from weightsmith.checkpoint.layout import INDEX, shard_by_size
from weightsmith.header import Header, TensorSpec

BLOCK = 1 << 22
STRIDE = 2 * 99991  # bytes between the starts of two pieces that follow each other


class Sizes(NamedTuple):
    """The widths of a model; `tied` is one whose embedding is its head."""

    hidden: int
    mlp: int
    key_value: int
    vocabulary: int
    tied: bool = False


LLAMA = Sizes(2048, 8192, 512, 128256)  # of Llama-3.2-1B, but not tied


def specs(layers: int, sizes: Sizes = LLAMA) -> Iterator[TensorSpec]:
    """The tensors of a Llama of this depth: 16 layers are 147 tensors of 2.997 GB."""
    hidden, mlp, key_value, vocabulary, tied = sizes
    yield TensorSpec("model.embed_tokens.weight", "BF16", (vocabulary, hidden))
    for layer in range(layers):
        shapes = {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, mlp),
            "mlp.gate_proj": (mlp, hidden),
            "mlp.up_proj": (mlp, hidden),
            "post_attention_layernorm": (hidden,),
            "self_attn.k_proj": (key_value, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.v_proj": (key_value, hidden),
        }
        for name, shape in shapes.items():
            yield TensorSpec(f"model.layers.{layer}.{name}.weight", "BF16", shape)
    yield TensorSpec("model.norm.weight", "BF16", (hidden,))
    if not tied:
        yield TensorSpec("lm_head.weight", "BF16", (vocabulary, hidden))


def write(directory: Path, layers: int, seed: int, shard_size: int = 10**9) -> None:
    """Write a checkpoint directory with config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    layout = shard_by_size(Header(tuple(specs(layers)), {"format": "pt"}), shard_size)
    common = np.random.default_rng(0).standard_normal(BLOCK, np.float32) * np.float32(0.02)
    own = np.random.default_rng(seed).standard_normal(BLOCK, np.float32) * np.float32(0.001)
    block = np.empty(BLOCK * 2, np.uint8)
    elementwise.cast(block, "BF16", (common + own).view(np.uint8), "F32")
    noise = np.concatenate((block, block))
    begin = 0
    for name, header in layout.files:
        with (directory / name).open("wb") as file:
            file.write(header.encode())
            for spec in header.tensors:
                for start in range(0, spec.nbytes, block.nbytes):
                    end = begin + min(block.nbytes, spec.nbytes - start)
                    file.write(noise[begin:end].data)
                    begin = (begin + STRIDE) % block.nbytes
    if layout.index is not None:
        (directory / INDEX).write_text(layout.index)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": LLAMA.hidden,
        "intermediate_size": LLAMA.mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": LLAMA.vocabulary,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
