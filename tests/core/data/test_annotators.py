"""Annotators: agreement as a rule, the table of their votes, and names that do not fit."""

import pytest

from rlhf_core.config import Rules
from rlhf_core.data.annotators import alpha_rule, annotator_table
from rlhf_core.data.normalise import normalise
from rlhf_core.data.transcripts import RejectedRow

FORMAT = ("prompt", "chosen", "rejected")


def record(place: int, **columns) -> dict:
    row = {"prompt": f"question {place}", "chosen": f"good {place}", "rejected": "bad"}
    return normalise("comparisons", FORMAT, row | columns)


def test_annotators_who_guess_fail_the_rule_and_those_who_agree_pass_it():
    guessed = [record(i, votes_for=2 - i % 2, votes_against=i % 2) for i in range(200)]
    (found,) = alpha_rule(guessed, Rules(), "split")
    assert not found["passed"] and found["severity"] == "warning"
    assert "share of votes with the majority 0.750" in found["detail"]
    agreed = [record(i, votes_for=3, votes_against=int(i % 5 == 0)) for i in range(200)]
    (found,) = alpha_rule(agreed, Rules(), "split")
    assert found["passed"] and found["found"] > 0.65 and found["expected"] == "at least 0.2"
    assert alpha_rule(agreed, Rules(annotator_alpha="off"), "split") == []
    assert alpha_rule([record(0), record(1, votes_for=1, votes_against=0)], Rules(), "split") == []


def test_each_annotator_is_compared_with_the_majority_of_the_others():
    """Cid is against the two others each time, who find each other's vote and his a tie."""
    votes = ([1, 1, 0], [1, 1, 0], [1, 1, 0])
    records = [record(i, votes=v, annotators=["Ann", "Bo", "Cid"]) for i, v in enumerate(votes)]
    tokens = {r["id"]: {"chosen": 3, "rejected": 2} for r in records}
    ann, bo, cid = annotator_table(records, tokens)
    assert (ann["annotator"], ann["pairs"], ann["compared"]) == ("Ann", 3, 0)
    assert ann["with_others"] is None and ann["prefers_longer"] == 1.0 == bo["prefers_longer"]
    assert (cid["compared"], cid["with_others"], cid["prefers_longer"]) == (3, 0.0, 0.0)
    assert cid["low"] == 0.0 and 0.5 < cid["high"] < 0.6  # Wilson's of 0 in 3


def test_one_annotator_per_row_is_listed_without_a_comparison():
    records = [record(i, annotator="Ann" if i else "Bo") for i in range(3)]
    rows = annotator_table(records, {})
    assert [(row["annotator"], row["pairs"], row["with_others"]) for row in rows] == [
        ("Ann", 2, None),
        ("Bo", 1, None),
    ]


def test_names_that_do_not_fit_the_votes_are_refused():
    with pytest.raises(RejectedRow, match="annotators has 2 names for 3 votes"):
        record(0, votes=[1, 1, 0], annotators=["Ann", "Bo"])
