"""Load the tokenizer of a model folder, ready to render dialogues."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf_core.data.chat_template import ensure_chat_template
from rlhf_core.data.end_of_turn import set_end_of_turn
from rlhf_core.errors import BadInput


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load a model folder's tokenizer, with a chat template.

    Its eos_token is the token with which the template ends an assistant's turn. Raises BadInput
    without EOS token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path} has no usable tokenizer ({error}); expected tokenizer files beside the model"
        ) from None
    if tokenizer.eos_token_id is None:
        raise BadInput(
            f"the tokenizer of {path} has no EOS token; set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    ensure_chat_template(tokenizer)
    set_end_of_turn(tokenizer)
    return tokenizer


def require_same_tokenizer(path: Path, other: Path, role: str) -> None:
    """Raise BadInput when two models map text to other token ids, or end a turn with other tokens.

    role: that of the other model.
    """
    own, others = load_tokenizer(path), load_tokenizer(other)
    if own.get_vocab() == others.get_vocab() and own.eos_token_id != others.eos_token_id:
        raise BadInput(
            f"the {role} ({other}) ends a turn with {others.eos_token!r}, the policy ({path}) with"
            f" {own.eos_token!r}; expected the same token. Give both the same chat template, or the"
            " same eos_token where the template writes none."
        )
    if own.get_vocab() != others.get_vocab():
        raise BadInput(
            f"the {role} ({other}) has another tokenizer than the policy ({path}); expected the"
            " same token ids. Train it from this base model; a champion of another base model"
            " belongs under another registry.name."
        )
