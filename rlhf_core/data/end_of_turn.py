"""The token that ends an assistant's turn, by the chat template and not by eos_token alone.

Gemma, Phi-3 and ChatML on a base model end a turn with another token than their eos_token.
"""

from transformers import PreTrainedTokenizerBase

ANSWER = "So it is."  # an assistant's text, found again in what the template writes


def set_end_of_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the token with which the template ends an assistant's turn the tokenizer's eos_token.

    Training targets, the samplers' stop and the saved folder then agree on it. Does nothing where
    the template writes no token of its own there, or eos_token itself.
    """
    found = end_of_turn(tokenizer)
    if found in (None, tokenizer.eos_token_id):
        return
    token = tokenizer.added_tokens_decoder[found]
    if token.special:
        tokenizer.eos_token = token
    else:  # it becomes a special token, which a reply's text leaves out
        tokenizer.add_special_tokens({"eos_token": token.content})


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the first token after an assistant's text, if it is no ordinary text.

    White space before it does not count. None where the template refuses a turn of the assistant,
    or changes its text.
    """
    turns = [{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:  # each template has its own kind of error; rendering a prompt reports it
        return None
    after = text.rpartition(ANSWER)[2].lstrip() if ANSWER in text else ""
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    known = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return ids[0] if ids and ids[0] in known else None
