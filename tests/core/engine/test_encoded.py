"""Token ids of a split, encoded once and read from Arrow files."""

import pytest

from rlhf_core.batching.batch import Sequence, TrainedSequence
from rlhf_core.data.splits import save_split
from rlhf_core.engine.encoded import BATCH, encoded_once, training_rows

ROWS = [{"id": n} for n in range(2 * BATCH + 5)]


def sequences_of(rows):
    """Return none, one or two sequences of each row, as demonstrations do."""
    return [Sequence([row["id"]] * 3, [7, row["id"]]) for row in rows for _ in range(row["id"] % 3)]


def test_what_is_read_is_what_was_encoded(tmp_path):
    found, wanted = encoded_once(tmp_path, ROWS, sequences_of, Sequence), sequences_of(ROWS)
    assert len(found) == len(wanted) and list(found) == wanted
    assert found[-1] == wanted[-1] and found[BATCH - 2 : BATCH + 2] == wanted[BATCH - 2 : BATCH + 2]
    assert list(found.sizes) == [sequence.size for sequence in wanted]


def test_a_stage_that_is_resumed_encodes_nothing_again(tmp_path):
    first = encoded_once(tmp_path, ROWS, sequences_of, Sequence)
    again = encoded_once(tmp_path, ROWS, lambda rows: 1 / 0, Sequence)
    assert list(again) == list(first)


def test_a_stage_that_was_killed_while_it_encoded_encodes_again(tmp_path):
    def killed(rows):
        if rows[0]["id"]:
            raise KeyboardInterrupt
        return sequences_of(rows)

    with pytest.raises(KeyboardInterrupt):
        encoded_once(tmp_path, ROWS, killed, Sequence)
    assert list(encoded_once(tmp_path, ROWS, sequences_of, Sequence)) == sequences_of(ROWS)


def test_trained_tokens_and_empty_responses_come_through(tmp_path):
    wanted = [TrainedSequence([], [1, 2], [True, False]), TrainedSequence([3], [4], [True])]
    assert list(encoded_once(tmp_path / "a", ROWS[:1], lambda _: wanted, TrainedSequence)) == wanted
    prompts = [Sequence([1, 2], []), Sequence([3], [])]
    assert list(encoded_once(tmp_path / "b", ROWS[:1], lambda _: prompts, Sequence)) == prompts
    assert not encoded_once(tmp_path / "c", [], sequences_of, Sequence)


def test_a_limit_draws_rows_that_keep_their_order(tmp_path):
    file = tmp_path / "split.jsonl"
    save_split(file, ROWS)
    drawn = [row["id"] for row in training_rows(file, 50, seed=3)]
    assert len(set(drawn)) == 50 and drawn == sorted(drawn)
    assert drawn != [row["id"] for row in training_rows(file, 50, seed=4)]
    assert list(training_rows(file, None, seed=3)) == ROWS
