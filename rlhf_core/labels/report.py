"""Report on a labelling campaign: each annotator's votes, and their agreement."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import median

import numpy as np

from rlhf_core.labels.aggregation import label_of
from rlhf_core.labels.votes import LabelPair, Vote, by_pair
from rlhf_core.statistics.agreement import Agreement, agreement
from rlhf_core.statistics.clusters import clusters_of
from rlhf_core.statistics.intervals import wilson

PAUSE = 600.0  # seconds between two votes, above which the annotator was away

ShareInterval = tuple[float, float, float]  # value, low, high: a 95% Wilson interval


@dataclass(frozen=True)
class AnnotatorReport:
    """One annotator's votes.

    pace: median seconds from one vote to the next, pauses left out. with_others: share of
    preferring votes with the majority of the others' on the same pair. first: share of preferring
    votes for the reply shown first, 0.5 without a habit. gold: share of gold items right. weight:
    accuracy by Dawid and Skene, where it was asked for.
    """

    annotator: str
    votes: int
    same: int
    both_bad: int
    cannot_judge: int
    pace: float | None
    with_others: ShareInterval | None
    first: ShareInterval | None
    gold: ShareInterval | None
    weight: float | None = None


@dataclass(frozen=True)
class CampaignReport:
    """The votes of a campaign as a whole.

    disputes: ids of pairs on which equally many votes are for two choices. outcomes: number of
    pairs by label, gold apart. alpha: Krippendorff's, over votes that prefer a reply.
    """

    annotators: list[AnnotatorReport]
    outcomes: dict[str, int]
    disputes: list[str]
    alpha: Agreement | None

    def as_json(self) -> dict:
        """Return the report as JSON values."""
        return asdict(self)

    def renamed(self, names: Mapping[str, str]) -> "CampaignReport":
        """Return the report with each annotator called as in the data."""
        rows = [replace(row, annotator=names[row.annotator]) for row in self.annotators]
        return replace(self, annotators=rows)


def campaign_report(
    pairs: Sequence[LabelPair], votes: Sequence[Vote], weights: Mapping[str, float] | None = None
) -> CampaignReport:
    """Return the report of all votes so far, gold items counted for the annotators alone."""
    asked = {pair.pair_id: pair for pair in pairs}
    voted = by_pair(vote for vote in votes if asked[vote.pair_id].gold is None)
    labels = [
        label_of(pair, voted.get(pair.pair_id, ()), weights) for pair in pairs if pair.gold is None
    ]
    outcomes: dict[str, int] = {}
    for label in labels:
        outcomes[label.outcome] = outcomes.get(label.outcome, 0) + 1
    names = sorted({vote.annotator for vote in votes})
    return CampaignReport(
        annotators=[_annotator(name, asked, votes, voted, weights) for name in names],
        outcomes=dict(sorted(outcomes.items())),
        disputes=[label.pair.pair_id for label in labels if label.outcome == "dispute"],
        alpha=campaign_alpha(asked, voted),
    )


def campaign_alpha(
    asked: Mapping[str, LabelPair], voted: Mapping[str, Sequence[Vote]]
) -> Agreement | None:
    """Return Krippendorff's alpha of the votes that prefer a reply, whole prompts resampled.

    The same as `annotator_alpha` of the data report computes, with the pairs in dispute among it.
    """
    counts = [
        (
            sum(vote.choice == "a" for vote in votes),
            sum(vote.choice == "b" for vote in votes),
            str(asked[pair_id].prompt),
        )
        for pair_id, votes in voted.items()
    ]
    return agreement(
        np.array([a for a, _, _ in counts], float),
        np.array([b for _, b, _ in counts], float),
        clusters_of([prompt for _, _, prompt in counts]),
    )


def _annotator(
    name: str,
    asked: Mapping[str, LabelPair],
    votes: Iterable[Vote],
    voted: Mapping[str, Sequence[Vote]],
    weights: Mapping[str, float] | None,
) -> AnnotatorReport:
    own = [vote for vote in votes if vote.annotator == name]
    golds = [vote.choice == asked[vote.pair_id].gold for vote in own if asked[vote.pair_id].gold]
    firsts = [first for vote in own if (first := vote.prefers_first) is not None]
    return AnnotatorReport(
        annotator=name,
        votes=len(own),
        same=sum(vote.choice == "same" for vote in own),
        both_bad=sum(vote.choice == "both_bad" for vote in own),
        cannot_judge=sum(vote.choice == "cannot_judge" for vote in own),
        pace=_pace([vote.at for vote in own if vote.at is not None]),
        with_others=_share(list(_with_others(name, voted))),
        first=_share(firsts),
        gold=_share(golds),
        weight=None if weights is None else weights.get(name),
    )


def _with_others(name: str, voted: Mapping[str, Sequence[Vote]]) -> Iterable[bool]:
    """Yield, for each pair where the others have a majority, if the annotator is with it."""
    for votes in voted.values():
        preferring = [vote for vote in votes if vote.prefers]
        lead = sum(1 if vote.choice == "a" else -1 for vote in preferring if vote.annotator != name)
        for vote in preferring:
            if vote.annotator == name and lead:
                yield (lead > 0) == (vote.choice == "a")


def _pace(times: list[float]) -> float | None:
    ordered = sorted(times)
    steps = [b - a for a, b in pairwise(ordered) if b - a <= PAUSE]
    return median(steps) if steps else None


def _share(right: Sequence[bool]) -> ShareInterval | None:
    if not right:
        return None
    return (sum(right) / len(right), *wilson(sum(right), len(right)))
