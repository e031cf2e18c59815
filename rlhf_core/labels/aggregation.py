"""The label of a pair from its votes, and the row of data that it becomes.

A label is the choice with strictly the most votes. "cannot judge" is no vote. Two choices with
equally many leave the pair in dispute, unless weights of the annotators decide.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_core.labels.votes import LabelPair, Vote
from rlhf_core.labels.weights import Accuracies, log_odds

Outcome = Literal["a", "b", "same", "both_bad", "dispute", "unjudged"]
APART: tuple[Outcome, ...] = ("same", "both_bad", "dispute", "unjudged")


@dataclass(frozen=True)
class PairLabel:
    """The result of the votes on one pair.

    votes: those that judge the pair. probability: that the label is right, by weighted votes.
    """

    pair: LabelPair
    outcome: Outcome
    votes: tuple[Vote, ...]
    probability: float | None = None

    @property
    def is_preference(self) -> bool:
        """True if the label prefers one of the replies."""
        return self.outcome in ("a", "b")


def label_of(
    pair: LabelPair, votes: Sequence[Vote], weights: Accuracies | None = None
) -> PairLabel:
    """Return the label of a pair.

    weights: the annotators' accuracies. Among the votes that prefer a reply, the log odds of these
    decide then, not the number.
    """
    judged = tuple(vote for vote in votes if vote.choice != "cannot_judge")
    counts = Counter(vote.choice for vote in judged)
    if not judged:
        return PairLabel(pair, "unjudged", ())
    preferred = counts["a"] + counts["b"]
    if weights is not None and preferred > max(counts["same"], counts["both_bad"]):
        return _weighted(pair, judged, weights)
    most = max(counts.values())
    leaders = [choice for choice, count in counts.items() if count == most]
    outcome: Outcome = "dispute"
    if len(leaders) == 1 and leaders[0] != "cannot_judge":
        outcome = leaders[0]
    return PairLabel(pair, outcome, judged)


def _weighted(pair: LabelPair, judged: tuple[Vote, ...], weights: Accuracies) -> PairLabel:
    odds = log_odds(judged, weights)
    if odds.log == 0:
        return PairLabel(pair, "dispute", judged)
    outcome: Outcome = "a" if odds.log > 0 else "b"
    return PairLabel(pair, outcome, judged, max(odds.probability, 1 - odds.probability))


def comparison(label: PairLabel, names: Mapping[str, str], campaign: str) -> dict:
    """Return the row of comparisons of a label that prefers a reply.

    names: what each annotator is called in the data. votes: 1 for the chosen reply, 0 for the
    other; "same" and "both bad" are no such vote and stay in the votes' own file. strength: the
    mean over the votes for the chosen reply that have one.
    """
    pair, outcome = label.pair, label.outcome
    preferring = [vote for vote in label.votes if vote.prefers]
    strengths = [
        vote.strength for vote in preferring if vote.choice == outcome and vote.strength is not None
    ]
    replies = {"a": pair.reply_a, "b": pair.reply_b}
    row: dict = {
        "prompt": pair.prompt,
        "chosen": replies[outcome],
        "rejected": replies["b" if outcome == "a" else "a"],
        "votes": [int(vote.choice == outcome) for vote in preferring],
        "annotators": [names[vote.annotator] for vote in preferring],
        "source": pair.source,
        "pair_id": pair.pair_id,
        "campaign_id": campaign,
    }
    if strengths:
        row["strength"] = sum(strengths) / len(strengths)
    if label.probability is not None:
        row["label_probability"] = label.probability
    return row


def apart_row(label: PairLabel, names: Mapping[str, str], campaign: str) -> dict:
    """Return the row of a pair that prefers no reply: a Bradley-Terry model learns nothing of it.

    outcome: same, both_bad, dispute or unjudged.
    """
    pair = label.pair
    return {
        "prompt": pair.prompt,
        "reply_a": pair.reply_a,
        "reply_b": pair.reply_b,
        "outcome": label.outcome,
        "choices": [vote.choice for vote in label.votes],
        "annotators": [names[vote.annotator] for vote in label.votes],
        "source": pair.source,
        "pair_id": pair.pair_id,
        "campaign_id": campaign,
    }


def vote_row(vote: Vote, pair: LabelPair, names: Mapping[str, str]) -> dict:
    """Return the row of one vote, as `rlhf label import` reads it again."""
    row = {
        "prompt": pair.prompt,
        "reply_a": pair.reply_a,
        "reply_b": pair.reply_b,
        "annotator": names[vote.annotator],
        "choice": vote.choice,
        "strength": vote.strength,
        "comment": vote.comment or None,
        "at": vote.at,
        "first": vote.first,
        "source": pair.source,
        "pair_id": pair.pair_id,
        "gold": pair.gold,
    }
    return {key: value for key, value in row.items() if value is not None}
