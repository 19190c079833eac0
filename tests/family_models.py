"""A tiny random checkpoint of every family, through transformers' own config and model classes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from models import SIZES, tokenizer

EXPERTS = {
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}


@dataclass(frozen=True)
class Family:
    """How a family is made and loaded.

    Attributes:
        kind: its model_type.
        sizes: what its configuration wants besides SIZES.
        loader: the class that loads it.
        multimodal: whether SIZES describe the language model only.
    """

    kind: str
    sizes: dict[str, Any] = field(default_factory=dict)
    loader: str = "AutoModelForCausalLM"
    multimodal: bool = False

    def config(self) -> Any:
        """The configuration of a tiny model."""
        if not self.multimodal:
            return transformers.AutoConfig.for_model(self.kind, **(SIZES | self.sizes))
        text = SIZES | self.sizes.get("text_config", {})
        given = self.sizes | {"text_config": text}
        return transformers.AutoConfig.for_model(self.kind, **given)

    def write(self, directory: Path, seed: int) -> Path:
        """A checkpoint in bfloat16, as save_pretrained lays it out."""
        torch.manual_seed(seed)
        loader = getattr(transformers, self.loader)
        model = loader.from_config(self.config(), dtype=torch.bfloat16)
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(0, 0.05)
        model.save_pretrained(directory)
        tokenizer().save_pretrained(directory)
        return directory

    def load(self, directory: Path) -> Any:
        """The model; every key of it is in the checkpoint, and the other way round."""
        loader = getattr(transformers, self.loader)
        model, found = loader.from_pretrained(directory, output_loading_info=True)
        assert not any(found.values()), found
        return model


VISION = {
    "depth": 1,
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "num_attention_heads": 2,
    "out_hidden_size": 48,
    "patch_size": 14,
    "image_size": 28,
}
FAMILIES = {
    family.kind: family
    for family in (
        Family("llama"),
        Family("mistral"),
        Family("qwen3", {"tie_word_embeddings": True}),
        Family("qwen3_moe", EXPERTS | {"decoder_sparse_step": 1}),
        Family("mixtral", EXPERTS),
        Family("minimax", EXPERTS),
        Family("phimoe", EXPERTS),
        Family("llama4_text", EXPERTS | {"intermediate_size_mlp": 64}),
        Family("gemma3_text", {"tie_word_embeddings": True}),
        Family(
            "deepseek_v3",
            EXPERTS
            | {
                "q_lora_rank": 16,
                "kv_lora_rank": 16,
                "qk_rope_head_dim": 8,
                "qk_nope_head_dim": 8,
                "head_dim": 8,
                "v_head_dim": 8,
                "n_group": 1,
                "topk_group": 1,
                "num_key_value_heads": 4,
                "first_k_dense_replace": 1,
            },
        ),
        Family(
            "gemma3",
            {"vision_config": VISION, "mm_tokens_per_image": 4, "tie_word_embeddings": True},
            "AutoModelForImageTextToText",
            multimodal=True,
        ),
        Family(
            "qwen2_5_vl",
            {
                "vision_config": VISION,
                "text_config": {
                    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}
                },
            },
            "AutoModelForImageTextToText",
            multimodal=True,
        ),
    )
}
