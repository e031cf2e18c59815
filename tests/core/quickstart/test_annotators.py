"""The votes of the annotators and how often each of them errs."""

import statistics
from random import Random

import pytest

from rlhf_core.quickstart.annotators import ANNOTATORS, VOTES, preference


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
