"""What tensors are called in the model families, where names are all there is to go by."""

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


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a tensor name matches one of the globs."""
    return any(compile_glob(pattern).fullmatch(name) for pattern in patterns)
