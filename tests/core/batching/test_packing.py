"""Packed rows give the losses and gradients of rows of their own, in every stage.

NEFTune noise is the same in any batch, and after a resume.
"""

import os
from pathlib import Path

import pytest
import torch
from stages import section_spec, splits_of
from torch import Tensor

from rlhf_core.batching.batch import Sequence, TrainedSequence, collate
from rlhf_core.batching.packing import noise, packed, trained_mask
from rlhf_core.config import DPO, PPO, SFT, Reward, Sampling
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine.checkpoint_writer import CheckpointWriter
from rlhf_core.modeling.models import PolicyModel, load_policy, load_scalar, save_model
from rlhf_core.modeling.packed_attention import without_padding
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


def packing(policy: PolicyModel) -> PolicyModel:
    return without_padding(policy, on=True, dtype="float32")


def gradients(policy: PolicyModel) -> list[Tensor]:
    return [
        parameter.grad.clone() for parameter in policy.parameters() if parameter.grad is not None
    ]


def test_packed_rows_give_the_losses_and_gradients_of_separate_rows(policy):
    apart = loss_of(policy, [collate([s], 0) for s in SEQUENCES])
    expected = gradients(policy)
    packing(policy)
    for rows in ([SEQUENCES], [SEQUENCES[2:], SEQUENCES[:2]], [SEQUENCES[::-1]]):
        found = loss_of(policy, [collate(row, 0) for row in rows])
        assert float(found) == pytest.approx(float(apart), abs=1e-12)
        for one, wanted in zip(gradients(policy), expected, strict=True):
            torch.testing.assert_close(one, wanted, atol=1e-12, rtol=1e-9)


def test_packed_rows_in_single_precision_differ_by_rounding_only(tiny_model):
    policy, batch = load_policy(tiny_model), collate(SEQUENCES, 0)
    apart, together = loss_of(policy, [batch]), loss_of(packing(policy), [batch])
    assert float(together) == pytest.approx(float(apart), abs=1e-6)


def test_a_packed_row_holds_every_token_once_and_no_padding():
    row = packed(collate(SEQUENCES, 0))
    assert row.ids_BL.tolist() == [[token for s in SEQUENCES for token in s.prompt + s.response]]
    assert row.position_ids_BL.tolist() == [[place for s in SEQUENCES for place in range(len(s))]]
    assert row.response_ids_BR.tolist() == [[token for s in SEQUENCES for token in s.response]]
    assert row.response_mask_BR.all()
    for empty in ([Sequence([], [1])], [Sequence([2], [1]), Sequence([], [1])]):
        with pytest.raises(ValueError, match="empty prompt"):
            packed(collate(empty, 0))


DIALOGUES = [
    TrainedSequence([2, 3], [8, 1, 4, 5, 9, 1], [True, True, False, False, True, True]),
    TrainedSequence([4, 5, 6], [7, 1], [True, True]),
]


