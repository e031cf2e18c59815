"""The annotators of comparisons: their agreement as a rule, and a table of each one's votes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rlhf_core.config import Rules
from rlhf_core.data.splits import prompt_key
from rlhf_core.data.verdicts import annotator_agreement, named_votes
from rlhf_core.statistics.agreement import Agreement, agreement
from rlhf_core.statistics.clusters import clusters_of, wilson_clustered

RULE = "annotator_alpha"


@dataclass
class _Votes:
    """The votes of one annotator, one entry per pair."""

    prompts: list[str] = field(default_factory=list)
    with_others: list[float] = field(default_factory=list)  # 1: with the majority of the others
    compared: list[float] = field(default_factory=list)  # 0: nobody else, or the others are tied
    longer: list[bool] = field(default_factory=list)  # of pairs with answers of unequal length


def agreement_of(records: Iterable[dict]) -> Agreement | None:
    """Return the agreement of the annotators of comparisons; None without two votes on a pair."""
    voted = [
        (record["votes_for"], record["votes_against"], prompt_key(record["prompt"]))
        for record in records
        if record.get("votes_for") is not None
    ]
    return agreement(
        np.array([votes_for for votes_for, _, _ in voted], float),
        np.array([against for _, against, _ in voted], float),
        clusters_of([key for _, _, key in voted]),
    )


def alpha_rule(records: Sequence[dict], rules: Rules, source: str) -> list[dict]:
    """Return the report's entry on the lower end of alpha's interval; none without two votes.

    The share of the majority is shown, and is no rule, because guessing alone brings it to 0.75
    with two votes.
    """
    found = agreement_of(records)
    if found is None or rules.annotator_alpha == "off":
        return []
    shares = [share for record in records if (share := annotator_agreement(record)) is not None]
    low, high = f"{found.low:.3f}", f"{found.high:.3f}"
    return [
        {
            "rule": RULE,
            "source": source,
            "severity": rules.annotator_alpha,
            "passed": found.low >= rules.min_annotator_alpha,
            "found": found.low,
            "expected": f"at least {rules.min_annotator_alpha:g}",
            "detail": (
                f"lower end of the 95% interval {low} to {high} of Krippendorff's alpha"
                f" {found.alpha:.3f} over {found.n} pairs; share of votes with the majority"
                f" {sum(shares) / len(shares):.3f}"
            ),
        }
    ]


def annotator_table(records: Iterable[dict], tokens: Mapping[str, Mapping[str, int]]) -> list[dict]:
    """Return a row per named annotator, those with the most votes first.

    tokens: token counts by record id. Keys: "annotator", "pairs"; "with_others", "low" and "high":
    share of votes with the majority of the others on the same pair, and its 95% interval, None
    where nobody else voted; "compared": the pairs behind it; "prefers_longer": share of votes for
    the longer answer.
    """
    found: dict[str, _Votes] = defaultdict(_Votes)
    for record in records:
        named = named_votes(record.get("meta", {}))
        for place, (name, vote) in enumerate(named):
            others = [other for k, (_, other) in enumerate(named) if k != place]
            _add(found[name], record, vote, others, tokens.get(record["id"], {}))
    rows = [_row(name, votes) for name, votes in found.items()]
    return sorted(rows, key=lambda row: (-row["pairs"], row["annotator"]))


def _add(
    votes: _Votes, record: dict, vote: int, others: list[int], tokens: Mapping[str, int]
) -> None:
    lead = 2 * sum(others) - len(others)  # above 0: the others prefer the chosen answer
    votes.prompts.append(prompt_key(record["prompt"]))
    votes.compared.append(float(lead != 0))
    votes.with_others.append(float(lead != 0 and (lead > 0) == bool(vote)))
    gap = tokens.get("chosen", 0) - tokens.get("rejected", 0)
    if gap:
        votes.longer.append((gap > 0) == bool(vote))


def _row(name: str, votes: _Votes) -> dict:
    won_N, compared_N = np.array(votes.with_others), np.array(votes.compared)
    compared = int(compared_N.sum())
    low, high = wilson_clustered(won_N, compared_N, clusters_of(votes.prompts))
    return {
        "annotator": name,
        "pairs": len(votes.prompts),
        "compared": compared,
        "with_others": float(won_N.sum()) / compared if compared else None,
        "low": low if compared else None,
        "high": high if compared else None,
        "prefers_longer": sum(votes.longer) / len(votes.longer) if votes.longer else None,
    }
