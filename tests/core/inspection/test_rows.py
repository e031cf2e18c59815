"""Rows of a batch token by token: padding is left out, and the batch says what is trained."""

from rlhf_core.batching.batch import Sequence
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.inspection.rows import RowUse, prompt_row, rows_of_batch

LONG = Sequence([3, 6, 7], [8, 9, 1])  # <eos> is 1
SHORT = Sequence([6], [10, 11])  # cut: it does not end


def test_the_tokens_are_those_of_the_batch_without_its_padding(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    long, short = rows_of_batch(
        tokenizer, [LONG, SHORT], ["a", "b"], [RowUse("demonstration", trains=True)]
    )
    assert (long.ids, long.prompt) == ([3, 6, 7, 8, 9, 1], 3)
    assert long.texts == ["user", "w0", "w1", "w2", "w3", "<eos>"]
    assert long.trained == [False] * 3 + [True] * 3
    assert (long.ends_at, long.score_at) == (5, None)
    assert (short.ids, short.prompt, short.record) == ([6, 10, 11], 1, "b")
    assert short.trained == [False, True, True] and short.ends_at is None


def test_a_scored_answer_is_scored_at_its_last_token_and_not_trained_token_by_token(tiny_model):
    kinds = [RowUse("chosen", scores=True), RowUse("rejected", scores=True)]
    chosen, rejected = rows_of_batch(load_tokenizer(tiny_model), [LONG, SHORT], ["a", "a"], kinds)
    assert (chosen.kind, chosen.score_at, rejected.kind, rejected.score_at) == (
        "chosen",
        5,
        "rejected",
        2,
    )
    assert not any(chosen.trained + rejected.trained)


def test_a_prompt_is_read_alone(tiny_model):
    row = prompt_row(load_tokenizer(tiny_model), [3, 6], "a")
    assert (row.kind, row.prompt, row.trained, row.score_at) == ("prompt", 2, [False] * 2, None)
