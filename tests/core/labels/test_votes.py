"""Pairs, votes and the order in which replies are shown."""

from rlhf_core.labels.votes import Vote, is_swapped, mirrored, pair_id_of

PROMPT = [{"role": "user", "content": "How?"}]


def test_the_order_of_replies_is_a_fair_coin_by_seed_pair_and_annotator():
    shown = [is_swapped(1, f"pair{i}", name) for i in range(1000) for name in ("ann", "bob")]
    assert 0.45 < sum(shown) / len(shown) < 0.55
    ann, bob = shown[::2], shown[1::2]
    assert 0.4 < sum(a == b for a, b in zip(ann, bob, strict=True)) / 1000 < 0.6
    assert shown == [is_swapped(1, f"pair{i}", n) for i in range(1000) for n in ("ann", "bob")]
    assert [is_swapped(2, f"pair{i}", "ann") for i in range(1000)] != ann


def test_the_identity_of_a_pair_depends_on_the_order_and_the_border_of_its_replies():
    assert pair_id_of(PROMPT, "x", "y") != pair_id_of(PROMPT, "y", "x")
    assert pair_id_of(PROMPT, "xy", "z") != pair_id_of(PROMPT, "x", "yz")


def test_a_mirrored_choice_exchanges_the_replies_and_nothing_else():
    assert [mirrored(c) for c in ("a", "b", "same", "both_bad", "cannot_judge")] == [
        "b",
        "a",
        "same",
        "both_bad",
        "cannot_judge",
    ]


def test_a_vote_knows_if_it_prefers_the_reply_shown_first():
    assert Vote("p", "ann", "a", first="a").prefers_first is True
    assert Vote("p", "ann", "a", first="b").prefers_first is False
    assert Vote("p", "ann", "a").prefers_first is None
    assert Vote("p", "ann", "same", first="a").prefers_first is None
