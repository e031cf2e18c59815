"""The live gate: what sends a candidate forward or back, and when it looks."""

import random

import numpy as np
import pytest

from rlhf_core.contest.spending import level, spent_share
from rlhf_core.live.gate import CONFIDENCE, FIRST, LOOKS, MOST, decide_live, latest_look, replies_at
from rlhf_core.live.measures import (
    MIN_THUMBS,
    JudgedReply,
    compare_replies,
    is_refusal,
    share_difference,
)
from rlhf_core.live.verdict import LiveMeasure

TOPICS = [f"topic{number}" for number in range(40)]
VERBS = ["Clean", "Take", "Begin", "Look", "Wait", "Ask", "Wash", "Use", "Try", "Move"]


def reply_to(topic: str, draw: random.Random) -> str:
    """Return a reply about its prompt, of 9 to 15 words that rarely repeat."""
    rest = " ".join(draw.sample([f"word{number}" for number in range(60)], draw.randint(6, 12)))
    return f"{draw.choice(VERBS)} {draw.choice(VERBS)} {topic} {rest}"


def replies(count: int, seed: int, change=None, every_ms: int = 100) -> list[JudgedReply]:
    """Return replies of one version. change: (reply, number) -> changed fields of a reply."""
    draw, found = random.Random(seed), []
    for number in range(count):
        topic = draw.choice(TOPICS)
        fields = {
            "identity": f"{seed}-{number}",
            "time_ms": 1_000_000 + every_ms * number,
            "prompt": f"tell me about {topic} please",
            "reply": reply_to(topic, draw),
            "finish_reason": "stop",
        }
        found.append(JudgedReply(**fields | (change(fields, number) if change else {})))
    return found


def verdict(candidate: list[JudgedReply], champion: list[JudgedReply] | None = None):
    return decide_live(
        ("3", "4"), champion or replies(4 * len(candidate), 1, every_ms=25), candidate
    )


def measure(found: list[LiveMeasure], name: str) -> LiveMeasure:
    return next(each for each in found if each.name == name)


def test_a_candidate_like_the_champion_goes_forward_in_time():
    found = verdict(replies(800, 2))
    assert found.decision == "forward" and found.look == 5
    assert (found.champion_n, found.candidate_n) == (3197, 800)  # up to the candidate's last
    assert "version 4 is not worse than the champion, version 3" in found.reason
    assert {each.finding for each in found.measures} == {"well", "too few"}


def test_few_replies_decide_nothing_and_the_next_look_is_named():
    found = verdict(replies(60, 2))
    assert found.decision == "continue" and found.candidate_n == FIRST
    assert "the next look is at 100" in found.reason
    found = verdict(replies(FIRST - 1, 2))
    assert (found.decision, found.look, found.level) == ("continue", 0, None)
    assert "version 4 has 49" in found.reason and "expected 50 of each" in found.reason
    assert verdict(replies(100, 2), replies(20, 1)).reason.startswith("too few")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("refusal_share", lambda f, n: {"reply": "I'm sorry, but I can't help with that."}),
        ("empty_share", lambda f, n: {"reply": " "}),
        ("cut_off_share", lambda f, n: {"finish_reason": "length"}),
        ("length_rise", lambda f, n: {"reply": f"{f['reply']} {f['reply']}"}),
        ("length_fall", lambda f, n: {"reply": " ".join(f["reply"].split()[:4])}),
        ("repetition", lambda f, n: {"reply": f["reply"] + " again" * 12}),
        ("opening_share", lambda f, n: {"reply": f"What a question! {f['reply']}"}),
        ("prompt_loss", lambda f, n: {"reply": f["reply"].replace("topic", "thing")}),
        ("thumbs_down_share", lambda f, n: {"thumbs": (False,)}),
    ],
)
def test_each_measure_alone_sends_a_candidate_back(name, change):
    champion = replies(800, 1, lambda f, n: {"thumbs": (True,)}, every_ms=25)
    found = verdict(replies(200, 2, change), champion)
    bad = measure(found.measures, name)
    assert found.decision == "back" and bad.finding == "worse" and bad.lower > bad.limit
    assert f"{name} {bad.candidate:.3g}" in found.reason


