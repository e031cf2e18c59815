"""A judge's answers, and its verdict on a pair from the answers in both orders.

Judges favour a position (Zheng et al. 2023, arXiv:2306.05685). Answers that contradict each other
are a tie, and ties are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class JudgeAnswer:
    """A judge's answer to one pair in one order.

    outcome: 1 the first reply is better, 0.5 tie, 0 the second is better, None unreadable. reason:
    the judge's own words, None where it gave none. tokens: of the prompt and of the completion,
    None where the judge states no number.
    """

    outcome: float | None
    reason: str | None = None
    tokens: tuple[int, int] | None = None


AskJudge = Callable[[list[str], list[str], list[str]], list[JudgeAnswer]]
"""(prompts, first replies, second replies) -> an answer per pair"""


@dataclass(frozen=True)
class JudgeVerdict:
    """A judge's answers to one pair: with our reply shown first, and with theirs first."""

    ours_first: JudgeAnswer
    theirs_first: JudgeAnswer

    @property
    def answers(self) -> tuple[JudgeAnswer, JudgeAnswer]:
        """Both answers, ours first and theirs first."""
        return self.ours_first, self.theirs_first

    @property
    def outcomes(self) -> tuple[float, float] | None:
        """1 ours is better, 0.5 tie, 0 theirs is better, in each order; None if one is unread."""
        ours, theirs = self.ours_first.outcome, self.theirs_first.outcome
        return None if ours is None or theirs is None else (ours, 1 - theirs)

    @property
    def outcome(self) -> float | None:
        """1 ours is better, 0.5 tie, 0 theirs is better, None unreadable.

        An answer that the other order does not confirm is a tie.
        """
        if self.outcomes is None:
            return None
        first, second = self.outcomes
        return first if first == second else 0.5

    @property
    def is_inconsistent(self) -> bool:
        """True where the two orders do not give the same answer."""
        return self.outcomes is not None and self.outcomes[0] != self.outcomes[1]

    @property
    def is_flipped(self) -> bool:
        """True where both orders named the reply in the same position."""
        return self.outcomes in ((1.0, 0.0), (0.0, 1.0))

    @property
    def first_position(self) -> float | None:
        """The share of the two answers for the reply shown first, a tie one half; None unread."""
        if self.outcomes is None:
            return None
        ours, theirs = self.outcomes
        return (ours + 1 - theirs) / 2


def compare(
    ask: AskJudge, prompts: list[str], ours: list[str], theirs: list[str]
) -> list[JudgeVerdict]:
    """Return the verdict on each pair, asked in both orders."""
    first, second = ask(prompts, ours, theirs), ask(prompts, theirs, ours)
    return [JudgeVerdict(a, b) for a, b in zip(first, second, strict=True)]
