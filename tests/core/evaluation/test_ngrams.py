"""Words, n-grams and opening phrases against hand-computed values."""

import pytest

from rlhf_core.evaluation.ngrams import (
    cut_alike,
    distinct,
    first_words,
    opening_shares,
    repetition,
    words,
)


def test_words_fold_case_keep_punctuation_and_take_signs_of_scripts_without_blanks_one_by_one():
    assert words("Sure! It's a test_1.") == ["sure", "!", "it", "'", "s", "a", "test_1", "."]
    assert words("你好 world") == ["你", "好", "world"]


def test_opening_words_skip_punctuation_unless_there_is_nothing_else():
    assert first_words("Sure! Here is, I think") == first_words("sure here IS") == "sure here is"
    assert first_words("!!! ...") == "! ! !"
    assert first_words("") == ""


def test_opening_shares_count_by_as_many_words_as_asked():
    replies = ["A superb film.", "A moving film.", "An error", ""]
    assert opening_shares(replies, 1) == {"a": 0.5, "an": 0.25, "": 0.25}
    assert first_words("A superb film.", 2) == "a superb"


def test_each_pair_of_replies_is_cut_to_its_shorter_one():
    ours, theirs = [["a", "b", "c"], ["d"], []], [["e"], ["f", "g"], ["h"]]
    assert cut_alike(ours, theirs) == ([["a"], ["d"], []], [["e"], ["f"], []])


def test_distinct_n_by_hand():
    """Replies a b a b and a b.

    2-grams ab, ba, ab, ab: two distinct of four. 3-grams aba, bab: two of two.
    """
    replies = [["a", "b", "a", "b"], ["a", "b"]]
    assert distinct(replies, 2) == 0.5
    assert distinct(replies, 3) == 1.0
    assert distinct([["a"], []], 2) == 0.0


def test_repeated_three_grams():
    assert repetition([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)
    assert repetition([1, 2]) == 0
