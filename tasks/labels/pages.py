"""Show a pair to an annotator on MLflow's review page, and read the answer back.

The page shows a trace's request preview as the input and its response preview as the output, both
as Markdown, and the questions beside them.
"""

from dataclasses import dataclass

from rlhf_core.judging.functions import conversation
from rlhf_core.labels.votes import STRENGTHS, Choice, LabelPair, mirrored

BETTER = "Which reply is better?"
STRENGTH = "By how much? (optional)"
# the answers in the page's words, about the reply shown first
ANSWERS: dict[str, Choice] = {
    "Reply 1 is better": "a",
    "Reply 2 is better": "b",
    "They are the same": "same",
    "Both are bad": "both_bad",
    "I cannot judge": "cannot_judge",
}
_CUT = "\n\n*... View full trace shows the rest.*"


@dataclass(frozen=True)
class Question:
    """One question of the page. comment: it has a field for a free text below it."""

    name: str
    options: tuple[str, ...]
    instruction: str
    comment: bool


QUESTIONS = (
    Question(
        BETTER,
        tuple(ANSWERS),
        "Compare the two replies to the prompt. Their order is random.",
        comment=True,
    ),
    Question(STRENGTH, tuple(STRENGTHS), "Where one reply is better.", comment=False),
)


@dataclass(frozen=True)
class ShownPair:
    """A pair as one annotator sees it: no model, no source, replies in their order."""

    prompt: str
    replies: tuple[str, str]

    @classmethod
    def of(cls, pair: LabelPair, *, swapped: bool) -> "ShownPair":
        """Return what the page shows. swapped: reply b comes first."""
        replies = (pair.reply_a, pair.reply_b)
        return cls(conversation(pair.prompt), replies[::-1] if swapped else replies)

    @property
    def inputs(self) -> dict[str, str]:
        """The texts in full, which the page shows with "View full trace"."""
        return {"prompt": self.prompt, "reply 1": self.replies[0], "reply 2": self.replies[1]}

    def request_preview(self, characters: int) -> str:
        """Return the prompt, of at most so many characters."""
        return _shortened(self.prompt, characters)

    def response_preview(self, characters: int) -> str:
        """Return both replies below each other, together of at most so many characters."""
        heads = ("**Reply 1**\n\n", "\n\n---\n\n**Reply 2**\n\n")
        each = (characters - sum(map(len, heads))) // 2
        longer = each + max(0, each - min(map(len, self.replies)))
        return "".join(
            head + _shortened(reply, longer)
            for head, reply in zip(heads, self.replies, strict=True)
        )


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - len(_CUT)] + _CUT


def choice_of(answer: object, *, swapped: bool) -> Choice | None:
    """Return the choice about the pair's own replies; None for no answer of the page."""
    choice = ANSWERS.get(answer) if isinstance(answer, str) else None
    return mirrored(choice) if choice and swapped else choice