def test_a_refusal_is_told_from_an_apology():
    assert is_refusal("I\u2019m sorry, I can\u2019t help with that.")
    assert is_refusal("As an AI, I have no opinion.") and is_refusal("I am unable to do so.")
    assert not is_refusal("I'm sorry to hear that. Take a rest.")
    assert not is_refusal("You can't do that, but try this.") and not is_refusal("")


def test_asking_more_often_is_no_further_look():
    champion, candidate = replies(800, 1, every_ms=25), replies(199, 2)
    first = verdict(candidate[:100], champion)
    assert first.look == 2
    assert all(verdict(candidate[:count], champion) == first for count in (101, 150, 199))
    shuffled = random.Random(0).sample(candidate, len(candidate))
    assert verdict(shuffled, champion) == first


def test_all_looks_together_spend_less_than_the_error_budget():
    assert [replies_at(look) for look in (1, 2, 7)] == [50, 100, 3200] and MOST == 3200
    assert [latest_look(n) for n in (0, 49, 50, 99, 100, 10**6)] == [0, 0, 1, 1, 2, LOOKS]
    assert 0.75 < spent_share(LOOKS) < 1


def test_replies_from_before_the_other_version_answered_do_not_count():
    bad = replies(500, 1, lambda f, n: {"reply": "", "time_ms": 1000 + n})  # on another day
    found = verdict(replies(200, 2), bad + replies(800, 3, every_ms=25))
    assert measure(found.measures, "empty_share").champion == 0
    assert found == verdict(replies(200, 2), replies(800, 3, every_ms=25))


def test_few_thumbs_do_not_decide():
    few = replies(400, 2, lambda f, n: {"thumbs": (False,) if n < MIN_THUMBS - 1 else ()})
    champion = replies(1600, 1, lambda f, n: {"thumbs": (True,)}, every_ms=25)
    thumbs = measure(verdict(few, champion).measures, "thumbs_down_share")
    assert (thumbs.finding, thumbs.candidate, thumbs.candidate_n) == ("too few", 1.0, 19)


def test_many_replies_of_the_champion_are_thinned_evenly():
    found = verdict(replies(100, 2), replies(9900, 1, every_ms=1))
    assert found.champion_n == 396  # every 25th, at most 4 for each of the candidate's


def test_shares_have_newcombes_interval():
    """56/70 - 48/80 is 0.20, its 95% interval 0.0524 to 0.3339 (Newcombe 1998, table II, a)."""
    champion = replies(80, 1, lambda f, n: {"finish_reason": "length" if n < 48 else "stop"})
    candidate = replies(70, 2, lambda f, n: {"finish_reason": "length" if n < 56 else "stop"})
    found = measure(compare_replies(champion, candidate, 0.025), "cut_off_share")
    assert found.upper == pytest.approx(0.3339, abs=5e-5)
    shared = measure(compare_replies(champion, candidate, 9 * 0.025), "cut_off_share")
    assert shared.lower == pytest.approx(0.0524, abs=5e-5)


def test_a_candidate_at_a_limit_is_wrongly_sent_back_or_forward_rarely():
    """Of 400 candidates whose replies are cut off 10% more, at most 5% go either way."""
    draw, decided = np.random.default_rng(0), {"worse": 0, "well": 0}
    for _ in range(400):
        champion, candidate = draw.random(4 * MOST) < 0.1, draw.random(MOST) < 0.2
        found = set()
        for look in range(1, LOOKS + 1):
            n, at = replies_at(look), level(look, CONFIDENCE)
            seen = (champion[: 4 * n], candidate[:n])
            found |= {"worse"} if share_difference(seen, 1 - 2 * at / 9)[0] > 0.1 else set()
            found |= {"well"} if share_difference(seen, 1 - 2 * at)[1] < 0.1 else set()
        for each in found:
            decided[each] += 1
    assert decided["worse"] <= 20 and decided["well"] <= 20
