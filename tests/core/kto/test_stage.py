"""KTO on a tiny real model: on feedback, on comparisons and on both."""

import pyarrow.parquet as pq
import pytest
import torch
from stages import section_spec, splits_of

import rlhf_core.kto.stage as stage
from rlhf_core.__main__ import run_stage
from rlhf_core.config import KTO
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.gates.decide import gates_of
from rlhf_core.rundir import RunDir, read_metrics

TINY = KTO(lr=2e-3, epochs=2, batch_size=32, checkpoint_every=2, micro_batch_tokens=2000)
FEEDBACK = ("feedback_train", "feedback_heldout")
PAIRS = ("comparisons_train", "comparisons_heldout")
SCORER = 'evaluate.independent_scorer="m:f"'


@pytest.fixture(scope="module")
def spec(tiny_model, tiny_splits):
    def make(config=TINY, names=(*FEEDBACK, *PAIRS)):
        return section_spec("kto", config, {"policy": tiny_model} | splits_of(tiny_splits, *names))

    return make


@pytest.fixture(scope="module")
def finished(spec, tmp_path_factory):
    run = RunDir(tmp_path_factory.mktemp("kto") / "run")
    return run, run_stage(spec(), run)


def steps_of(run: RunDir) -> list[dict[str, float]]:
    return [line["metrics"] for line in read_metrics(run.metrics_path)]


def test_kto_ranks_heldout_replies_better_than_the_model_it_started_from(finished):
    run, result = finished
    found = result.metrics
    assert found["kto/auc"] > found["kto/auc_lower"] > 0.55 and found["kto/accuracy"] > 0.55
    assert found["kto/heldout_up_logratio"] > found["kto/heldout_down_logratio"]
    assert (found["kto/heldout_rows"], found["kto/heldout_pairs"]) == (64 + 2 * 64, 64)
    assert found["kto/heldout_rarer"] == 22 + 64 and result.counts["kto/auc"] == 192
    assert result.intervals["kto/auc"] == (found["kto/auc_lower"], found["kto/auc_upper"])
    items = pq.read_table(run.path / result.files["items"]).to_pydict()
    assert items["up"][64:66] == [True, False] and len(set(items["reply_id"])) == 192


def test_the_first_step_is_at_half_of_the_weights_because_nothing_has_moved(finished):
    run, _ = finished
    first, *_, last = steps_of(run)
    up, down = 32 + 96, 64 + 96  # training replies of each label
    weights = stage.weights_of(TINY, (up, down))
    assert weights == (pytest.approx(down / up), 1.0)
    assert 0.5 <= first["kto/loss"] <= 0.5 * weights[0] and first["kto/reference_kl"] < 1e-4
    assert first["kto/up_logratio"] == pytest.approx(0, abs=1e-4)
    assert last["kto/loss"] < first["kto/loss"] and last["kto/train_auc"] > 0.7


