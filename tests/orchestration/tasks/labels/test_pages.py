"""Show a pair on the page, and read its answers."""

import pytest

from rlhf_core.labels.votes import LabelPair
from tasks.labels.pages import ShownPair, choice_of

PROMPT = [{"role": "user", "content": "p" * 3000}]


def test_answers_are_about_the_reply_shown_first_and_choices_about_the_pair():
    assert choice_of("Reply 1 is better", swapped=False) == "a"
    assert choice_of("Reply 1 is better", swapped=True) == "b"
    assert choice_of("Both are bad", swapped=True) == "both_bad"
    assert choice_of("perhaps", swapped=False) is None and choice_of(3, swapped=True) is None


@pytest.mark.parametrize("lengths", [(100, 200), (3000, 100), (100, 3000), (3000, 3000)])
def test_previews_keep_the_bound_of_the_page_and_the_trace_has_the_rest(lengths):
    replies = ("x" * lengths[0], "y" * lengths[1])
    shown = ShownPair.of(LabelPair("id", PROMPT, *replies, "onpolicy"), swapped=False)
    preview = shown.response_preview(1000)
    assert len(preview) <= 1000 and "Reply 1" in preview and "Reply 2" in preview
    for reply in replies:
        assert (reply in preview) == (len(reply) < 500)
    assert len(shown.request_preview(1000)) == 1000
    assert shown.inputs["prompt"] == PROMPT[0]["content"] and shown.inputs["reply 2"] == replies[1]
