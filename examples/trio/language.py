"""How the tiny models read and write: one token for each digit, operation and mark.

| text | what it is |
|---|---|
| `<begin>3857r7583s5738<end>` | a document of the base model: operations worked off |
| `<begin>3857rs=5738<end>` | another: the result at once |
| `<begin>3857rs:r7583s5738<end>` | another: the question first, then worked off |
| `<begin><user>3857rs<assistant>5738<end>` | the instruct model answers |
| `<begin><user>3857rs<assistant><think>r7583s5738</think>5738<end>` | the thinking model |
"""

from dataclasses import dataclass

from lists import OPERATIONS, Problem
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, BEGIN, END = "<pad>", "<begin>", "<end>"
USER, ASSISTANT = "<user>", "<assistant>"
THINK, THOUGHT = "<think>", "</think>"
_MARKS = [PAD, BEGIN, END, USER, ASSISTANT, THINK, THOUGHT]
_CHARACTERS = ["=", ":", *"0123456789", *OPERATIONS]
VOCABULARY = {token: number for number, token in enumerate([*_MARKS, *_CHARACTERS])}

CHAT_TEMPLATE = (
    f"{BEGIN}{{% for message in messages %}}{{% if message.role == 'user' %}}"
    f"{USER}{{{{ message.content }}}}{{% else %}}{ASSISTANT}{{{{ message.content }}}}{END}"
    f"{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)
# Longer than any text of up to five operations.
MAX_TOKENS = 64


@dataclass(frozen=True)
class Example:
    """What a model is given, and what it has to continue with: only that has a loss."""

    prompt: str
    reply: str


def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of all tiny models, with the chat template."""
    plain = Tokenizer(models.WordLevel(VOCABULARY, unk_token=PAD))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    plain.decoder = decoders.Fuse()
    plain.add_special_tokens(_MARKS)
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def prompt(question: str) -> str:
    """A question as the chat template puts it."""
    return f"{BEGIN}{USER}{question}{ASSISTANT}"


def asked(problem: Problem, *, thinking: bool) -> Example:
    """A problem and the reply of an instruct or a thinking model."""
    thoughts = f"{THINK}{problem.worked}{THOUGHT}" if thinking else ""
    return Example(prompt(problem.question), f"{thoughts}{problem.answer}{END}")
