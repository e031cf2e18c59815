"""Who labels which pair."""

from collections import Counter

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.labels.assignment import assign, further, require_annotators

NAMES = ["ann", "bob", "cem", "dee"]


def votes_per_pair(assigned) -> Counter:
    return Counter(pair for pairs in assigned.values() for pair in pairs)


def test_the_overlap_has_three_annotators_a_pair_and_the_rest_one(make_pair):
    pairs = [make_pair(i) for i in range(200)]
    votes = votes_per_pair(assign(pairs, NAMES, overlap=0.25, seed=1))
    assert Counter(votes.values()) == {3: 50, 1: 150}


def test_two_annotators_share_the_overlap(make_pair):
    votes = votes_per_pair(assign([make_pair(i) for i in range(8)], NAMES[:2], overlap=1, seed=1))
    assert set(votes.values()) == {2}


def test_loads_differ_by_one_vote_at_most(make_pair):
    assigned = assign([make_pair(i) for i in range(201)], NAMES, overlap=0.25, seed=3)
    loads = [len(pairs) for pairs in assigned.values()]
    assert max(loads) - min(loads) <= 1 and sum(loads) == 201 + 2 * 50


def test_everybody_gets_the_gold_items_in_an_order_of_their_own(make_pair):
    pairs = [*(make_pair(i) for i in range(20)), *(make_pair(i, gold="a") for i in range(20, 25))]
    gold = {pair.pair_id for pair in pairs if pair.gold}
    assigned = assign(pairs, NAMES, overlap=0, seed=1)
    assert all(gold <= set(own) for own in assigned.values())
    assert len({tuple(p for p in own if p in gold) for own in assigned.values()}) > 1


def test_the_same_seed_assigns_the_same(make_pair):
    pairs = [make_pair(i) for i in range(30)]
    assert assign(pairs, NAMES, overlap=0.5, seed=1) == assign(pairs, NAMES, overlap=0.5, seed=1)
    assert assign(pairs, NAMES, overlap=0.5, seed=1) != assign(pairs, NAMES, overlap=0.5, seed=2)


@pytest.mark.parametrize(
    ("names", "says"),
    [([], "none"), (["ann", " "], "names of those"), (["ann", "Ann"], "ann more than once")],
)
def test_annotators_without_a_name_of_their_own_are_refused(names, says):
    with pytest.raises(BadInput, match=says):
        require_annotators(names)


def test_a_further_vote_goes_to_the_least_busy_who_was_not_asked():
    have = {"ann": ["p", "q"], "bob": ["p"], "cem": ["q"]}
    assert further(["p"], have, ["ann", "bob", "cem"], seed=1) == {"cem": ["p"]}
    assert further(["p", "q"], have, ["ann", "bob"], seed=1) == {"bob": ["q"]}  # p: nobody is left
