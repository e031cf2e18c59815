"""DPO on a tiny real model: learning, counts, and resume after a kill."""

import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file
from stages import section_spec, splits_of
from transformers import AutoModelForCausalLM

import rlhf_core.dpo as stage
from rlhf_core.__main__ import run_stage
from rlhf_core.config import DPO, LoRA
from rlhf_core.config.gate_rules import GateRule
from rlhf_core.errors import ConfigError
from rlhf_core.evidence.item_metrics import ITEM_METRICS
from rlhf_core.gates.decide import gates_of
from rlhf_core.gates.measure import measure
from rlhf_core.reward import aligned_policy
from rlhf_core.rundir import RunDir, read_metrics

TINY = DPO(lr=1e-3, epochs=2, batch_size=16, checkpoint_every=2, micro_batch_tokens=400)
SCORER = 'evaluate.independent_scorer="m:f"'


@pytest.fixture(scope="module")
def spec(tiny_model, tiny_splits):
    splits = splits_of(tiny_splits, "comparisons_train", "comparisons_heldout")
    return lambda config=TINY: section_spec("dpo", config, {"policy": tiny_model} | splits)


@pytest.fixture(scope="module")
def finished(spec, tmp_path_factory):
    run = RunDir(tmp_path_factory.mktemp("dpo") / "run")
    return run, run_stage(spec(), run)


def steps_of(run: RunDir) -> list[dict[str, float]]:
    return [line["metrics"] for line in read_metrics(run.metrics_path)]


def weights(run: RunDir) -> bytes:
    return (run.path / "model" / "model.safetensors").read_bytes()


def test_a_pairs_weight_is_found_by_its_place_and_multiplies_its_loss():
    pairs = stage.WeightedPairs([], torch.tensor([0.5, 1.0, 1.5]))
    weight = pairs.weights([4, 5, 0, 1])
    assert weight.tolist() == [1.5, 0.5]
    assert stage.WeightedPairs([], 1.0).weights([4, 5]) == 1.0
    logratio = torch.tensor([5.0, -5.0, -15.0, 5.0])  # beta h: 1 and -2
    found = stage.pair_loss(logratio, 2, DPO(beta=0.1), weight=weight)
    assert float(found) == pytest.approx((1.5 * 0.313262 + 0.5 * 2.126928) / 2, abs=1e-6)
    found = stage.pair_loss(logratio, 2, DPO(beta=0.1, loss="ipo"), weight=weight)
    assert float(found) == pytest.approx((1.5 * 25 + 0.5 * 625) / 2)


def test_dpo_ranks_heldout_pairs_better_than_the_model_it_started_from(finished):
    run, result = finished
    assert result.metrics["dpo/accuracy"] > 0.6 and result.metrics["dpo/heldout_loss"] < math.log(2)
    assert steps_of(run)[-1]["dpo/train_accuracy"] > 0.8
    assert (
        result.metrics["dpo/heldout_chosen_logratio"]
        > result.metrics["dpo/heldout_rejected_logratio"]
    )
    assert AutoModelForCausalLM.from_pretrained(run.path / "model")


