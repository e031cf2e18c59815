"""The ways of picking pairs."""

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.labels.picking import budgets, pick
from rlhf_core.labels.votes import LabelPair


def numbered(pairs: list[LabelPair], made: list[LabelPair]) -> list[int]:
    return [made.index(pair) for pair in pairs]


def test_uncertain_takes_the_smallest_margins_first_and_unknown_ones_last(make_pair):
    made = [make_pair(i, margin=m) for i, m in enumerate([2.0, -0.1, None, 0.5, -3.0])]
    assert numbered(pick(made, 5, "uncertain", 1), made) == [1, 3, 0, 4, 2]


def test_disagreement_takes_the_most_disagreement_first(make_pair):
    made = [make_pair(i, disagreement=d) for i, d in enumerate([0.1, None, 0.4, 0.2])]
    assert numbered(pick(made, 3, "disagreement", 1), made) == [2, 3, 0]


def test_random_depends_on_the_seed_and_not_on_the_order_of_the_candidates(make_pair):
    made = [make_pair(i) for i in range(40)]
    assert pick(made, 10, "random", 1) == pick(made[::-1], 10, "random", 1)
    assert pick(made, 10, "random", 1) != pick(made, 10, "random", 2)


@pytest.mark.parametrize("how", ["random", "uncertain", "disagreement", "diverse"])
def test_no_two_near_duplicates_are_picked(make_pair, how):
    made = [make_pair(i, margin=float(i), disagreement=0.1 * i) for i in range(4)]
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen " * 2
    made += [
        LabelPair(f"near{i}", made[0].prompt, long, long + f"end{i}", "x", 0.0, 0.5)
        for i in range(6)
    ]
    found = pick(made, 8, how, 1)
    assert len(found) == 5 and sum(pair.pair_id.startswith("near") for pair in found) == 1


def test_diverse_begins_each_pick_farthest_from_those_before(make_pair):
    # three of one kind share most of their words, but not so many that they are near-duplicates
    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]
    alike = [
        LabelPair(
            f"alike{i}", [{"role": "user", "content": " ".join(words)}], f"r{i} s", "t u", "x"
        )
        for i in range(3)
    ]
    found = pick([*alike, make_pair(1), make_pair(2)], 3, "diverse", 1)
    assert sum(pair.pair_id.startswith("alike") for pair in found) == 1


@pytest.mark.parametrize("how", ["uncertain", "disagreement"])
def test_a_way_of_picking_without_its_number_is_refused(make_pair, how):
    with pytest.raises(BadInput, match=f"--pick {how} has nothing to go by: none of 3 pairs"):
        pick([make_pair(i) for i in range(3)], 2, how, 1)


def test_sources_share_the_budget_and_give_what_another_lacks():
    assert budgets({"a": 100, "b": 100}, 50) == {"a": 25, "b": 25}
    assert budgets({"a": 5, "b": 100, "c": 100}, 51) == {"a": 5, "b": 23, "c": 23}
    assert budgets({"a": 5, "b": 3}, 50) == {"a": 5, "b": 3}
    assert sum(budgets({"a": 9, "b": 9, "c": 9}, 20).values()) == 20
