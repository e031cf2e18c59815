"""The sentence of a search for held-out prompts among training data."""

from tasks.records.heldout_check import HeldoutCheck

TWO_SPLITS = {
    "prompts": {"prompts_heldout": 100, "demonstrations_heldout": 80},
    "left_out": {"prompts_heldout": 30, "demonstrations_heldout": 20},
    "leaked": {"champion": 50},
}


def test_each_split_says_how_many_of_its_own_prompts_a_model_was_trained_on():
    """Bug: both splits said 50, the sum."""
    by_split = {name: {"champion": n} for name, n in TWO_SPLITS["left_out"].items()}
    sentence = HeldoutCheck(**TWO_SPLITS, leaked_by_split=by_split).sentence
    first = "30 of 100 prompts of prompts_heldout are left out: training prompts of champion (30)"
    assert first in sentence
    assert sentence.endswith("training prompts of champion (20)")


def test_a_record_of_an_earlier_release_is_still_read():
    assert "champion (50)" in HeldoutCheck.model_validate(TWO_SPLITS).sentence
