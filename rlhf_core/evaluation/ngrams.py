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


def cut_alike(
    ours: list[list[str]], theirs: list[list[str]]
) -> tuple[list[list[str]], list[list[str]]]:
    """Return both lists of replies, each pair of replies cut to the length of its shorter one."""
    cut = [
        (mine[: len(other)], other[: len(mine)]) for mine, other in zip(ours, theirs, strict=True)
    ]
    return [mine for mine, _ in cut], [other for _, other in cut]


def first_words(text: str, count: int = OPENING_WORDS) -> str:
    """Return the first words, without punctuation unless there is nothing else."""
    found = words(text)
    alphanumeric = [word for word in found if word.isalnum()]
    return " ".join(alphanumeric[:count] or found[:count])


def opening_shares(replies: list[str], count: int = OPENING_WORDS) -> dict[str, float]:
    """Return the share of replies by their first `count` words, the most frequent first."""
    counts = Counter(first_words(reply, count) for reply in replies).most_common()
    return {phrase: found / len(replies) for phrase, found in counts}
