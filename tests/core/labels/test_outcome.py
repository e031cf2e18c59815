"""Turn votes into comparisons, pairs apart and a list of votes."""

import json

import pytest

from rlhf_core.data.normalise import normalise
from rlhf_core.data.verdicts import named_votes
from rlhf_core.errors import BadInput
from rlhf_core.labels.outcome import labelled_data, lines
from rlhf_core.labels.votes import Vote

NAMES = {"ann": "A", "bob": "B", "cem": "C"}


def test_comparisons_are_rows_that_the_pipeline_reads(make_pair):
    pairs = [make_pair(1), make_pair(2), make_pair(3, gold="a")]
    votes = [
        Vote(pairs[0].pair_id, "ann", "a", 2.0, "a comment that no model reads"),
        Vote(pairs[0].pair_id, "bob", "a"),
        Vote(pairs[0].pair_id, "cem", "b"),
        Vote(pairs[1].pair_id, "ann", "both_bad"),
        Vote(pairs[2].pair_id, "ann", "a"),
    ]
    data = labelled_data(pairs, votes, NAMES, "w")
    (row,) = map(json.loads, lines(data.comparisons).splitlines())
    record = normalise("comparisons", ("prompt", "chosen", "rejected"), row)
    assert (record["chosen"], record["rejected"]) == (pairs[0].reply_a, pairs[0].reply_b)
    assert (record["votes_for"], record["votes_against"], record["strength"]) == (2, 1, 2.0)
    assert named_votes(record["meta"]) == [("A", 1), ("B", 1), ("C", 0)]
    assert [row["outcome"] for row in data.apart] == ["both_bad"]
    assert len(data.votes) == 5 and "comment" not in lines(data.comparisons)


def test_no_column_of_a_comparison_is_a_text_that_no_stage_reads(make_pair):
    from rlhf_core.data.columns import unused_columns

    pair = make_pair(1)
    (row,) = labelled_data([pair], [Vote(pair.pair_id, "ann", "a", 1.0)], NAMES, "w").comparisons
    format_ = ("prompt", "chosen", "rejected")
    record = normalise("comparisons", format_, row)
    assert unused_columns("comparisons", format_, row, record) == []


def test_weights_decide_between_annotators_of_unequal_accuracy(make_pair):
    pairs = [make_pair(i) for i in range(61)]
    votes = [
        Vote(pair.pair_id, name, "b" if name == "cem" and n % 2 else "a")
        for n, pair in enumerate(pairs[:60])
        for name in NAMES
    ]
    votes += [Vote(pairs[60].pair_id, "ann", "a"), Vote(pairs[60].pair_id, "cem", "b")]
    plain = labelled_data(pairs, votes, NAMES, "w")
    assert plain.report.disputes == [pairs[60].pair_id]
    weighed = labelled_data(pairs, votes, NAMES, "w", "dawid-skene")
    assert weighed.report.disputes == [] and not weighed.apart
    assert weighed.comparisons[-1]["chosen"] == pairs[60].reply_a
    weights = {row.annotator: row.weight for row in weighed.report.annotators}
    assert min(weights["ann"], weights["bob"]) > 0.95 > 0.6 > weights["cem"]


def test_votes_without_a_preference_are_refused(make_pair):
    pair = make_pair(1)
    with pytest.raises(BadInput, match="w: none of 1 pairs has a reply that most votes prefer"):
        labelled_data([pair], [Vote(pair.pair_id, "ann", "same")], NAMES, "w")
