"""Votes become labels, labels become rows."""

import pytest

from rlhf_core.labels.aggregation import apart_row, comparison, label_of
from rlhf_core.labels.votes import Vote

NAMES = {"ann": "A", "bob": "B", "cem": "C"}


def cast(pair, *choices: str, strengths=(None,) * 5) -> list[Vote]:
    return [
        Vote(pair.pair_id, name, choice, strength)
        for name, choice, strength in zip(
            ["ann", "bob", "cem", "dee", "eve"], choices, strengths, strict=False
        )
    ]


@pytest.mark.parametrize(
    ("choices", "outcome"),
    [
        (["a"], "a"),
        (["b", "b", "a"], "b"),
        (["a", "b"], "dispute"),
        (["a", "b", "same"], "dispute"),
        (["a", "a", "same"], "a"),
        (["same", "same", "a"], "same"),
        (["both_bad", "both_bad", "a"], "both_bad"),
        (["a", "cannot_judge", "cannot_judge"], "a"),
        (["cannot_judge"], "unjudged"),
        ([], "unjudged"),
    ],
)
def test_the_choice_with_strictly_most_votes_is_the_label(make_pair, choices, outcome):
    pair = make_pair(1)
    assert label_of(pair, cast(pair, *choices)).outcome == outcome


def test_weights_decide_a_dispute_by_the_log_odds_of_the_voters(make_pair):
    pair = make_pair(1)
    votes = cast(pair, "a", "b", "b")
    accurate = {"ann": 0.95, "bob": 0.6, "cem": 0.6}
    label = label_of(pair, votes, accurate)
    assert label.outcome == "a"
    # odds 0.95/0.05 against (0.6/0.4)^2
    assert label.probability == pytest.approx(19 / (19 + 2.25))
    even = label_of(pair, cast(pair, "a", "b"), {"ann": 0.8, "bob": 0.8})
    assert even.outcome == "dispute"


def test_a_row_of_comparisons_has_votes_names_and_mean_strength(make_pair):
    pair = make_pair(1)
    votes = cast(pair, "b", "a", "b", "same", strengths=(3.0, 2.0, 1.0, None))
    row = comparison(label_of(pair, votes), NAMES | {"dee": "D"}, "week-48")
    assert row == {
        "prompt": pair.prompt,
        "chosen": pair.reply_b,
        "rejected": pair.reply_a,
        "votes": [1, 0, 1],
        "annotators": ["A", "B", "C"],
        "source": "onpolicy",
        "pair_id": pair.pair_id,
        "campaign_id": "week-48",
        "strength": 2.0,
    }


def test_a_pair_kept_apart_names_its_outcome_and_every_choice(make_pair):
    pair = make_pair(1)
    row = apart_row(label_of(pair, cast(pair, "both_bad", "both_bad")), NAMES, "w")
    assert row["outcome"] == "both_bad" and row["choices"] == ["both_bad"] * 2
    assert (row["reply_a"], row["reply_b"]) == (pair.reply_a, pair.reply_b)
