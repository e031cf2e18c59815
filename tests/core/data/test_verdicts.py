"""Scores beside a pair that contradict its label are found, whatever their names."""

import pytest

from rlhf_core.data.transcripts import RejectedRow
from rlhf_core.data.verdicts import score_contradiction, score_tie, thumb, verdict


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"score_chosen": 3.0, "score_rejected": 7.0}, "score_chosen 3 is less than score_rejecte"),
        ({"chosen_score": "3", "rejected_score": "7"}, "chosen_score 3 is less than"),
        ({"chosen-rating": 3, "rejected-rating": 7}, "chosen-rating 3 is less than"),
        ({"margin": -2.0}, "margin -2 is negative"),
        ({"strength": -1}, "strength -1 is negative"),
        ({"labels": 0}, "labels is 0: the second answer is the better one"),
        ({"labels": 1}, None),
        ({"labels": 0, "human_ref_A": "x"}, None),
        ({"score_chosen": 7, "score_rejected": 3, "margin": 4}, None),
        ({"score_chosen": 3, "score_rejected": 3}, None),
        ({"score_chosen": 3, "score_rejected": None}, None),
        ({"score_chosen": float("nan"), "score_rejected": 1.0}, None),
        ({"margin": "unknown"}, None),
        ({"votes_for": 1, "votes_against": 2}, "2 of 3 votes are against the chosen answer"),
        ({"votes": [0, 1, 0, 0]}, "3 of 4 votes are against"),
        ({"labels": ["rejected", "chosen", "rejected"]}, "2 of 3 votes are against"),
        ({"votes_for": 2, "votes_against": 2}, None),
        ({"votes_for": 2, "votes_against": 1}, None),
        ({}, None),
    ],
)
def test_a_pair_whose_numbers_prefer_the_rejected_answer_is_found(row, reason):
    found = score_contradiction(row)
    assert found is None if reason is None else reason in found


def test_equal_scores_are_a_tie_and_missing_ones_are_not():
    row = {"score_chosen": "3.0", "score_rejected": 3}
    assert score_tie(row) == "score_chosen and score_rejected are both 3"
    assert score_tie({"score_chosen": None, "score_rejected": None}) is None
    assert score_tie({"score_chosen": 3, "score_rejected": 4}) is None


def test_a_verdict_is_a_thumb_and_no_other_label():
    labels = {True: True, " False": False, 0: False, "0": False, "Down": False, "up": True}
    assert {label: verdict({"label": label}) for label in labels} == labels
    assert [verdict(row) for row in ({"label": 2}, {"label": "polite"}, {})] == [None] * 3


@pytest.mark.parametrize("label", [True, 1, 1.0, "true", " TRUE ", "1", "up", "Up"])
def test_a_label_says_thumbs_up_and_its_opposite_thumbs_down(label):
    opposites = {"true": "false", "1": "0", "up": "down"}
    opposite = opposites[label.strip().lower()] if isinstance(label, str) else not label
    assert thumb(label) is True and thumb(opposite) is False


@pytest.mark.parametrize("label", [None, -1, 2, 0.7, float("nan"), "yes", "", "thumbs", [1]])
def test_any_other_label_is_refused_because_it_may_mean_many_things(label):
    with pytest.raises(RejectedRow) as caught:
        thumb(label)
    assert caught.value.rule == "schema" and "expected true or false, 1 or 0" in str(caught.value)
