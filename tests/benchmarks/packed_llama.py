"""Write a packed Llama of random trits, to measure speed and memory with; it says nothing sensible.

Usage: packed_llama.py DIR [--layers N] [--planes K]

The shapes are those of Llama-3.2-1B: 1.24 billion weights, an embedding that is also the head.
`weightsmith unpack DIR -o DENSE` writes its dense parent.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from weightsmith.tritplanes.encoding import Int8Encoding, Quantization, TritEncoding
from weightsmith.tritplanes.rows import Planes, pack_int8, pack_trits

HIDDEN, INNER, VOCABULARY, HEAD, HEADS, KEYS = 2048, 8192, 128256, 64, 32, 8
GROUP = 128


def main() -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--planes", type=int, default=2)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    shapes = {
        "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
        "self_attn.k_proj": (KEYS * HEAD, HIDDEN),
        "self_attn.v_proj": (KEYS * HEAD, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    embedding = Int8Encoding((VOCABULARY, HIDDEN), "BF16")
    rows = rng.standard_normal((VOCABULARY, HIDDEN), np.float32) * np.float32(0.02)
    name = "model.embed_tokens.weight"
    tensors = {name: torch.from_numpy(pack_int8(rows))}
    encodings: dict[str, TritEncoding | Int8Encoding] = {name: embedding}
    norms = ["model.norm"]
    for layer in range(options.layers):
        norms += [f"model.layers.{layer}.{n}_layernorm" for n in ("input", "post_attention")]
        for part, shape in shapes.items():
            encoding = TritEncoding(shape, "BF16", options.planes, GROUP)
            trits = rng.integers(-1, 2, (shape[0], options.planes, shape[1]), np.int8)
            size = (shape[0], encoding.groups, options.planes)
            scales = rng.uniform(0.01, 0.02, size).astype(np.float16).astype(np.float32)
            planes = Planes(trits, scales, np.zeros(size[:2], np.uint8))
            name = f"model.layers.{layer}.{part}.weight"
            encodings[name] = encoding
            tensors[name] = torch.from_numpy(pack_trits(encoding, planes))
    tensors |= {f"{norm}.weight": torch.ones(HIDDEN, dtype=torch.bfloat16) for norm in norms}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": options.layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS,
        "head_dim": HEAD,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "quantization_config": Quantization(GROUP, (), encodings).record(),
    }
    options.directory.mkdir(parents=True)
    save_file(tensors, options.directory / "model.safetensors", {"format": "pt"})
    (options.directory / "config.json").write_text(json.dumps(config, indent=2))


if __name__ == "__main__":
    main()