def test_the_first_step_is_at_log_2_because_the_policy_is_its_own_reference(finished):
    run, _ = finished
    first, *_, last = steps_of(run)
    assert first["dpo/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["dpo/chosen_logratio"] == pytest.approx(0, abs=1e-4)
    assert last["dpo/loss"] < first["dpo/loss"]


def test_a_process_started_from_one_that_learns_finds_a_port_of_its_own(finished):
    assert torch.distributed.is_initialized() and "MASTER_PORT" not in os.environ


def test_gates_can_use_what_dpo_says_of_each_heldout_pair(finished):
    run, result = finished
    known = ITEM_METRICS.keys() & result.metrics.keys()
    assert len(known) == 4
    for metric in known:
        rule = GateRule(stage="dpo", metric=metric, bound="at least", threshold=0.0, confidence=0.9)
        found = measure(rule, result, run.path)
        assert found.problem is None and found.n == result.counts[metric], (metric, found)


def test_adapters_alone_learn_and_are_merged_into_a_plain_model(spec, tiny_model, tmp_path):
    run = RunDir(tmp_path / "run")
    run_stage(spec(DPO(**TINY.model_dump() | {"lora": LoRA(rank=4), "lr": 1e-2})), run)
    before, after = (
        load_file(folder / "model.safetensors") for folder in (tiny_model, run.path / "model")
    )
    moved = {name for name in before if not before[name].equal(after[name])}
    assert (
        before.keys() == after.keys()
        and len(moved) == 2 * 7
        and all("_proj" in name for name in moved)
    )
    first, *_, last = steps_of(run)
    assert (
        first["dpo/loss"] == pytest.approx(math.log(2), abs=1e-5)
        and last["dpo/loss"] < first["dpo/loss"] - 0.02
    )


@pytest.mark.parametrize(
    "config", [TINY, DPO(**TINY.model_dump() | {"loss": "ipo"})], ids=["sigmoid", "ipo"]
)
def test_microbatches_change_neither_loss_nor_gradient(spec, tmp_path, config):
    """Steps of one pair at a time and whole steps give the same losses and gradient norms."""
    found = []
    for number, tokens in enumerate((10, 100_000)):
        run = RunDir(tmp_path / str(number))
        run_stage(spec(config.model_copy(update={"micro_batch_tokens": tokens, "epochs": 1})), run)
        found.append([(step["dpo/loss"], step["dpo/grad_norm"]) for step in steps_of(run)])
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_a_stopped_stage_ends_with_the_same_bytes_and_computes_the_reference_once(
    finished, spec, tmp_path, monkeypatch
):
    class Stopped(Exception):
        pass

    run, log = RunDir(tmp_path / "run"), RunDir.log

    def stop_at_5(self, step, steps, metrics):
        if step == 5:
            raise Stopped
        log(self, step, steps, metrics)

    monkeypatch.setattr(RunDir, "log", stop_at_5)
    with pytest.raises(Stopped):
        run_stage(spec(), run)
    monkeypatch.setattr(RunDir, "log", log)
    passes, original = [], stage.response_logprobs

    def counted(forward, sequences, *rest, **options):
        passes.append(len(sequences))
        return original(forward, sequences, *rest, **options)

    for module in (stage, aligned_policy):
        monkeypatch.setattr(module, "response_logprobs", counted)
    run_stage(spec(), RunDir(tmp_path / "run"))
    assert weights(run) == weights(finished[0])
    assert passes == [2 * 64]  # held-out pairs at the end; no reference pass over 96 + 64 pairs


def test_each_loss_by_hand():
    """Two pairs with log-ratio differences 2 and -1 nats, beta 0.5."""
    logratio_B = torch.tensor([1.5, -0.5, 0.0, 1.0], dtype=torch.float64)

    def loss(**options) -> float:
        return float(stage.pair_loss(logratio_B, 2, DPO(beta=0.5, **options)))

    def nll(x: float) -> float:
        return math.log1p(math.exp(-x))

    assert loss() == pytest.approx((nll(1.0) + nll(-0.5)) / 2)
    smoothed = 0.9 * (nll(1.0) + nll(-0.5)) / 2 + 0.1 * (nll(-1.0) + nll(0.5)) / 2
    assert loss(label_smoothing=0.1) == pytest.approx(smoothed)
    assert loss(loss="ipo") == pytest.approx(((2 - 1) ** 2 + (-1 - 1) ** 2) / 2)


def test_a_recipe_has_the_stages_of_its_alignment(recipe):
    names = ("sft", "reward", "ppo", "dpo", "evaluate")
    found = {
        setting: [name for name in names if made.runs(name)]
        for setting, made in {
            "ppo": recipe(),
            "dpo": recipe('align="dpo"', SCORER),
            "dpo, given": recipe('align="dpo"', 'model.reward="folder"'),
            "dpo, trained": recipe('align="dpo"', "evaluate.train_reward=true"),
        }.items()
    }
    assert found == {
        "ppo": ["sft", "reward", "ppo", "evaluate"],
        "dpo": ["sft", "dpo", "evaluate"],
        "dpo, given": ["sft", "reward", "dpo", "evaluate"],
        "dpo, trained": ["sft", "reward", "dpo", "evaluate"],
    }
    assert [gate.name for gate in gates_of(recipe(), "dpo")] == ["pairs", "lower_bound"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ['align="dpo"'],
            r"nothing else scores the replies.*evaluate\.independent_scorer, model\.reward",
        ),
        (
            ['align="dpo"', SCORER, "evaluate.gate.max_independent_down=0.1"],
            "max_independent_down compares",
        ),
        (
            [
                'align="dpo"',
                SCORER,
                'gates.x={stage="ppo", metric="ppo/entropy", bound="at least", threshold=1.0}',
            ],
            "gates.x is of the stage ppo, which does not run with align = 'dpo'",
        ),
        (
            ['gates.x={stage="dpo", metric="dpo/accuracy", bound="at least", threshold=0.6}'],
            "gates.x is of the stage dpo",
        ),
        (['dpo.loss="ipo"', "dpo.label_smoothing=0.1"], "label_smoothing 0.1 with loss 'ipo'"),
        (["dpo.label_smoothing=0.5"], "dpo.label_smoothing"),
        (["dpo.beta=0.0"], "dpo.beta"),
        (['align="rlhf"'], "align"),
    ],
)
def test_a_recipe_that_could_not_end_well_is_refused(recipe, settings, message):
    with pytest.raises(ConfigError, match=message):
        recipe(*settings)


def test_margins_of_the_items_are_beta_times_the_log_ratios(finished):
    import pyarrow.parquet as pq

    run, result = finished
    items = pq.read_table(run.path / result.files["items"]).to_pydict()
    mean = sum(items["chosen_score"]) / len(items["chosen_score"])
    assert mean == pytest.approx(
        TINY.beta * result.metrics["dpo/heldout_chosen_logratio"], rel=1e-4
    )
    assert json.loads((run.path / "deepspeed.json").read_text())["gradient_clipping"] == 1.0
