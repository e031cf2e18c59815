"""From messages to token ids: the one place where a chat template is applied."""

from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from rlhf_core.errors import BadInput

Messages = list[dict[str, str]]

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""Used when a tokenizer brings no template: role tag, text, newline; an assistant's turn also ends with EOS."""


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set DEFAULT_CHAT_TEMPLATE when the tokenizer has none, so that it is saved with it; BadInput
    without EOS.
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
    """The prompt as the model sees it, up to and including the opening of the assistant's turn.

    Raises BadInput when the template refuses the messages, e.g. a role it does not know.
    """
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except (
        Exception
    ) as error:  # jinja raises several kinds, templates call raise_exception with their own words
        roles = [message.get("role") for message in messages]
        raise BadInput(
            f"the model's chat template refuses messages with the roles {roles}: {error}"
        ) from error


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Token ids of the chat template over `messages`, opening of the assistant's turn included;
    raises BadInput.
    """
    return tokenizer(prompt_text(tokenizer, messages), add_special_tokens=False)["input_ids"]


def render_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a response without special tokens, then EOS."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[int]:
    """Tokens in each text without special tokens, encoded as one batch."""
    texts = list(texts)
    if not texts:
        return []
    return [
        len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    ]


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token as text; where it is a part of a character, by its name in the vocabulary."""
    text = tokenizer.decode([token])
    return (
        tokenizer.convert_ids_to_tokens(token)
        if not text or "\N{REPLACEMENT CHARACTER}" in text
        else text
    )
