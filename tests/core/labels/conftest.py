"""Pairs to label."""

from collections.abc import Callable

import pytest

from rlhf_core.labels.votes import LabelPair, pair_id_of


@pytest.fixture
def make_pair() -> Callable[..., LabelPair]:
    """Make the pair of a number, with other texts for every number."""

    def make(number: int, **known) -> LabelPair:
        words = [f"w{number}x{k}" for k in range(12)]
        prompt = [{"role": "user", "content": " ".join(words[:4])}]
        reply_a, reply_b = " ".join(words[4:8]), " ".join(words[8:])
        return LabelPair(
            pair_id_of(prompt, reply_a, reply_b), prompt, reply_a, reply_b, "onpolicy", **known
        )

    return make
