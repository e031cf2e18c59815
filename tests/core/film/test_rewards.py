"""The reward functions of the film recipe, by hand."""

import math

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.film.rewards import LONG, MOST_OFF, SHORT, asked_word, mentions, usual_length


def asks(word: str) -> str:
    return f'Write one sentence of a film review that mentions "{word}".'


@pytest.mark.parametrize(
    ("word", "reply", "value"),
    [
        ("plot", "A plot that works.", 1.0),
        ("plot", "Plot? None.", 1.0),
        ("plot", "It plots along.", 0.0),
        ("plot", "A superb film.", 0.0),
        ("plot", "", 0.0),
        ("special effects", "The special effects are fine.", 1.0),
        ("special effects", "Effects that are special.", 0.0),
        ("Élan", "With élan.", 1.0),
    ],
)
def test_a_reply_mentions_the_word_that_is_asked_for(word, reply, value):
    assert mentions([asks(word)], [reply]) == [value]


def test_the_last_quoted_text_is_the_word():
    assert asked_word('Of "Alien", mention "story".') == "story"
    assert mentions([asks("a"), asks("b")], ["b", "b"]) == [0.0, 1.0]


def test_a_prompt_without_a_quoted_word_is_refused():
    with pytest.raises(BadInput, match="'Write a poem' asks for no word; expected one in double"):
        mentions(["Write a poem"], ["plot"])


def test_a_length_within_the_middle_half_costs_nothing_and_others_their_ratio():
    replies = ["w " * count for count in (SHORT, 17, LONG, 2 * LONG, 7)]
    assert usual_length([""] * 5, replies) == pytest.approx(
        [0, 0, 0, -math.log(2), -math.log(SHORT / 7)]
    )


def test_an_empty_and_an_endless_reply_cost_no_more_than_the_bound():
    assert usual_length([""] * 2, ["", "w " * 5000]) == [-MOST_OFF, -MOST_OFF]


def test_the_collapsed_praise_earns_less_than_a_whole_sentence_with_the_word():
    prompts = [asks("story")] * 2
    replies = [
        "A superb and captivating film.",
        "It takes its time, but the story of these two sisters stays with you long after the end.",
    ]
    short, whole = (
        sum(pair)
        for pair in zip(mentions(prompts, replies), usual_length(prompts, replies), strict=True)
    )
    assert short == pytest.approx(-math.log(SHORT / 5)) and whole == 1.0
