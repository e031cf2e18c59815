"""The votes of the annotators and how often each of them errs."""

import statistics
from random import Random

import pytest

from rlhf_core.quickstart.annotators import ANNOTATORS, VOTES, preference, votes


def test_votes_are_a_majority_of_those_asked_and_disagreement_is_kept(files):
    rows = files["comparisons_train"]
    assert all(row["votes_for"] + row["votes_against"] == VOTES for row in rows)
    assert all(row["votes_for"] > row["votes_against"] for row in rows)
    assert 0.3 < statistics.mean(row["votes_against"] > 0 for row in rows) < 0.6


@pytest.mark.parametrize("annotator", ANNOTATORS)
def test_an_annotator_errs_at_the_stated_rate_when_the_better_reply_is_clear(annotator):
    # equal length and courtesy: no leaning
    replies = ("let us clean the table .", "let us clean the chair .")
    chance = preference(annotator, replies, (20.0, -20.0))
    assert chance == pytest.approx(1 - annotator.error_rate, abs=1e-6)
    rng = Random(0)
    votes = [rng.random() < chance for _ in range(4000)]
    assert 1 - statistics.mean(votes) == pytest.approx(annotator.error_rate, abs=0.02)
    assert preference(annotator, replies, (1.0, 1.0)) == pytest.approx(0.5)


def test_votes_by_name_are_the_same_in_either_order_and_change_with_the_seed(files):
    rows = files["comparisons_train"][:60]
    prompts, chosen, rejected = (
        [row[key] for row in rows] for key in ("prompt", "chosen", "rejected")
    )
    found = votes(prompts, chosen, rejected, 1)
    assert all(len(one) == VOTES and set(one.values()) <= {"a", "b"} for one in found)
    mirrored = [{name: "b" if vote == "a" else "a" for name, vote in one.items()} for one in found]
    assert votes(prompts, rejected, chosen, 1) == mirrored
    assert votes(prompts, chosen, rejected, 1) == found != votes(prompts, chosen, rejected, 2)
    names = {name for one in found for name in one}
    assert names == {f"annotator {number}" for number in range(1, len(ANNOTATORS) + 1)}
    # the labels of the file are other draws of the same annotators
    agreeing = statistics.mean(list(one.values()).count("a") > VOTES / 2 for one in found)
    assert agreeing > 0.6
