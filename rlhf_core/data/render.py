"""Turn messages into token ids. Chat templates are applied only here."""

from collections.abc import Iterable
from functools import partial

from transformers import PreTrainedTokenizerBase

from rlhf_core.data.special_tokens import encode_messages, encode_text
from rlhf_core.data.transcripts import Messages
from rlhf_core.errors import BadInput

# used if a tokenizer has no template: role tag, text, newline; an assistant's turn also ends in EOS
DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set DEFAULT_CHAT_TEMPLATE if the tokenizer has no template, so that it is saved with it.

    Raises BadInput if the tokenizer has no end-of-text token.
    """
    if tokenizer.eos_token_id is None:
        raise BadInput(
            f"the tokenizer in {tokenizer.name_or_path!r} has no end-of-text token; expected"
            " `eos_token` to be set, because responses end with it. Set it in the model's"
            " tokenizer_config.json."
        )
    if tokenizer.chat_template is None:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """Return the prompt as the model sees it, with the opening of the assistant's turn.

    Raises BadInput if the template refuses the messages, e.g. a role that it does not know.
    """
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception as error:
        # jinja raises several kinds, and templates raise their own texts
        roles = [message.get("role") for message in messages]
        raise BadInput(
            f"the model's chat template refuses messages with the roles {roles}: {error}"
        ) from error


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Return the token ids of the chat template over `messages`.

    They include the opening of the assistant's turn. A special token that a message spells stays
    text. Raises BadInput if the template refuses.
    """
    return encode_messages(tokenizer, messages, partial(prompt_text, tokenizer))


def render_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a response without special tokens, then EOS.

    A special token that the response spells stays text. load_tokenizer makes the template's end of
    turn the tokenizer's EOS.
    """
    return [*encode_text(tokenizer, text), tokenizer.eos_token_id]


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[int]:
    """Return the tokens in each text without special tokens, encoded as one batch."""
    texts = list(texts)
    if not texts:
        return []
    return [
        len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    ]


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Return a token as text, or its name in the vocabulary if it is part of a character."""
    text = tokenizer.decode([token])
    return (
        tokenizer.convert_ids_to_tokens(token)
        if not text or "\N{REPLACEMENT CHARACTER}" in text
        else text
    )