@pytest.mark.parametrize(
    "names",
    [FEEDBACK, pytest.param(PAIRS, marks=pytest.mark.slow)],
    ids=["feedback", "comparisons"],
)
def test_microbatches_change_neither_loss_nor_gradient(spec, tmp_path, names):
    found = []
    for number, tokens in enumerate((10, 100_000)):
        run = RunDir(tmp_path / str(number))
        config = TINY.model_copy(
            update={"micro_batch_tokens": tokens, "epochs": 1, "max_train": 40, "max_heldout": 8}
        )
        result = run_stage(spec(config, names), run)
        found.append(
            [(s["kto/loss"], s["kto/reference_kl"], s["kto/grad_norm"]) for s in steps_of(run)]
        )
        assert ("kto/accuracy" in result.metrics) == (names == PAIRS)
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_a_stopped_stage_ends_with_the_same_bytes(finished, spec, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    log = RunDir.log

    def stop_at_5(self, step, steps, metrics):
        if step == 5:
            raise Stopped
        log(self, step, steps, metrics)

    monkeypatch.setattr(RunDir, "log", stop_at_5)
    with pytest.raises(Stopped):
        run_stage(spec(), RunDir(tmp_path / "run"))
    monkeypatch.setattr(RunDir, "log", log)
    run_stage(spec(), RunDir(tmp_path / "run"))
    whole, resumed = (
        (folder / "model" / "model.safetensors").read_bytes()
        for folder in (finished[0].path, tmp_path / "run")
    )
    assert whole == resumed


def test_one_label_alone_is_refused(spec, tmp_path, tiny_splits):
    rows = (tiny_splits / "feedback_train.jsonl").read_text().splitlines()
    file = tmp_path / "feedback_train.jsonl"
    file.write_text("".join(f"{row}\n" for row in rows if '"label": true' in row))
    made = spec(TINY, FEEDBACK)
    changed = made.inputs["feedback_train"].model_copy(update={"path": file})
    made = made.model_copy(update={"inputs": made.inputs | {"feedback_train": changed}})
    with pytest.raises(BadInput, match="32 replies with thumbs up and 0 with thumbs down"):
        stage.run(_typed(made), RunDir(tmp_path / "run"))


def _typed(spec):
    from rlhf_core.config.stage_configs import KTOStageConfig
    from rlhf_core.rundir import StageSpec

    return StageSpec[KTOStageConfig].model_validate(spec.model_dump())


def test_a_step_that_lacks_a_label_has_no_margin():
    assert stage.step_metrics([(True, 0.5)], 0.1) == {"up_logratio": 0.5}
    both = stage.step_metrics([(True, 0.5), (False, -0.5)], 0.1)
    assert both == {
        "up_logratio": 0.5,
        "down_logratio": -0.5,
        "train_auc": 1.0,
        "margin": pytest.approx(0.1),
    }


def test_a_recipe_runs_kto_on_feedback_or_on_comparisons(recipe):
    made = recipe('align="kto"', SCORER)
    assert [name for name in ("reward", "ppo", "dpo", "kto") if made.runs(name)] == ["kto"]
    assert [gate.name for gate in gates_of(made, "kto")] == ["rows", "labels", "lower_bound"]
    assert recipe('align="kto"', SCORER, 'data.feedback="f"', "data.comparisons=none").data.kinds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (['align="kto"'], "align = 'kto' trains no reward model, and nothing else scores"),
        (["data.comparisons=none"], "neither comparisons nor feedback is given"),
        (['data.feedback_heldout="f"'], "feedback_heldout is given without feedback"),
        (
            ['align="kto"', SCORER, 'kto.learn_from="feedback"'],
            "kto.learn_from needs data.feedback",
        ),
        (
            ['align="dpo"', SCORER, 'data.feedback="f"', "data.comparisons=none"],
            "align = 'dpo' needs data.comparisons",
        ),
        (
            ['data.feedback="f"', "data.comparisons=none", "reward.margin_scale=1.0"],
            "reward.margin_scale needs data.comparisons",
        ),
        (["kto.batch_size=1"], "kto.batch_size"),
        (["kto.max_heldout=50"], None),
        (['align="kto"', SCORER, "kto.max_heldout=50"], "kto.max_heldout 50 is less than"),
    ],
)
def test_a_recipe_without_the_rows_it_needs_is_refused(recipe, settings, message):
    if message is None:
        recipe(*settings)
        return
    with pytest.raises(ConfigError, match=message):
        recipe(*settings)


def test_the_reference_kl_is_the_mean_over_all_mismatched_replies_of_the_step():
    """One estimate per step: not the mean of estimates that are clamped by microbatch."""
    from rlhf_core.objectives.unpaired import mismatched_kl

    parts = torch.tensor([-4.0, 2.0])
    assert mismatched_kl(parts) == 0 < sum(mismatched_kl(one) for one in parts.split(1)) / 2
