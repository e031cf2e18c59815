"""The pairs that people are asked about, and their votes.

A vote is always about the pair's own replies a and b, whichever of them was shown first.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rlhf_core.data.transcripts import Messages
from rlhf_core.evidence.items import prompt_id

# what an annotator says of a pair: a or b is better, or neither is
Choice = Literal["a", "b", "same", "both_bad", "cannot_judge"]
CHOICES: tuple[Choice, ...] = ("a", "b", "same", "both_bad", "cannot_judge")
MIRRORED: dict[Choice, Choice] = {"a": "b", "b": "a"}
JUDGE = "judge"  # the recipe's judge, as one who labels
STRENGTHS = {"slightly": 1.0, "clearly": 2.0, "much": 3.0}  # by how much a reply is better


@dataclass(frozen=True)
class LabelPair:
    """Two replies to a prompt that people compare.

    source: where the pair comes from. margin: the reward model's score of a less that of b.
    disagreement: how far its raters are apart, 0 to 0.5. gold: the right answer of an item that
    checks the annotators. facts: what else is known of the pair, for its provenance.
    """

    pair_id: str
    prompt: Messages
    reply_a: str
    reply_b: str
    source: str
    margin: float | None = None
    disagreement: float | None = None
    gold: Choice | None = None
    facts: dict = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The last message of the prompt and both replies, by which near-duplicates are found."""
        return "\n".join((self.prompt[-1]["content"], self.reply_a, self.reply_b))


@dataclass(frozen=True)
class Vote:
    """One annotator's answer on one pair.

    strength: by how much the better reply is better. at: seconds since the epoch. first: the reply
    that was shown first, None where nobody knows.
    """

    pair_id: str
    annotator: str
    choice: Choice
    strength: float | None = None
    comment: str = ""
    at: float | None = None
    first: Literal["a", "b"] | None = None

    @property
    def prefers(self) -> bool:
        """True if the vote prefers one of the replies."""
        return self.choice in ("a", "b")

    @property
    def prefers_first(self) -> bool | None:
        """True if it prefers the reply shown first; None without a preference or an order."""
        return self.choice == self.first if self.prefers and self.first else None


def pair_id_of(prompt: Messages, reply_a: str, reply_b: str) -> str:
    """Return the identity of a pair between runs: of its prompt and its replies, in this order."""
    return prompt_id(prompt, reply_a, "\0", reply_b)


def both_orders(prompt: Messages, reply_a: str, reply_b: str) -> set[str]:
    """Return the identities of a pair and of the same pair with its replies exchanged."""
    return {pair_id_of(prompt, reply_a, reply_b), pair_id_of(prompt, reply_b, reply_a)}


def read_pairs(file: Path) -> list[LabelPair]:
    """Return the pairs of a file, one as JSON per line."""
    with file.open(encoding="utf-8") as rows:
        return [LabelPair(**json.loads(row)) for row in rows]


def read_vote_lines(file: Path) -> list[Vote]:
    """Return the votes of a file, one as JSON per line."""
    with file.open(encoding="utf-8") as rows:
        return [Vote(**json.loads(row)) for row in rows]


def is_swapped(seed: int, pair_id: str, annotator: str) -> bool:
    """Return True if an annotator sees reply b first: a fair coin by seed, pair and annotator."""
    return hashlib.sha256(f"{seed}\0{pair_id}\0{annotator}".encode()).digest()[0] < 128


def mirrored(choice: Choice) -> Choice:
    """Return the choice about the same pair with its replies exchanged."""
    return MIRRORED.get(choice, choice)


def by_pair(votes: Iterable[Vote]) -> dict[str, list[Vote]]:
    """Return the votes of each pair, in their order."""
    found: dict[str, list[Vote]] = {}
    for vote in votes:
        found.setdefault(vote.pair_id, []).append(vote)
    return found
