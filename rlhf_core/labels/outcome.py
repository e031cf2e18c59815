"""The files that a set of votes becomes: comparisons, what is kept apart, and the votes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_core.errors import BadInput
from rlhf_core.labels.aggregation import apart_row, comparison, label_of, vote_row
from rlhf_core.labels.report import CampaignReport, campaign_report
from rlhf_core.labels.votes import LabelPair, Vote, by_pair
from rlhf_core.labels.weights import dawid_skene

Weighting = Literal["none", "dawid-skene"]


@dataclass(frozen=True)
class LabelledData:
    """Rows of JSON Lines: comparisons to train on, pairs without a preference, and every vote.

    names: what each annotator is called in the rows. The report has the annotators' own names.
    """

    comparisons: list[dict]
    apart: list[dict]
    votes: list[dict]
    report: CampaignReport
    names: Mapping[str, str]


def labelled_data(
    pairs: Sequence[LabelPair],
    votes: Sequence[Vote],
    names: Mapping[str, str],
    campaign: str,
    weighting: Weighting = "none",
) -> LabelledData:
    """Return what votes on pairs become, gold items left out of the data.

    names: what each annotator is called in the data. weighting: how annotators' votes count.
    Raises BadInput where no pair has a preference.
    """
    asked = {pair.pair_id: pair for pair in pairs}
    voted = by_pair(votes)
    weights = None
    if weighting == "dawid-skene":
        weights = dawid_skene(voted)
    labels = [
        label_of(pair, voted.get(pair.pair_id, ()), weights) for pair in pairs if pair.gold is None
    ]
    chosen = [label for label in labels if label.is_preference]
    if not chosen:
        raise BadInput(
            f"{campaign}: none of {len(labels)} pairs has a reply that most votes prefer, of"
            f" {len(votes)} votes; expected one at least. Wait for more votes."
        )
    return LabelledData(
        comparisons=[comparison(label, names, campaign) for label in chosen],
        apart=[apart_row(label, names, campaign) for label in labels if not label.is_preference],
        votes=[vote_row(vote, asked[vote.pair_id], names) for vote in votes],
        report=campaign_report(pairs, votes, weights),
        names=names,
    )


def lines(rows: Sequence[dict]) -> str:
    """Return rows as JSON Lines, keys in their order: equal rows are equal bytes."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
