"""An assistant's turn by the chat template: what opens it, and the token that ends it.

Gemma, Phi-3 and ChatML on a base model end a turn with another token than their eos_token. Llama 2
and Vicuna write blanks around an answer, which a model of them writes too.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from rlhf_core.data.chat_template import ASKED, apply_template
from rlhf_core.data.transcripts import Messages

ANSWER = "So it is."  # an assistant's text, found again in what the template writes
ANSWERED = {"role": "assistant", "content": ANSWER}
PADDED = {"role": "assistant", "content": f"  {ANSWER}  "}
AGAIN = {"role": "user", "content": "And now?"}
# what templates do with an answer's text
TRIMMING = (str, str.strip, str.lstrip, str.rstrip)


@dataclass(frozen=True)
class AssistantTurn:
    """An answer as the template writes it in a dialogue that goes on.

    opening: the end of a prompt, from its last special token on. before, after: what the template
    writes between the prompt and the text, and between the text and the end of turn. The model has
    to write both. end: the text of the tokenizer's EOS. trimming: the index of the template's
    change of the text in TRIMMING. continues: True if a dialogue that goes on begins with prompt
    and answer. opens: True if the template adds an opening to a prompt.
    """

    opening: str = ""
    before: str = ""
    after: str = ""
    end: str = ""
    trimming: int = 0
    continues: bool = False
    opens: bool = True

    def text(self, answer: str) -> str:
        """Return an answer as the template writes it, without its end of turn."""
        return f"{self.before}{TRIMMING[self.trimming](answer)}{self.after}"

    def answer(self, text: str) -> str:
        """Return the answer in a text that the model wrote: the inverse of `text`."""
        return text.removeprefix(self.before).removesuffix(self.after)


def assistant_turn(tokenizer: PreTrainedTokenizerBase) -> AssistantTurn:
    """Return how the tokenizer's template writes an answer.

    It is empty where the template refuses a second question, or changes the answer's text.
    """
    return _turn_of(tokenizer, len(tokenizer), str(tokenizer.chat_template), tokenizer.eos_token)


@lru_cache(maxsize=8)
def _turn_of(
    tokenizer: PreTrainedTokenizerBase, size: int, template: str, end: str
) -> AssistantTurn:
    """Return how a template writes an answer.

    size, template: the tokenizer's when it was asked, because both can change.
    """
    try:
        prompt, written, padded = (
            apply_template(tokenizer, messages)
            for messages in ([ASKED], [ASKED, ANSWERED, AGAIN], [ASKED, PADDED, AGAIN])
        )
        opens = prompt != apply_template(tokenizer, [ASKED], opened=False)
    except Exception:  # each template has its own kind of error; rendering a prompt reports it
        return AssistantTurn(end=end)
    opening = prompt[_last_token(tokenizer, prompt) :]
    before, found, rest = written.removeprefix(prompt).partition(ANSWER)
    after = rest[: len(rest) - len(rest.lstrip())]
    if not (written.startswith(prompt) and found):
        return AssistantTurn(opening, end=end)
    if not rest.startswith(after + end):  # a text ends the turn, and eos_token a reply
        return AssistantTurn(opening, before, end=end, opens=opens)
    for index in range(len(TRIMMING)):
        turn = AssistantTurn(opening, before, after, end, index, continues=True, opens=opens)
        if padded.startswith(prompt + turn.text(PADDED["content"]) + end):
            return turn
    return AssistantTurn(opening, end=end)


def _last_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Return where the last added token of a text begins, 0 if it has none."""
    added = [re.escape(token.content) for token in tokenizer.added_tokens_decoder.values()]
    return max((found.start() for found in re.finditer("|".join(added) or "(?!)", text)), default=0)


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
    turns: Messages = [ASKED, ANSWERED]
    try:
        text = apply_template(tokenizer, turns, opened=False)
    except Exception:  # each template has its own kind of error; rendering a prompt reports it
        return None
    after = text.rpartition(ANSWER)[2].lstrip() if ANSWER in text else ""
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    known = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return ids[0] if ids and ids[0] in known else None
