"""Texts that spell one of the tokenizer's special tokens, encoded as the text that they are.

A tokenizer reads "<|endoftext|>" anywhere as its end-of-text token. In a data set or a user's
prompt these are letters: only the chat template and the pipeline itself place special tokens.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from rlhf_core.data.transcripts import Messages


def special_texts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[str]:
    """Return the special tokens that occur in the texts, each once, in order of appearance."""
    pattern, _ = _special(tokenizer)
    return list(dict.fromkeys(found for text in texts for found in pattern.findall(text)))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text; none of them is a special token but the unknown token."""
    pattern, ids = _special(tokenizer)
    if not pattern.search(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    encoded = _split(tokenizer, text)
    if ids.isdisjoint(encoded):
        return encoded
    # the vocabulary has the special token as a word of its own: part it behind its first letter
    parts = pattern.sub(lambda found: found[0][0] + "\0" + found[0][1:], text).split("\0")
    return [token for part in parts if part for token in _split(tokenizer, part)]


def encode_messages(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, render: Callable[[Messages], str]
) -> list[int]:
    """Return the token ids of rendered messages; special tokens come from the template alone.

    render: returns the text of the chat template over messages. Texts that spell a special token
    are marked before and put back after it, and the text between special tokens is encoded alone.
    """
    pattern, _ = _special(tokenizer)
    if not any(pattern.search(message["content"]) for message in messages):
        return tokenizer(render(messages), add_special_tokens=False)["input_ids"]
    mark = _unused_letter(message["content"] for message in messages)
    spelled: list[str] = []

    def hide(found: re.Match) -> str:
        spelled.append(found[0])
        return f"{mark}{len(spelled) - 1}{mark}"

    hidden = [m | {"content": pattern.sub(hide, m["content"])} for m in messages]
    ids: list[int] = []
    for number, piece in enumerate(re.split(f"({pattern.pattern})", render(hidden))):
        if number % 2:
            ids.append(tokenizer.convert_tokens_to_ids(piece))
        elif piece:
            text = re.sub(f"{mark}(\\d+){mark}", lambda found: spelled[int(found[1])], piece)
            ids += encode_text(tokenizer, text)
    return ids


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
