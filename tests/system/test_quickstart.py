"""The whole pipeline through the command line, with every library real."""

import json
import signal
import time
from pathlib import Path

import psutil
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

SHORT = ("ppo.steps=8", "ppo.checkpoint_every=2")


def stop_in_ppo(workspace) -> tuple[int, str]:
    """Start the pipeline and end it with SIGTERM when PPO is under way.

    Return its exit code and standard error.
    """
    process = workspace.start(
        "run", "quickstart", *(flag for setting in SHORT for flag in ("--set", setting))
    )
    deadline = time.monotonic() + 500
    while not any(
        len((d / "metrics.jsonl").read_bytes().splitlines()) >= 3 for d in _started(workspace)
    ):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def _started(workspace) -> list[Path]:
    return [folder for folder in workspace.run_dirs("ppo") if (folder / "metrics.jsonl").exists()]


@pytest.fixture(scope="module")
def stopped(open_workspace) -> tuple:
    workspace = open_workspace()
    code, _ = stop_in_ppo(workspace)
    _, alive = psutil.wait_procs(workspace.processes(), timeout=15)
    return workspace, code, alive


@pytest.fixture(scope="module")
def finished(stopped) -> tuple:
    workspace, *_ = stopped
    code, document, err = workspace.run(*SHORT)
    assert code == 0, err
    return workspace, document


def stages(document: dict) -> dict[str, dict]:
    return {stage["stage"]: stage for stage in document["stages"]}


def test_sigterm_in_ppo_ends_every_process(stopped):
    _, code, alive = stopped
    assert code == 128 + signal.SIGTERM
    assert alive == []


def test_next_run_repeats_nothing_that_was_finished_and_resumes_ppo(finished):
    workspace, document = finished
    cached = {name for name, stage in stages(document).items() if stage["cached"]}
    assert cached == {"prepare", "validate", "sft", "reward"}
    steps = [
        json.loads(line)["step"] for line in (workspace.run_dirs("ppo")[0] / "metrics.jsonl").open()
    ]
    assert steps == list(range(1, 9))


def test_reward_model_passes_its_gate_on_held_out_pairs(finished):
    workspace, document = finished
    metrics = workspace.result("reward")["metrics"]
    assert {gate["verdict"] for gate in stages(document)["reward"]["gates"]} == {"passed"}
    assert metrics["reward/accuracy"] >= 0.70
    assert metrics["reward/accuracy_over_length"] > 0.1


def test_true_utility_rises_significantly_inside_the_kl_budget(finished):
    metrics = finished[0].result("evaluate")["metrics"]
    assert metrics["eval/independent_gain_lower"] > 0.3
    assert metrics["eval/kl_per_response"] < 50


def test_champions_load_from_the_registry_with_mlflow_and_with_plain_transformers(finished):
    import mlflow

    workspace, document = finished
    assert document["promotion"]["promoted"] is True
    mlflow.set_tracking_uri(f"sqlite:///{workspace.home}/mlflow.db")
    policy, reward = (
        mlflow.artifacts.download_artifacts(f"models:/quickstart-{kind}@champion")
        + "/artifacts/model"
        for kind in ("policy", "reward")
    )
    assert AutoModelForSequenceClassification.from_pretrained(reward).config.num_labels == 1
    tokenizer = AutoTokenizer.from_pretrained(policy)
    messages = [{"role": "user", "content": "how do i clean my old table at home ?"}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    prompt = inputs["input_ids"].shape[1]
    reply = AutoModelForCausalLM.from_pretrained(policy).generate(
        **inputs, max_new_tokens=48, do_sample=False
    )
    text = tokenizer.decode(reply[0, prompt:], skip_special_tokens=True)
    assert "table" in text
    served = mlflow.pyfunc.load_model("models:/quickstart-policy@champion")
    assert served.predict({"messages": messages}, params={"max_tokens": 48}) == [text]


def test_mlflow_has_one_parent_with_a_nested_run_for_every_stage(finished):
    from mlflow import MlflowClient

    workspace, document = finished
    client = MlflowClient(f"sqlite:///{workspace.home}/mlflow.db")
    parent = client.get_run(document["run_id"])
    nested = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    by_stage = {run.data.tags["stage"]: run for run in nested}
    assert set(by_stage) == {"prepare", "validate", "sft", "reward", "ppo", "evaluate"}
    history = client.get_metric_history(by_stage["ppo"].info.run_id, "ppo/score_mean")
    assert sorted({point.step for point in history}) == list(range(1, 9))
    assert {item.dataset.name for item in by_stage["sft"].inputs.dataset_inputs} >= {
        "demonstrations_train"
    }
    assert {run.info.status for run in [parent, *nested]} == {"FINISHED"}


def test_refused_gate_stops_before_ppo_with_one_sentence_and_exit_3(finished):
    workspace, _ = finished
    code, document, _ = workspace.run(*SHORT, "reward.gate.min_accuracy=0.95")
    assert code == 3
    assert "required at least 0.95" in document["error"]
    assert list(stages(document)) == ["prepare", "validate", "sft", "reward"]
    assert len(workspace.run_dirs("reward")) == 1, "a changed threshold trains nothing again"
