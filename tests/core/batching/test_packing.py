"""Packed rows give the losses and gradients of rows of their own.

NEFTune noise is the same in any batch, and after a resume.
"""

import os
from pathlib import Path

import pytest
import torch
from stages import section_spec, splits_of
from torch import Tensor

from rlhf_core.batching.batch import Sequence, TrainedSequence, collate
from rlhf_core.batching.packing import noise, pack, require_separation, trained_mask
from rlhf_core.config import SFT
from rlhf_core.engine.checkpoint_writer import CheckpointWriter
from rlhf_core.errors import BadInput
from rlhf_core.modeling.models import PolicyModel, load_policy
from rlhf_core.objectives.losses import cross_entropy, token_logprobs
from rlhf_core.rundir import RunDir, StageSpec, read_metrics, read_result

SEQUENCES = [
    Sequence([2, 3, 7], [8, 9, 10, 1]),
    Sequence([4], [1]),
    Sequence([5, 6, 7, 8, 9, 10, 11], [12, 1]),
    Sequence([3], [20] * 9),
]


@pytest.fixture
def policy(tiny_model) -> PolicyModel:
    return load_policy(tiny_model).double()


def loss_of(policy: PolicyModel, batches: list, noises: list[Tensor] | None = None) -> Tensor:
    """The step's cross-entropy over batches, with gradients in `policy`."""
    policy.zero_grad()
    total = 0.0
    for place, batch in enumerate(batches):
        logprobs = token_logprobs(
            policy(batch, *(noises[place : place + 1] if noises else ())), batch.response_ids_BR
        )
        loss = cross_entropy(logprobs, batch.response_mask_BR, 16)
        loss.backward()
        total += loss.detach()
    return total


def gradients(policy: PolicyModel) -> list[Tensor]:
    return [
        parameter.grad.clone() for parameter in policy.parameters() if parameter.grad is not None
    ]


def test_packed_rows_give_the_losses_and_gradients_of_separate_rows(policy):
    apart = loss_of(policy, [collate([s], 0) for s in SEQUENCES])
    expected = gradients(policy)
    for batches in (
        [pack(SEQUENCES)],
        [pack(SEQUENCES[2:]), pack(SEQUENCES[:2])],
        [pack(SEQUENCES[::-1])],
    ):
        assert float(loss_of(policy, batches)) == pytest.approx(float(apart), abs=1e-12)
        for found, wanted in zip(gradients(policy), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-9)


def test_packed_rows_in_single_precision_differ_by_rounding_only(tiny_model):
    policy = load_policy(tiny_model)
    apart, together = loss_of(policy, [collate(SEQUENCES, 0)]), loss_of(policy, [pack(SEQUENCES)])
    assert float(together) == pytest.approx(float(apart), abs=1e-6)


def test_a_packed_row_holds_every_token_once_and_no_padding():
    row = pack(SEQUENCES)
    assert row.ids_BL.tolist() == [[token for s in SEQUENCES for token in s.prompt + s.response]]
    assert row.position_ids_BL.tolist() == [[place for s in SEQUENCES for place in range(len(s))]]
    assert row.response_ids_BR.tolist() == [[token for s in SEQUENCES for token in s.response]]
    assert row.response_mask_BR.all()
    with pytest.raises(ValueError, match="empty prompt"):
        pack([Sequence([], [1])])


DIALOGUES = [
    TrainedSequence([2, 3], [8, 1, 4, 5, 9, 1], [True, True, False, False, True, True]),
    TrainedSequence([4, 5, 6], [7, 1], [True, True]),
]


def test_the_trained_tokens_of_padded_and_packed_rows_are_those_of_the_sequences():
    assert trained_mask(collate(DIALOGUES, 0), DIALOGUES).tolist() == [
        [True, True, False, False, True, True],
        [True, True, False, False, False, False],
    ]
    assert trained_mask(pack(DIALOGUES), DIALOGUES).tolist() == [
        [True, True, False, False, True, True, True, True]
    ]


def test_the_loss_of_a_dialogue_is_that_of_its_answers_after_all_that_precedes_them(policy):
    """The slow way: one row per answer, with everything before it as the prompt."""
    first, second = DIALOGUES
    rows = [
        Sequence(first.prompt, first.response[:2]),
        Sequence(first.prompt + first.response[:4], first.response[4:]),
        Sequence(second.prompt, second.response),
    ]
    expected = float(loss_of(policy, [collate([row], 0) for row in rows]))
    for batch in (collate(DIALOGUES, 0), pack(DIALOGUES)):
        logprobs_BR = token_logprobs(policy(batch), batch.response_ids_BR)
        loss = cross_entropy(logprobs_BR, trained_mask(batch, DIALOGUES), 16)
        assert float(loss.detach()) == pytest.approx(expected, abs=1e-12)


