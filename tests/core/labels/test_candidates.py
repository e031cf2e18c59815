"""Sources of pairs among scored candidates."""

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.labels.candidates import choose, disagreement, people, pools, preference, unasked
from rlhf_core.labels.votes import both_orders


def row(number: int, kind: str = "training", margin: float = 1.0, **preferences) -> dict:
    return {
        "kind": kind,
        "prompt": [{"role": "user", "content": f"question {number} of many"}],
        "reply_a": f"reply a{number} it is x{number}",
        "reply_b": f"reply b{number} it is y{number}",
        "margin": margin,
        "preferences": preferences,
    }


def test_disagreement_is_the_spread_of_two_raters_or_more():
    assert disagreement([0.5]) is None
    assert disagreement([0.9, 0.1]) == pytest.approx(0.4)
    assert disagreement([0.7, 0.7, 0.7]) == 0.0
    assert preference(0.0) == 0.5 and preference(-1e6) == 0.0 and preference(1e6) == 1.0


def test_people_prefer_by_their_votes():
    assert people({"votes_for": 2, "votes_against": 1}) == {"people": pytest.approx(2 / 3)}
    assert people({"votes_for": None, "votes_against": None}) == {"people": 1.0}


def test_a_pair_that_has_a_label_is_no_candidate_in_either_order():
    rows = [row(1), row(2)]
    asked = both_orders(rows[0]["prompt"], rows[0]["reply_a"], rows[0]["reply_b"])
    mirrored = rows[0] | {"reply_a": rows[0]["reply_b"], "reply_b": rows[0]["reply_a"]}
    assert unasked([*rows, mirrored], asked) == [rows[1]]
    assert unasked(rows, ()) == rows


def test_each_source_takes_its_own_candidates_in_its_order():
    rows = [
        row(0, "fresh", 0.2, reward_1=0.5),
        row(1, margin=-0.5, reward_1=0.4, people=1.0),
        row(2, margin=-3.0, reward_1=0.05, people=1.0),
        row(3, margin=2.0, reward_1=0.9, people=1.0),
        row(4, margin=2.0, reward_1=1.0, people=1.0),
    ]
    found = pools(rows, ["onpolicy", "contested", "mistakes"], 3)
    replies = {name: [pair.reply_a[6:8] for pair in pairs] for name, pairs in found.items()}
    assert replies == {
        "onpolicy": ["a0"],
        "contested": ["a2", "a1", "a3"],
        "mistakes": ["a2", "a1"],
    }
    assert {pair.source for pair in found["mistakes"]} == {"mistakes"}


def test_a_pair_of_two_sources_is_asked_once():
    rows = [row(n, margin=-float(n), reward_1=0.1 * n, people=1.0) for n in range(1, 7)]
    found = choose(pools(rows, ["contested", "mistakes"], 6), 6, "random", 1)
    assert len({pair.pair_id for pair in found}) == len(found) >= 5
    assert {pair.source for pair in found} == {"contested", "mistakes"}


def test_pairs_with_a_live_reply_belong_to_their_own_source_and_say_whose_it_is():
    live = row(0, "live", 0.1, reward_1=0.5, reward_2=0.9) | {"live": {"trace_id": "tr-1"}}
    rows = [live, row(1, "fresh", 0.2, reward_1=0.1, reward_2=0.2)]
    found = pools(rows, ["onpolicy", "contested", "live"], 3)
    replies = {name: [pair.reply_a[6:8] for pair in pairs] for name, pairs in found.items()}
    assert replies == {"onpolicy": ["a1"], "contested": ["a1"], "live": ["a0"]}
    assert found["live"][0].facts["live"] == {"trace_id": "tr-1"}


@pytest.mark.parametrize("source", ["onpolicy", "contested", "mistakes", "live"])
def test_an_empty_source_is_refused_with_what_it_needs(source):
    with pytest.raises(BadInput, match=f"--from {source} gives no pair"):
        pools([row(1, margin=1.0, reward_1=0.7)], [source], 4)
