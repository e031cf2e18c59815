"""The film recipe's independent scorer: VADER, a lexicon of sentiment that no stage is trained on.

Hutto and Gilbert 2014, https://ojs.aaai.org/index.php/ICWSM/article/view/14550; package
vaderSentiment.
"""

from functools import cache

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer


def compound(prompts: list[str], replies: list[str]) -> list[float]:
    """Return VADER's compound score of each reply, in [-1, 1]; an empty reply has 0."""
    return [float(_analyzer().polarity_scores(reply)["compound"]) for reply in replies]


@cache
def _analyzer() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()
