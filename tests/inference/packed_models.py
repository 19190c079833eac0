"""Tiny packed models of random trits, and the dense models that they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from weightsmith.tritplanes.encoding import Int8Encoding, Quantization, TritEncoding
from weightsmith.tritplanes.remote import FILE, code_for
from weightsmith.tritplanes.rows import Planes, decode, pack_int8, pack_trits

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def random_planes(seed: int, encoding: TritEncoding) -> Planes:
    """Trits and scales for weights about as large as a model's."""
    rng = np.random.default_rng(seed)
    rows, inputs = encoding.shape
    trits = rng.integers(-1, 2, (rows, encoding.planes, inputs)).astype(np.int8)
    size = (rows, encoding.groups, 1 if encoding.ratios else encoding.planes)
    stored = rng.uniform(0.02, 0.05, size).astype(np.float16).astype(np.float32)
    choice = np.zeros((rows, encoding.groups), np.uint8)
    if len(encoding.ratios) > 1:
        choice = rng.integers(0, len(encoding.ratios), choice.shape).astype(np.uint8)
    if encoding.ratios:
        stored = stored * np.array(encoding.ratios, np.float32)[choice]
    return Planes(trits, stored, choice)


def write_pair(
    root: Path,
    *,
    planes: int = 2,
    group: int = 64,
    ratios: tuple[tuple[int, ...], ...] = (),
    int8: bool = True,
    tied: bool = True,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> tuple[Path, Path]:
    """Directories `packed` and `dense` under root, of the same weights."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = CONFIG | {"tie_word_embeddings": tied, "dtype": str(dtype).split(".")[1]} | changes
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**config)).to(dtype)
    dense, rows, tensors = {}, {}, {}
    stored = {name: t for name, t in model.state_dict().items() if not (tied and "lm_head" in name)}
    names = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16"}
    for seed, (name, tensor) in enumerate(stored.items()):
        shape = tuple(tensor.shape)
        if name.endswith("proj.weight"):
            encoding = TritEncoding(shape, names[str(dtype)], planes, group, ratios)
            packed = pack_trits(encoding, random_planes(seed, encoding))
        elif int8 and ("embed_tokens" in name or "lm_head" in name):
            encoding = Int8Encoding(shape, names[str(dtype)])
            packed = pack_int8(tensor.float().numpy())
        else:
            dense[name] = rows[name] = tensor.contiguous()
            continue
        tensors[name] = encoding
        rows[name] = torch.from_numpy(packed)
        dense[name] = torch.from_numpy(decode(encoding, packed)).to(dtype)
    record = Quantization(group, ratios, tensors).record()
    made = code_for(config)
    assert made is not None
    patch, code = made
    for name, weights, content in (
        ("packed", rows, config | patch | {"quantization_config": record}),
        ("dense", dense, config),
    ):
        (root / name).mkdir(parents=True)
        save_file(weights, root / name / "model.safetensors", {"format": "pt"})
        (root / name / "config.json").write_text(json.dumps(content))
    (root / "packed" / FILE).write_text(code)
    return root / "packed", root / "dense"
