"""The chat template of a tokenizer: the default one, and the beginning of text that it writes."""

from transformers import PreTrainedTokenizerBase

from rlhf_core.data.tool_use import split_tools
from rlhf_core.data.transcripts import Messages
from rlhf_core.errors import BadInput
from rlhf_core.template_date import freeze_date

# used if a tokenizer has no template: role tag, text, newline; EOS right after an assistant's text
DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
WRITE_BOS = "{{ bos_token }}"
_OTHER_CALL = [{"type": "function", "function": {"name": "other", "arguments": {}}}]
ASKED = {"role": "user", "content": "Is it so?"}


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer DEFAULT_CHAT_TEMPLATE if it has none, so that it is saved with it.

    Where the tokenizer begins each text with BOS and its template writes none, the template gets
    one: template text is encoded without the tokenizer's own, so that there are never two. In a
    stage, a template that prints the date prints that of the stage's spec.
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
    freeze_date(tokenizer)
    if adds_bos(tokenizer) and not writes_bos(tokenizer):
        tokenizer.chat_template = WRITE_BOS + tokenizer.get_chat_template()


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return True if the tokenizer begins each text with BOS by itself."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def writes_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return True if the template begins with BOS, or refuses a question of a user."""
    try:
        return apply_template(tokenizer, [ASKED]).startswith(str(tokenizer.bos_token))
    except Exception:  # each template has its own kind of error; rendering a prompt reports it
        return True


def apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, *, opened: bool = True
) -> str:
    """Return the text of the chat template over messages; raises what the template raises.

    The template gets the tools of the first message. opened: with the opening of the assistant's
    turn. Chat templates are applied only here.
    """
    plain, tools = split_tools(messages)
    return str(
        tokenizer.apply_chat_template(
            plain, tools=tools, add_generation_prompt=opened, tokenize=False
        )
    )


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """Return the prompt as the model sees it, with the opening of the assistant's turn.

    Raises BadInput if the template refuses the messages, e.g. a role that it does not know, or
    ignores tools or what they answered.
    """
    try:
        text = apply_template(tokenizer, messages)
        ignored = _ignored(tokenizer, messages, text)
    except Exception as error:
        # jinja raises several kinds, and templates raise their own texts
        roles = [message.get("role") for message in messages]
        raise BadInput(
            f"the model's chat template refuses messages with the roles {roles}: {error}"
        ) from error
    if ignored:
        raise BadInput(
            f"the model's chat template ignores {ignored}; expected a template that writes them."
            " Take a model whose template does, or rows without them (ignore = ['tools',"
            " 'tool_calls'] leaves them out)."
        )
    return text


def _ignored(tokenizer: PreTrainedTokenizerBase, messages: Messages, text: str) -> str | None:
    """Return what of the use of tools the template does not write; None if it writes all."""
    plain, tools = split_tools(messages)
    if tools and apply_template(tokenizer, plain) == text:
        return "tools"
    for number, message in enumerate(messages):
        calls = "tool_calls" in message
        if not calls and message["role"] != "tool":
            continue
        other = {"tool_calls": _OTHER_CALL} if calls else {"content": f"{message['content']}."}
        changed = [*messages[:number], message | other, *messages[number + 1 :]]
        if apply_template(tokenizer, changed) == text:
            return "tool_calls" if calls else "messages of the role tool"
    return None
