"""Turn messages into token ids.

A dialogue is a prompt, an answer, a prompt, and so on. Each part is encoded alone, so that the ids
of [user, assistant, user] begin with those of [user] and of the answer, token for token: a model
reads its own answers as it wrote them.

The answer is its text and the end of turn, with the white space that the template writes around the
text; what the template writes after the end of turn belongs to the next prompt. A template may
write an answer differently once a dialogue goes on, without its reasoning for example. A prompt is
then what the template writes, and `render_demonstration` gives that answer a row of its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from rlhf_core.data.chat_template import apply_template, prompt_text
from rlhf_core.data.end_of_turn import assistant_turn
from rlhf_core.data.special_tokens import HiddenTokens, encode_batch, encode_text, special_texts
from rlhf_core.data.transcripts import Messages

TrainOn = Literal["all", "last"]


@dataclass(frozen=True)
class RenderedTurns:
    """Token ids of a dialogue, and the mask of those that are trained.

    prompt: up to the first answer that is trained. response: all that follows, EOS of the last
    answer included. trained: one per response token, True in answers and their ends of turn.
    """

    prompt: list[int]
    response: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class _PromptPart:
    """Token ids of a part of a prompt; answer: the number of its message if it is an answer."""

    ids: list[int]
    answer: int | None = None


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Return the token ids of the chat template over `messages`.

    They include the opening of the assistant's turn. A special token that a message spells stays
    text. Raises BadInput if the template refuses.
    """
    return [token for part in _parts(tokenizer, messages) for token in part.ids]


def render_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a response as it follows a prompt, then EOS.

    A special token that the response spells stays text. load_tokenizer makes the template's end of
    turn the tokenizer's EOS.
    """
    return render_responses(tokenizer, [text])[0]


def render_responses(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[list[int]]:
    """Return `render_response` of each text, encoded as one batch."""
    turn = assistant_turn(tokenizer)
    written = [turn.text(text) for text in texts]
    return [
        [*ids, tokenizer.eos_token_id] for ids in _encode_after(tokenizer, turn.opening, written)
    ]


def reply_text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    """Return the text of a response: the inverse of `render_response`, for any tokens."""
    return assistant_turn(tokenizer).answer(tokenizer.decode(tokens, skip_special_tokens=True))


def render_demonstration(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Messages,
    response: str,
    *,
    train_on: TrainOn = "all",
) -> list[RenderedTurns]:
    """Return a demonstration's token ids and the mask of those that are trained.

    With 'all', each answer in the prompt that follows a message is trained too. That is one row,
    unless the template writes earlier answers differently from how the model has to write them:
    each of those is a row of its own, after the prompt that it answered.
    """
    parts = _parts(tokenizer, prompt)
    last = render_response(tokenizer, response)
    if train_on == "last":
        ids = [token for part in parts for token in part.ids]
        return [RenderedTurns(ids, last, [True] * len(last))]
    inside = {part.answer for part in parts}
    alone = [k for k, _ in _prompts(tokenizer, prompt) if k not in inside]
    rows = [_alone(tokenizer, prompt[:k], prompt[k]["content"]) for k in alone]
    return [*rows, _joined([*parts, _PromptPart(last, len(prompt))])]


def _joined(parts: list[_PromptPart]) -> RenderedTurns:
    first = next(n for n, part in enumerate(parts) if part.answer is not None)
    before, after = parts[:first], parts[first:]
    return RenderedTurns(
        [token for part in before for token in part.ids],
        [token for part in after for token in part.ids],
        [part.answer is not None for part in after for _ in part.ids],
    )


def _alone(tokenizer: PreTrainedTokenizerBase, prompt: Messages, answer: str) -> RenderedTurns:
    ids = render_response(tokenizer, answer)
    return RenderedTurns(render_prompt(tokenizer, prompt), ids, [True] * len(ids))


def _prompts(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Iterator[tuple[int, str]]:
    """Yield number and prompt of each answer that has one which the template does not refuse.

    A call of a tool is no answer: it is read and not trained.
    """
    for k, message in enumerate(messages):
        if k and message["role"] == "assistant" and "tool_calls" not in message:
            try:
                yield k, apply_template(tokenizer, messages[:k])
            except Exception:  # each template has its own kind of error
                continue


def _parts(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[_PromptPart]:
    """Return a prompt in parts: answers that continue their prompt, and what is between them."""
    hidden = HiddenTokens.of(tokenizer, messages)
    whole, turn = prompt_text(tokenizer, hidden.messages), assistant_turn(tokenizer)
    parts: list[_PromptPart] = []
    at, after = 0, ""
    for k, prompt in _prompts(tokenizer, hidden.messages) if turn.continues else ():
        written = prompt + turn.text(hidden.messages[k]["content"]) + turn.end
        if at <= len(prompt) and whole.startswith(written):
            parts.append(
                _PromptPart(hidden.encode(tokenizer, whole[at : len(prompt)], after=after))
            )
            parts.append(_PromptPart(render_response(tokenizer, messages[k]["content"]), k))
            at, after = len(written), turn.end
    return [*parts, _PromptPart(hidden.encode(tokenizer, whole[at:], after=after))]


def _encode_after(
    tokenizer: PreTrainedTokenizerBase, opening: str, texts: list[str]
) -> list[list[int]]:
    """Return the token ids of texts after the end of a prompt.

    A text that spells a special token, or whose letters make a token with the prompt's, is encoded
    alone.
    """
    if not texts:
        return []
    before, *found = encode_batch(tokenizer, [opening, *(opening + text for text in texts)])
    return [
        encode_text(tokenizer, text)
        if ids[: len(before)] != before or special_texts(tokenizer, [text])
        else ids[len(before) :]
        for text, ids in zip(texts, found, strict=True)
    ]


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[int]:
    """Return the tokens in each text without special tokens, encoded as one batch."""
    texts = list(texts)
    return [len(ids) for ids in encode_batch(tokenizer, texts)] if texts else []


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Return a token as text, or its name in the vocabulary if it is part of a character."""
    text = tokenizer.decode([token])
    return (
        tokenizer.convert_ids_to_tokens(token)
        if not text or "\N{REPLACEMENT CHARACTER}" in text
        else text
    )
