"""Words, n-grams and opening phrases of replies."""

import re
from collections import Counter

OPENING_WORDS = 3
# in scripts without blanks between words, each sign is a word
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")


def repetition(tokens: list[int]) -> float:
    """Return 1 - distinct 3-grams / 3-grams of one reply; 0 for fewer than three tokens.

    Li et al. 2016, distinct-n.
    """
    grams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def words(text: str) -> list[str]:
    """Return words and punctuation marks in order, case folded.

    Each sign of Chinese, Japanese and Korean is a word.
    """
    return _WORD.findall(text.casefold())


def distinct(replies: list[list[str]], n: int) -> float:
    """Return distinct n-grams / n-grams of all replies together; 0 when there are none.

    Li et al. 2016, distinct-n.
    """
    grams = [
        gram for reply in replies for gram in zip(*(reply[i:] for i in range(n)), strict=False)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def first_words(text: str) -> str:
    """Return the first three words, without punctuation unless there is nothing else."""
    found = words(text)
    alphanumeric = [word for word in found if word.isalnum()]
    return " ".join(alphanumeric[:OPENING_WORDS] or found[:OPENING_WORDS])


def opening_shares(replies: list[str]) -> dict[str, float]:
    """Return the share of replies by their first words, the most frequent first."""
    counts = Counter(map(first_words, replies)).most_common()
    return {phrase: count / len(replies) for phrase, count in counts}
