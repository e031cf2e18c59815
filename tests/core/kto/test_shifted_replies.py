"""Each prompt of a step meets the reply to another prompt of it."""

from rlhf_core.batching.batch import Sequence, order
from rlhf_core.config import KTO
from rlhf_core.kto.shifted_replies import ShiftedReplies

SEQUENCES = [Sequence([i], [100 + i]) for i in range(7)]


def test_a_step_has_its_own_prompts_and_replies_each_beside_another():
    config = KTO(batch_size=3, epochs=2)
    shifted = ShiftedReplies(SEQUENCES, config, seed=5)
    assert len(shifted) == 14
    for step in range(1, 7):
        epoch, position = divmod(step - 1, 3)
        rows = order(7, seed=5, epoch=epoch)[3 * position : 3 * position + 3]
        found = shifted[shifted.places(step)]
        assert [one.prompt for one in found] == [[row] for row in rows]
        assert all(one.response != [100 + row] for one, row in zip(found, rows, strict=True))
        if len(rows) > 1:
            assert sorted(one.response[0] for one in found) == sorted(100 + row for row in rows)


def test_a_step_of_one_reply_takes_that_of_the_row_before_it():
    *_, before, last = order(7, seed=5, epoch=0)
    shifted = ShiftedReplies(SEQUENCES, KTO(batch_size=3), seed=5)
    assert shifted[shifted.places(3)] == [Sequence([last], [100 + before])]
