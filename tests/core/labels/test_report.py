"""The report of a campaign."""

import pytest

from rlhf_core.labels.report import campaign_report
from rlhf_core.labels.votes import Vote


def test_each_annotator_is_compared_with_the_others_and_with_the_gold_items(make_pair):
    pairs = [make_pair(1), make_pair(2), make_pair(3, gold="b")]
    one, two, gold = (pair.pair_id for pair in pairs)
    votes = [
        Vote(one, "ann", "a", at=100.0, first="a"),
        Vote(one, "bob", "a", first="b"),
        Vote(one, "cem", "b", first="a"),
        Vote(two, "ann", "both_bad", at=110.0, first="a"),
        Vote(gold, "ann", "b", at=130.0, first="b"),
        Vote(gold, "cem", "a", first="a"),
    ]
    report = campaign_report(pairs, votes)
    ann, bob, cem = report.annotators
    assert (ann.annotator, ann.votes, ann.both_bad, ann.pace) == ("ann", 3, 1, 15.0)
    assert ann.gold[0] == 1.0 and cem.gold[0] == 0.0 and bob.gold is None
    assert ann.first[0] == 1.0 and bob.first[0] == 0.0
    # of the others of bob one votes a and one b: no majority to be with
    assert (bob.with_others, cem.with_others[0]) == (None, 0.0)
    assert report.outcomes == {"a": 1, "both_bad": 1}  # gold items are no data


def test_a_pause_is_no_pace(make_pair):
    pairs = [make_pair(i) for i in range(4)]
    times = [0.0, 20.0, 5000.0, 5030.0]
    votes = [Vote(p.pair_id, "ann", "a", at=t) for p, t in zip(pairs, times, strict=True)]
    assert campaign_report(pairs, votes).annotators[0].pace == 25.0


def test_alpha_counts_the_pairs_in_dispute_and_names_them(make_pair):
    pairs = [make_pair(i) for i in range(40)]
    votes = []
    for number, pair in enumerate(pairs):
        votes += [Vote(pair.pair_id, "ann", "a"), Vote(pair.pair_id, "bob", "ab"[number % 4 == 0])]
    report = campaign_report(pairs, votes)
    assert len(report.disputes) == 10 and report.alpha.n == 40
    # three of four pairs agree: 1 - (1 - 0.75) * (2 - 1 / 80)
    assert report.alpha.alpha == pytest.approx(1 - 0.25 * (2 - 1 / 80))
    assert report.alpha.low < report.alpha.alpha < report.alpha.high