def test_the_trained_tokens_of_a_batch_are_those_of_the_sequences():
    assert trained_mask(collate(DIALOGUES, 0), DIALOGUES).tolist() == [
        [True, True, False, False, True, True],
        [True, True, False, False, False, False],
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
    batch = collate(DIALOGUES, 0)
    for packs in (False, True):
        policy.packing = packs
        logprobs_BR = token_logprobs(policy(batch), batch.response_ids_BR)
        loss = cross_entropy(logprobs_BR, trained_mask(batch, DIALOGUES), 16)
        assert float(loss.detach()) == pytest.approx(expected, abs=1e-12)


def test_noise_has_its_bound_and_is_a_sequences_own_in_every_batch():
    batch, width, alpha = collate(SEQUENCES, 0), 64, 5.0
    found = noise(batch, SEQUENCES, alpha=alpha, width=width, seeds=[7, 8, 9, 10])
    assert not found[~batch.mask_BL].any()
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
    split = [collate([SEQUENCES[3]], 0), collate(SEQUENCES[:3], 0)]
    one = loss_of(policy, whole, noises(whole, [[0, 1, 2, 3]]))
    other = loss_of(packing(policy), split, noises(split, [[3], [0, 1, 2]]))
    assert float(one) == pytest.approx(float(other), abs=1e-12)
    assert abs(float(one) - float(loss_of(policy, whole))) > 1e-6


def test_a_packed_row_holds_the_prompt_that_neighbours_share_once():
    sequences = [Sequence([2, 3], [8, 1]), Sequence([2, 3], [9, 7, 1]), Sequence([3], [5])]
    row = packed(collate(sequences, 0), share_prompts=True)
    assert row.ids_BL.tolist() == [[2, 3, 8, 1, 9, 7, 1, 3, 5]]
    assert row.position_ids_BL.tolist() == [[0, 1, 2, 3, 2, 3, 4, 0, 1]]
    assert row.spans == [(4, 0), (3, 2), (2, 0)]
    assert row.token_index_N.tolist() == [0, 1, 2, 3, 0, 1, 4, 5, 6, 7, 8]
    assert row.response_index_T.tolist() == [2, 3, 4, 5, 6, 8]
    assert row.predicting_index_T.tolist() == [1, 2, 1, 4, 5, 7]
    apart = packed(collate(sequences, 0))
    assert apart.spans == [(4, 0), (5, 0), (2, 0)]
    assert apart.predicting_index_T.tolist() == [1, 2, 5, 6, 7, 9]


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


ONCE = {"epochs": 1, "batch_size": 32, "max_train": 64, "max_heldout": 32}
ONCE |= {"micro_batch_tokens": 200}
PAIRS = ("comparisons_train", "comparisons_heldout")


@pytest.mark.parametrize("share_prompts", [False, True])
@pytest.mark.parametrize(
    ("section", "numbers"),
    [
        (Reward(lr=1e-3, **ONCE), ("loss", "grad_norm", "margin")),
        (DPO(lr=1e-3, **ONCE), ("loss", "grad_norm", "margin")),
    ],
    ids=["reward", "dpo"],
)
def test_stages_on_pairs_learn_and_measure_the_same_packed_or_not(
    section, numbers, share_prompts, tiny_model, tiny_splits, tmp_path, capsys
):
    stage, found = type(section).__name__.lower(), {}
    taken = {"policy" if stage == "dpo" else "model": tiny_model}
    more = {"train": True} if stage == "reward" else {}
    for packing in (False, True):
        how = {"packing": packing, "share_prompts": packing and share_prompts}
        config = section.model_copy(update=how)
        spec = section_spec(stage, config, taken | splits_of(tiny_splits, *PAIRS), **more)
        result = run(spec, tmp_path / str(packing))
        lines = read_metrics(tmp_path / str(packing) / "metrics.jsonl")
        steps = [line["metrics"][f"{stage}/{name}"] for line in lines for name in numbers]
        found[packing] = (steps, result.metrics[f"{stage}/heldout_margin"])
    assert "packing: " in capsys.readouterr().out
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-4, abs=1e-5)
    assert found[True][1] == pytest.approx(found[False][1], rel=1e-4, abs=1e-5)


GROUPS = {"group_size": 4}


@pytest.mark.parametrize(
    ("options", "packed_options"),
    [
        ({}, {}),
        ({"critic": "shared"}, {}),
        ({"kl_exact": True}, {}),
        (GROUPS, {"share_prompts": True}),
        (GROUPS | {"advantage": "grpo"}, {"share_prompts": True}),
        (GROUPS | {"critic": "shared"}, {"share_prompts": True}),
    ],
)
def test_a_ppo_step_scores_and_learns_the_same_packed_or_not(
    options, packed_options, tiny_model, tiny_splits, tmp_path
):
    save_model(load_scalar(tiny_model, new_head=True), load_tokenizer(tiny_model), tmp_path / "rm")
    inputs = {"policy": tiny_model, "reward": tmp_path / "rm"}
    found = []
    for packing in (False, True):
        config = PPO(
            **options | (packed_options if packing else {}),
            packing=packing,
            steps=2,
            rollout_batch=8,
            minibatches=2,
            epochs=1,
            policy_lr=1e-3,
            micro_batch_tokens=60,
            entropy_coef=0.01,
            sampling=Sampling(engine="transformers", max_new_tokens=6),
        )
        spec = section_spec("ppo", config, inputs | splits_of(tiny_splits, "prompts_train"))
        run(spec, tmp_path / str(packing))
        steps = read_metrics(tmp_path / str(packing) / "metrics.jsonl")
        metrics = [m for m in steps[0]["metrics"] if "second" not in m]
        found.append({name: [step["metrics"][name] for step in steps] for name in metrics})
    assert found[0].keys() == found[1].keys()
    for name, values in found[0].items():
        assert found[1][name] == pytest.approx(values, rel=1e-3, abs=1e-4), name


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
