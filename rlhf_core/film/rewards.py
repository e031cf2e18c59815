"""Reward functions of the film recipe: the word that is asked for, and the length of a sentence.

A reward model of verdicts says nothing of the prompt and little of the length. Copy this file to
write such functions for other data.
"""

import math
import re

from rlhf_core.errors import BadInput

SHORT, LONG = 13, 21  # words; the middle half of the demonstrations of film_reviews
MOST_OFF = 2.0  # natural logarithm: an eighth of SHORT, or eight times LONG
_QUOTED = re.compile(r'"([^"]+)"')
_WORD = re.compile(r"\w+")


def mentions(prompts: list[str], replies: list[str]) -> list[float]:
    """Return 1 for each reply with the word that its prompt asks for, else 0.

    The word is the last one in double quotes in the prompt. Case is ignored, part of another word
    does not count. Raises BadInput for a prompt without such a word.
    """
    pairs = zip(prompts, replies, strict=True)
    return [float(_has(asked_word(prompt), reply)) for prompt, reply in pairs]


def asked_word(prompt: str) -> str:
    """Return the last text in double quotes. Raises BadInput when there is none."""
    quoted = _QUOTED.findall(prompt)
    if not quoted:
        raise BadInput(
            f"the prompt {prompt!r:.80} asks for no word; expected one in double quotes, as in"
            " 'Write one sentence that mentions \"plot\".' For other prompts, leave"
            " rlhf_core.film.rewards:mentions out of ppo.reward.functions."
        )
    return quoted[-1]


def _has(asked: str, reply: str) -> bool:
    words, wanted = (_WORD.findall(text.casefold()) for text in (reply, asked))
    starts = range(len(words) - len(wanted) + 1)
    return any(words[start : start + len(wanted)] == wanted for start in starts)


def usual_length(prompts: list[str], replies: list[str]) -> list[float]:
    """Return 0 for each reply of SHORT to LONG words, below 0 for others, in [-MOST_OFF, 0].

    The value is -|ln(words / nearest bound)|: half of SHORT costs as much as twice LONG, 0.69.
    """
    return [_length_value(len(_WORD.findall(reply))) for reply in replies]


def _length_value(words: int) -> float:
    nearest = min(max(words, SHORT), LONG)
    return -min(MOST_OFF, abs(math.log(max(words, 1) / nearest)))
