"""Thumbs on live replies become rows: the majority of people, once per reply."""

from datetime import UTC, datetime

import pytest

from rlhf_core.errors import BadInput
from tasks.live.people import PersonsFeedback
from tasks.live.replies import LiveReply
from tasks.live.thumbs import ThumbRows, WantedThumbs, thumb_rows

ASKED = [{"role": "user", "content": "How do I paint a door?"}]
CHANGED = (("ann", False, 1), ("ann", True, 9))


def reply(number: int, *given: tuple, text: str = "", messages=None, name: str = "thumb"):
    """Return a reply with feedback (author, value, milliseconds)."""
    return LiveReply(
        trace_id=f"tr-{number}",
        reply_id=f"chatcmpl-{number}",
        model="tiny-policy-2",
        version="2",
        messages=messages or ASKED,
        settings={},
        reply=text or f"Sand it {number} times.",
        finish_reason="stop",
        time_ms=1000 * number,
        feedback=tuple(PersonsFeedback(name, value, author, at) for author, value, at in given),
    )


def labels(*replies: LiveReply) -> tuple[list[bool], dict[str, int]]:
    found = thumb_rows(replies, WantedThumbs())
    return [row["label"] for row in found.rows], dict(found.left_out)


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ([("ann", True, 1)], [True]),
        ([("", "down", 1)], [False]),
        ([("ann", 1, 1), ("bob", False, 2), ("cem", "up", 3)], [True]),
        (CHANGED, [True]),
        ([*CHANGED, ("bob", False, 3), ("cem", False, 3)], [False]),
        ([("", True, 1), ("", True, 2), ("", False, 3)], [True]),
    ],
    ids=["up", "unnamed", "majority", "changed", "changed against two", "unnamed ones count each"],
)
def test_the_label_is_the_majority_of_each_persons_last_thumb(given, label):
    assert labels(reply(1, *given)) == (label, {})


def test_ties_values_that_are_no_thumb_and_replies_that_cannot_train_are_counted():
    found = labels(
        reply(1, ("ann", True, 1), ("bob", False, 1)),
        reply(2, ("ann", 0.3, 1)),
        reply(3, ("ann", True, 1), text=" "),
        reply(4, ("ann", True, 1), messages=[*ASKED, {"role": "assistant", "content": "Hm"}]),
        reply(5),
        reply(6, ("ann", True, 1), name="tone"),
    )
    assert found == (
        [],
        {
            "the reply is empty": 1,
            "the request is no conversation of text": 1,
            "as many thumbs are up as down": 1,
            "a value is no thumb (true or false, 1 or 0, up or down)": 1,
        },
    )


def test_equal_replies_to_one_prompt_are_one_row():
    same = [{"role": "user", "content": "How do I  paint a door?"}]
    found = thumb_rows(
        [
            reply(1, ("ann", True, 1), text="Sand it."),
            reply(2, ("bob", False, 2), ("cem", False, 3), text="Sand it.", messages=same),
            reply(3, ("ann", True, 1)),
        ],
        WantedThumbs(),
    )
    assert [(row["completion"], row["label"]) for row in found.rows] == [
        ("Sand it.", False),
        ("Sand it 3 times.", True),
    ]
    row = found.rows[0]
    assert (row["thumbs_up"], row["thumbs_down"], row["trace_id"]) == (1, 2, "tr-2")
    assert (row["prompt"], row["version"]) == (same, "2")
    assert row["timestamp"] == "1970-01-01T00:00:02+00:00"


def test_thumbs_are_taken_by_the_time_when_they_were_given():
    made = reply(1, ("ann", True, 1000), ("bob", False, 2000), ("cem", False, 3000))

    def counted(**times: int) -> tuple[int, int]:
        wanted = WantedThumbs(**{k: datetime.fromtimestamp(v, UTC) for k, v in times.items()})
        (row,) = thumb_rows([made], wanted).rows
        return row["thumbs_up"], row["thumbs_down"]

    assert counted() == (1, 2) and counted(since=2) == (0, 2) and counted(until=2) == (1, 0)


def test_without_a_row_the_message_says_what_there_is():
    with pytest.raises(BadInput, match=r"no reply of tiny is kept .* rlhf live tiny --log SHARE"):
        ThumbRows().require_some("tiny", WantedThumbs())
    found = thumb_rows(
        [reply(1, ("ann", True, 1), ("bob", False, 1)), reply(2, ("ann", True, 1), name="tone")],
        WantedThumbs(),
    )
    says = r"none of 2 .* 1 because as many thumbs .*; other feedback is named tone; expected"
    with pytest.raises(BadInput, match=says):
        found.require_some("tiny", WantedThumbs())
