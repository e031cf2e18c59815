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


def test_no_prompt_meets_the_other_reply_to_itself_where_its_step_has_another_prompt():
    siblings = [Sequence([i // 2], [i]) for i in range(12)]
    for seed in range(20):
        shifted = ShiftedReplies(siblings, KTO(batch_size=4), seed=seed)
        rows = order(12, seed=seed, epoch=0)
        for step in range(1, 4):
            own = rows[4 * (step - 1) : 4 * step]
            for row, place, found in zip(own, range(4), shifted[shifted.places(step)], strict=True):
                assert found.prompt == [row // 2] != [found.response[0] // 2]
                assert found.response[0] in own
                if own[place - 1] // 2 != row // 2:
                    assert found.response == [own[place - 1]]  # as TRL shifts them


def test_a_step_of_one_prompt_takes_replies_of_earlier_steps():
    two = [Sequence([7], [row]) for row in range(5)] + [Sequence([8], [5])]
    for seed in range(20):
        shifted = ShiftedReplies(two, KTO(batch_size=2), seed=seed)
        assert all((one.prompt == [7]) == (one.response == [5]) for one in shifted)
    one_prompt = ShiftedReplies(
        [Sequence([7], [row]) for row in range(4)], KTO(batch_size=2), seed=1
    )
    assert sorted(one.response[0] for one in one_prompt) == [0, 1, 2, 3]
