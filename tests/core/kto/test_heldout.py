"""The held-out replies of KTO."""

import pytest

from rlhf_core.batching.batch import Sequence
from rlhf_core.errors import BadInput
from rlhf_core.kto.heldout import HeldoutReplies


def mismatched(*prompts: int) -> list[int]:
    """Return the number of the reply that each of the prompts meets."""
    sequences = [Sequence([prompt], [number]) for number, prompt in enumerate(prompts)]
    found = HeldoutReplies([], [], sequences).mismatched
    assert [one.prompt for one in found] == [[prompt] for prompt in prompts]
    return [one.response[0] for one in found]


@pytest.mark.parametrize(
    ("prompts", "replies"),
    [
        ((1, 2, 3), [2, 0, 1]),
        ((1, 1, 2, 2), [3, 3, 1, 1]),  # chosen and rejected replies in turn
        ((1, 2, 2, 2, 1), [3, 0, 0, 0, 3]),  # the first and the last prompt are the same
        ((1, 1, 1, 2, 1), [3, 3, 3, 2, 3]),
    ],
)
def test_no_prompt_meets_a_reply_to_itself(prompts, replies):
    assert mismatched(*prompts) == replies
    assert all(prompts[reply] != own for own, reply in zip(prompts, replies, strict=True))


def test_heldout_replies_to_one_prompt_are_refused():
    with pytest.raises(BadInput, match="are 3 replies to one prompt; expected replies to two"):
        mismatched(1, 1, 1)
