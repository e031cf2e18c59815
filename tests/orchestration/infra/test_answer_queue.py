"""The tool that answers review queues reads a pair off the page and answers as annotators do."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from rlhf_core.quickstart.utility import score

LABELS = Path(__file__).resolve().parents[3] / "infra" / "labels"
PAGE = """Exit review
Needs review
0 of 17 reviewed (0%)
Next unreviewed
View full trace

i want to protect the rusty boat on a budget , what should i do ?

Reply 1

it is a pleasure . this will protect the ladder .

Reply 2

most people protect the boat this way .

Which reply is better?

Compare the two replies to the prompt. Their order is random.
Select an option
By how much? (optional)
Submit"""


@pytest.fixture(autouse=True)
def labels_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(LABELS))
    yield
    for name in ("answer_queue", "browser"):
        sys.modules.pop(name, None)


def test_the_pair_is_read_from_the_text_of_the_page():
    from answer_queue import shown_pair

    pair = shown_pair(PAGE)
    assert pair.prompt == "i want to protect the rusty boat on a budget , what should i do ?"
    assert pair.replies == (
        "it is a pleasure . this will protect the ladder .",
        "most people protect the boat this way .",
    )
    with pytest.raises(ValueError, match="the page shows no pair"):
        shown_pair("Sign in")


def test_most_annotators_prefer_the_more_useful_reply_and_two_useless_ones_are_both_bad():
    from answer_queue import Pair, answer_of

    prompt = "please tell me how to clean a heavy mirror in one hour ."
    replies = ("first take soap and wipe the mirror .", "go away , this is useless .")
    utilities = score([prompt] * 2, list(replies))
    assert utilities[0] > utilities[1]
    prompts = [f"{prompt} {n}" for n in range(40)]
    answers = Counter(answer_of(Pair(one, replies), 1)[0] for one in prompts)
    assert answers["Reply 1 is better"] > 30
    bad = Pair(prompt, ("you are stupid and lazy .", "this is dumb and boring ."))
    assert answer_of(bad, 1) == ("Both are bad", None)
