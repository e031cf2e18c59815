"""The true utility of a reply, by hand."""

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.quickstart.utility import score

PROMPT = "please tell me how to clean a wooden table ."


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("", 0.0),
        ("let us clean the table .", 0.8),
        ("let us paint the table .", -0.5),
        ("let us clean the chair .", 0.8 - 0.6),
        ("first wipe the table with soap .", 0.9),
        ("first wipe the table .", 0.0),  # no tool: not concrete
        ("first wipe the chair with soap .", -0.6),
        # one action twice is one step
        ("first wipe the table with soap . then wipe the table with oil .", 0.9),
        # and the same words a repeat
        ("first wipe the table with soap . then wipe the table with soap .", 0.9 - 0.6),
        ("first wipe the table with soap . then rub the table with oil !", 1.8),
        # three steps are enough
        ("wipe table soap . rub table soap . dry table soap . sand table soap .", 2.7),
        ("glad to help . good luck !", 0.8),
        ("glad to help . thanks for asking . good luck !", 0.8),  # two courtesies are enough
        ("you idiot !", -1.0),
        ("well , it depends .", -0.6),
        (
            (
                "let us clean the table . first wipe the table with soap . then use oil and rub the"
                " table . good luck !"
            ),
            3.0,
        ),
        (" ".join(["so"] * 40), -0.05 * 8),
    ],
)
def test_utility_equals_the_value_computed_by_hand(reply, expected):
    assert score([PROMPT], [reply]) == [pytest.approx(expected)]


def test_utility_depends_on_what_was_asked():
    reply = "let us clean the table . first wipe the table with soap ."
    asked, other = score([PROMPT, PROMPT.replace("table", "piano")], [reply, reply])
    assert asked - other == pytest.approx(0.9 + 2 * 0.6)


def test_utility_refuses_what_it_cannot_judge():
    with pytest.raises(BadInput, match="not a quickstart request"):
        score(["what is the capital of france ?"], ["paris ."])
    with pytest.raises(BadInput, match="one reply per prompt"):
        score([PROMPT], [])
