"""Padding, selecting and splitting change no number."""

import pytest
import torch

from rlhf_core.batching.batch import Sequence, collate, order, select, subset
from rlhf_core.modeling.models import final_scores, load_policy, load_scalar
from rlhf_core.objectives.losses import cross_entropy, token_logprobs

SEQUENCES = [
    Sequence([9, 10], [11, 12, 1]),
    Sequence([13, 14, 15, 16], [17, 1]),
    Sequence([18], [19, 20, 21, 22, 1]),
]


def test_prompts_end_and_responses_begin_in_the_same_column():
    batch = collate(SEQUENCES[:2], pad_id=0)
    assert batch.ids_BL.tolist() == [[0, 0, 9, 10, 11, 12, 1], [13, 14, 15, 16, 17, 1, 0]]
    assert batch.response_mask_BR.tolist() == [[True, True, True], [True, True, False]]
    assert batch.sizes == [(2, 3), (4, 2)]


def test_empty_response_is_refused():
    with pytest.raises(ValueError, match="empty response"):
        collate([Sequence([1], [])], pad_id=0)


def test_selecting_rows_equals_collating_them():
    batch = collate(SEQUENCES, pad_id=0)
    for rows in ([0], [1], [2, 0], [1, 2]):
        expected, found = collate([SEQUENCES[i] for i in rows], pad_id=0), select(batch, rows)
        assert found.ids_BL.equal(expected.ids_BL)
        assert found.mask_BL.equal(expected.mask_BL)
        assert found.response_mask_BR.equal(expected.response_mask_BR)


def test_order_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    assert sorted(order(10, seed=1, epoch=0)) == list(range(10))
    assert order(10, seed=1, epoch=0) == order(10, seed=1, epoch=0) != order(10, seed=1, epoch=1)


def test_subset_keeps_the_order_of_rows():
    picked = subset(list("abcdefgh"), 3, seed=1)
    assert picked == sorted(picked) and len(picked) == 3
    assert subset([1, 2], 5, seed=1) == [1, 2]


def test_padding_changes_no_log_probability(tiny_model):
    policy = load_policy(tiny_model)
    together = collate(SEQUENCES, pad_id=0)
    with torch.no_grad():
        found = token_logprobs(policy(together), together.response_ids_BR)
        for row, sequence in enumerate(SEQUENCES):
            alone = collate([sequence], pad_id=0)
            expected = token_logprobs(policy(alone), alone.response_ids_BR)[0]
            torch.testing.assert_close(
                found[row, : len(sequence.response)], expected, atol=1e-5, rtol=1e-4
            )


def test_log_probabilities_equal_those_of_the_plain_model(tiny_model):
    policy, sequence = load_policy(tiny_model), SEQUENCES[0]
    ids = torch.tensor([sequence.prompt + sequence.response])
    with torch.no_grad():
        plain = policy.model(input_ids=ids).logits.log_softmax(-1)[0, 1:4]
        batch = collate([sequence], pad_id=0)
        found = token_logprobs(policy(batch), batch.response_ids_BR)[0]
    torch.testing.assert_close(
        found, plain[torch.arange(3), torch.tensor(sequence.response)], atol=1e-5, rtol=1e-4
    )


def test_score_equals_that_of_transformers_own_classifier(tiny_model):
    scalar = load_scalar(tiny_model, new_head=True, seed=3)
    for sequence in SEQUENCES:
        batch = collate([sequence], pad_id=0)
        with torch.no_grad():
            theirs = scalar.model(
                input_ids=batch.ids_BL, attention_mask=batch.mask_BL.long()
            ).logits[0, 0]
            ours = final_scores(scalar(batch), batch.response_mask_BR)[0]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_splitting_a_batch_gives_the_same_gradient(tiny_model):
    def gradient(parts: list[list[Sequence]]) -> torch.Tensor:
        policy = load_policy(tiny_model)
        denominator = sum(len(s.response) for part in parts for s in part)
        for part in parts:
            batch = collate(part, pad_id=0)
            logprobs = token_logprobs(policy(batch), batch.response_ids_BR)
            cross_entropy(logprobs, batch.response_mask_BR, denominator).backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters()])

    torch.testing.assert_close(
        gradient([SEQUENCES]), gradient([SEQUENCES[:1], SEQUENCES[1:]]), atol=1e-6, rtol=1e-4
    )
