"""Texts that spell one of the tokenizer's special tokens, encoded as the text that they are.

A tokenizer reads "<|endoftext|>" anywhere as its end-of-text token. In a data set or a user's
prompt these are letters: only the chat template and the pipeline itself place special tokens.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf_core.data.transcripts import Messages

_NAMES = ("role", "type")  # keys whose values a template compares and does not write as a text


def special_texts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[str]:
    """Return the special tokens that occur in the texts, each once, in order of appearance."""
    pattern, _ = _special(tokenizer)
    return list(dict.fromkeys(found for text in texts for found in pattern.findall(text)))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text; none of them is a special token but the unknown token."""
    pattern, ids = _special(tokenizer)
    if not pattern.search(text):
        return encode_template_text(tokenizer, text)
    encoded = _split(tokenizer, text)
    if ids.isdisjoint(encoded):
        return encoded
    # the vocabulary has the special token as a word of its own: part it behind its first letter
    parts = pattern.sub(lambda found: found[0][0] + "\0" + found[0][1:], text).split("\0")
    return [token for part in parts if part for token in _split(tokenizer, part)]


def encode_template_text(
    tokenizer: PreTrainedTokenizerBase, text: str, *, after: str = ""
) -> list[int]:
    """Return the token ids of a text whose special tokens are meant, such as the template's.

    after: the special token that stands before the text. Some tokenizers begin a text that stands
    alone with a blank, and some tokens take the white space beside them.
    """
    ids: list[int] = tokenizer(after + text, add_special_tokens=False)["input_ids"]
    if not after:
        return ids
    if ids[:1] == [tokenizer.convert_tokens_to_ids(after)]:
        return ids[1:]
    return encode_template_text(tokenizer, text)


def encode_batch(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the token ids of each text; special tokens in it are meant, and none is added.

    The ids are those of tokenizer(texts, add_special_tokens=False). That call also makes masks and
    offsets of each token, which takes as long again.
    """
    own = isinstance(tokenizer, PreTrainedTokenizerFast) and (
        type(tokenizer)._encode_plus is PreTrainedTokenizerFast._encode_plus
    )
    if not own:  # a family that encodes in a way of its own
        yield from tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False):
        yield encoding.ids


@dataclass(frozen=True)
class HiddenTokens:
    """Messages with marks in place of the special tokens that their texts spell.

    A template is applied to them as to the texts. spelled: the texts, by number. mark: a letter
    that no message has; it stands before and after a number.
    """

    messages: Messages
    spelled: list[str]
    mark: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, messages: Messages) -> "HiddenTokens":
        """Return the messages with marks, the same ones if they spell no special token."""
        pattern, _ = _special(tokenizer)
        if not any(pattern.search(text) for text in texts_in(messages)):
            return cls(messages, [], "")
        mark, spelled = _unused_letter(texts_in(messages)), []

        def hide(found: re.Match) -> str:
            spelled.append(found[0])
            return f"{mark}{len(spelled) - 1}{mark}"

        return cls(_replaced(messages, pattern, hide), spelled, mark)

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, text: str, *, after: str = ""
    ) -> list[int]:
        """Return the token ids of a text that the template wrote over the messages.

        Its special tokens are the template's alone. Where the text has marks, what stands between
        two special tokens is encoded alone. after: the special token before the text.
        """
        if not self.mark or self.mark not in text:
            return encode_template_text(tokenizer, text, after=after)
        pattern, _ = _special(tokenizer)
        ids: list[int] = []
        for number, piece in enumerate(re.split(f"({pattern.pattern})", text)):
            if number % 2:
                ids.append(tokenizer.convert_tokens_to_ids(piece))
            elif piece:
                ids += encode_text(tokenizer, self._shown(piece))
        return ids

    def _shown(self, text: str) -> str:
        pattern = f"{self.mark}(\\d+){self.mark}"
        return re.sub(pattern, lambda found: self.spelled[int(found[1])], text)


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text in a nested value: of messages their contents, tools and arguments too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield key
            if key not in _NAMES:
                yield from texts_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts_in(part)


def _replaced(value: Any, pattern: re.Pattern, by: Callable[[re.Match], str]) -> Any:
    """Return a nested value with each match in its texts, names of keys included, replaced."""
    if isinstance(value, str):
        return pattern.sub(by, value)
    if isinstance(value, dict):
        return {
            pattern.sub(by, key): part if key in _NAMES else _replaced(part, pattern, by)
            for key, part in value.items()
        }
    return [_replaced(part, pattern, by) for part in value] if isinstance(value, list) else value


def _split(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _unused_letter(texts: Iterable[str]) -> str:
    """Return a letter of Unicode's private use area that is in none of the texts."""
    used = set().union(*texts)
    return next(letter for letter in map(chr, range(0xE000, 0xF8FF)) if letter not in used)


def _special(tokenizer: PreTrainedTokenizerBase) -> tuple[re.Pattern, frozenset[int]]:
    return _special_of(tokenizer, len(tokenizer), tuple(tokenizer.all_special_tokens))


@lru_cache(maxsize=8)
def _special_of(
    tokenizer: PreTrainedTokenizerBase, size: int, named: tuple[str, ...]
) -> tuple[re.Pattern, frozenset[int]]:
    """Return a pattern of the special tokens' texts, and their ids without the unknown token's.

    size, named: the tokenizer's tokens when it was asked, because tokens can be added to it.
    """
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    texts = sorted(added | set(named), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, texts)) or "(?!)")
    ids = {tokenizer.convert_tokens_to_ids(text) for text in texts}
    return pattern, frozenset(ids - {tokenizer.unk_token_id})
