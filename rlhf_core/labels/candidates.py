"""Pairs that people could be asked about, with what the models say of them.

A candidate is a row of candidates.jsonl: {"prompt", "reply_a", "reply_b", "kind", "preferences"},
and "margin" with a reward model. kind: "fresh", two replies of the policy; "training", a pair of
the training comparisons (reply_a is the chosen one); or "live", a kept live reply (reply_a) and one
of the policy, with "live": {"trace_id", "version"} of the first. preferences: by rater (a member of
the reward model, the judge, the people who labelled it) the probability that reply_a is better.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from rlhf_core.data.verdicts import annotator_agreement
from rlhf_core.errors import BadInput
from rlhf_core.labels.picking import Pick, budgets, pick
from rlhf_core.labels.votes import LabelPair, both_orders, pair_id_of

PairSource = Literal["onpolicy", "contested", "mistakes", "live"]
POOL = 4  # pairs of a ranked source among which is picked, per pair that is wanted of it
PEOPLE = "people"
# input of the stage: rows {"prompt", "reply", "trace_id", "version"} of kept live replies
LIVE = "live_replies"
Pools = dict[str, list[LabelPair]]  # by source


def preference(margin: float) -> float:
    """Return the probability that reply a is better: Bradley and Terry's, of a score margin."""
    return 1 / (1 + math.exp(-margin)) if margin > -700 else 0.0


def disagreement(preferences: Iterable[float]) -> float | None:
    """Return the standard deviation of the raters' preferences, 0 to 0.5; None below two raters."""
    found = list(preferences)
    if len(found) < 2:
        return None
    if max(found) == min(found):
        return 0.0  # exactly: the sum below rounds
    mean = sum(found) / len(found)
    return math.sqrt(sum((one - mean) ** 2 for one in found) / len(found))


def people(row: dict) -> dict[str, float]:
    """Return what people prefer of a comparison: the share of votes for the chosen reply, or 1."""
    share = annotator_agreement(row)
    if share is None:
        return {PEOPLE: 1.0}
    votes = row["votes_for"] + row["votes_against"]
    return {PEOPLE: row["votes_for"] / votes}


def unasked(candidates: Sequence[dict], asked: Collection[str]) -> list[dict]:
    """Return the candidates that are no pair of `asked`, identities, in either order of replies."""
    known = set(asked)
    return [
        row
        for row in candidates
        if known.isdisjoint(both_orders(row["prompt"], row["reply_a"], row["reply_b"]))
    ]


def pools(candidates: Sequence[dict], wanted: Sequence[PairSource], total: int) -> Pools:
    """Return the pairs of each wanted source, most to the point first where it has an order.

    onpolicy: all fresh pairs. contested: pairs whose raters disagree, the most first. mistakes:
    training pairs of which the reward model prefers the rejected reply, the surest first. live: all
    pairs with a live reply. Raises BadInput for a source that is empty.
    """
    share = max(1, -(-total // len(wanted))) * POOL
    found: Pools = {}
    for source in wanted:
        rows = [row for row in candidates if _belongs(row, source)]
        if source == "contested":
            rows.sort(key=lambda row: -(disagreement(row["preferences"].values()) or 0.0))
        if source == "mistakes":
            rows.sort(key=lambda row: row["margin"])
        kept = rows if source in ("onpolicy", "live") else rows[:share]
        if not kept:
            raise BadInput(f"--from {source} gives no pair: {_EMPTY[source]}.")
        found[source] = [_pair(row, source) for row in kept]
    return found


_EMPTY: dict[PairSource, str] = {
    "onpolicy": "the policy gave two equal replies to every training prompt; sample hotter"
    " (evaluate.sampling.temperature)",
    "contested": "no pair has two raters that differ; expected an ensemble (reward.members), a"
    " judge (evaluate.judge), or comparisons and a reward model",
    "mistakes": "the reward model prefers the chosen reply of every training pair that was scored;"
    " leave this source out",
    "live": "no prompt of a kept reply fits the policy, or the policy gave every kept reply again;"
    " keep more replies (rlhf live NAME --log SHARE)",
}


def _belongs(row: dict, source: PairSource) -> bool:
    if source == "mistakes":
        return row["kind"] == "training" and row.get("margin", 0.0) < 0
    if source == "contested":
        is_asked = row["kind"] in ("fresh", "training")
        return is_asked and (disagreement(row["preferences"].values()) or 0.0) > 0
    return row["kind"] == ("live" if source == "live" else "fresh")


def _pair(row: dict, source: str) -> LabelPair:
    prompt, reply_a, reply_b = row["prompt"], row["reply_a"], row["reply_b"]
    return LabelPair(
        pair_id=pair_id_of(prompt, reply_a, reply_b),
        prompt=prompt,
        reply_a=reply_a,
        reply_b=reply_b,
        source=source,
        margin=row.get("margin"),
        disagreement=disagreement(row["preferences"].values()),
        facts={key: row[key] for key in ("kind", "preferences", "live") if key in row},
    )


def choose(found: Pools, total: int, how: Pick, seed: int) -> list[LabelPair]:
    """Return at most `total` pairs, each source its share, none of them near another.

    A pair of two sources counts for the first.
    """
    shares = budgets({name: len(pairs) for name, pairs in found.items()}, total)
    chosen: list[LabelPair] = []
    known: set[str] = set()
    for name, pairs in found.items():
        new = [pair for pair in pairs if pair.pair_id not in known]
        taken = pick(new, shares[name], how, seed)
        chosen += taken
        known |= {pair.pair_id for pair in taken}
    return pick(chosen, total, "random", seed)