def test_a_model_whose_attention_crosses_is_refused(policy):
    require_separation(policy, SEQUENCES[0], SEQUENCES[2])

    def crossing(batch):
        """Attend to everything before, as a model that ignores positions does."""
        mask = torch.ones_like(batch.ids_BL)
        keep = batch.places_T - 1
        return policy.model(
            input_ids=batch.ids_BL, attention_mask=mask, logits_to_keep=keep, use_cache=False
        ).logits

    with pytest.raises(BadInput, match="attention crosses between demonstrations"):
        require_separation(crossing, SEQUENCES[0], SEQUENCES[2])


def test_noise_has_its_bound_and_is_a_sequences_own_in_every_batch():
    batch, width, alpha = collate(SEQUENCES, 0), 64, 5.0
    found = noise(batch, SEQUENCES, alpha=alpha, width=width, seeds=[7, 8, 9, 10])
    packed = noise(pack(SEQUENCES), SEQUENCES, alpha=alpha, width=width, seeds=[7, 8, 9, 10])
    assert not found[~batch.mask_BL].any() and packed[0].equal(found[batch.mask_BL])
    for row, s in enumerate(SEQUENCES):
        own, bound = found[row][batch.mask_BL[row]], alpha / (len(s) * width) ** 0.5
        assert (
            0.9 * bound < float(own.abs().max()) <= bound and abs(float(own.mean())) < 0.2 * bound
        )
    alone = noise(collate(SEQUENCES[2:3], 0), SEQUENCES[2:3], alpha=alpha, width=width, seeds=[9])
    assert alone[0].equal(found[2][batch.mask_BL[2]])


def test_noise_moves_the_loss_and_not_by_how_rows_are_batched(policy):
    def noises(batches: list, groups: list[list[int]]) -> list[Tensor]:
        return [
            noise(b, [SEQUENCES[i] for i in group], alpha=50.0, width=64, seeds=group).double()
            for b, group in zip(batches, groups, strict=True)
        ]

    whole = [collate(SEQUENCES, 0)]
    split = [collate([SEQUENCES[3]], 0), pack(SEQUENCES[:3])]
    one, other = (
        loss_of(policy, whole, noises(whole, [[0, 1, 2, 3]])),
        loss_of(policy, split, noises(split, [[3], [0, 1, 2]])),
    )
    assert float(one) == pytest.approx(float(other), abs=1e-12)
    assert abs(float(one) - float(loss_of(policy, whole))) > 1e-6


def sft_spec(model: Path, splits: Path, **options) -> StageSpec:
    config = SFT(
        lr=3e-3, epochs=2, batch_size=32, checkpoint_every=2, micro_batch_tokens=200, **options
    )
    inputs = splits_of(splits, "demonstrations_train", "demonstrations_heldout")
    return section_spec("sft", config, {"model": model} | inputs, train=True)


def run(spec: StageSpec, folder: Path):
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from rlhf_core.__main__ import run_stage

    run_stage(spec, RunDir(folder))
    return read_result(folder)


def losses(folder: Path) -> list[float]:
    return [line["metrics"]["sft/loss"] for line in read_metrics(folder / "metrics.jsonl")]


def test_the_stage_learns_the_same_packed_or_not(tiny_model, tiny_splits, tmp_path):
    for name, packing in (("apart", False), ("packed", True)):
        run(sft_spec(tiny_model, tiny_splits, packing=packing), tmp_path / name)
    assert losses(tmp_path / "packed") == pytest.approx(losses(tmp_path / "apart"), abs=1e-4)
    assert losses(tmp_path / "packed")[0] == pytest.approx(losses(tmp_path / "apart")[0], abs=1e-6)


def test_two_runs_with_noise_give_the_same_bytes_whatever_was_drawn_before(
    tiny_model, tiny_splits, tmp_path
):
    """The noise comes from the recipe's seed and the step; another seed gives other noise."""
    spec = sft_spec(tiny_model, tiny_splits, neftune_alpha=5.0)
    digests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        digests.append(run(spec, tmp_path / str(seed)).outputs["model"].digest)
    assert digests[0] == digests[1]
    other = run(spec.model_copy(update={"seed": spec.seed + 1}), tmp_path / "other")
    assert other.outputs["model"].digest != digests[0]


def test_interrupted_training_with_noise_ends_with_the_same_bytes(
    tiny_model, tiny_splits, tmp_path, monkeypatch
):
    spec = sft_spec(tiny_model, tiny_splits, packing=True, neftune_alpha=5.0)
    whole = run(spec, tmp_path / "whole")
    original = CheckpointWriter.save

    def stop(writer, checkpoint):
        original(writer, checkpoint)
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointWriter, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path / "killed")
    monkeypatch.setattr(CheckpointWriter, "save", original)
    torch.manual_seed(99)
    resumed = run(spec, tmp_path / "killed")
    assert resumed.outputs["model"].digest == whole.outputs["model"].digest
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    run(sft_spec(tiny_model, tiny_splits, packing=True), tmp_path / "without")
    assert losses(tmp_path / "without") != losses(tmp_path / "whole")
