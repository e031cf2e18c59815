"""The results of models on benchmarks: measured once, and kept by model, task and settings."""

import json
import os

import pytest
from benchmark_tasks import write_task

from rlhf_core.__main__ import run_stage
from rlhf_core.config.gate_rules import GateRule
from rlhf_core.config.stage_configs import EvaluateStageConfig
from rlhf_core.evaluation.benchmarks.results import benchmark_results
from rlhf_core.evidence.items import read_benchmarks, read_items
from rlhf_core.gates.measure import measure
from rlhf_core.rundir import Artifact, RunDir, StageSpec


@pytest.fixture
def results(setup, tiny_model, tmp_path):
    """Ask policy and SFT model, both the tiny model, with these settings; return the results."""
    folder = write_task(tmp_path / "choose").parent

    def ask(code: str = "code", **settings: object):
        asked = setup(tasks=["choose"], **settings)
        inputs = {name: Artifact(path=tiny_model, digest="tiny") for name in ("policy", "sft")}
        inputs["benchmark_choose"] = Artifact.of(folder / "**" / "*[!c]")
        config = EvaluateStageConfig(evaluate=asked.config, dtype="float32")
        spec = StageSpec(stage="evaluate", seed=1, config=config, inputs=inputs, code=code)
        models = dict.fromkeys(("policy", "sft"), tiny_model)
        return benchmark_results(spec, asked, models, tmp_path / "cache")

    ask.folder = folder
    return ask


def cached(tmp_path) -> list:
    return sorted((tmp_path / "cache").glob("*.json"))


def test_one_model_is_asked_once_whatever_it_is_called(results, tmp_path):
    found = results()["choose"]
    assert found["policy"] == found["sft"] and len(found["policy"].ids) == 12
    (file,) = cached(tmp_path)
    known = json.loads(file.read_text())
    known["replies"] = ["as it was kept"] * 12
    file.write_text(json.dumps(known))
    os.utime(file, (0, 0))
    assert results()["choose"]["sft"].replies == ["as it was kept"] * 12
    assert file.stat().st_mtime > 0  # the time of its last use


@pytest.mark.parametrize("change", ["items", "settings", "code"])
def test_another_task_setting_or_code_is_asked_anew(results, tmp_path, change):
    results()
    if change == "items":
        file = results.folder / "items.jsonl"
        file.write_text(file.read_text().replace('"w0 w1"', '"w0 w9"'))
    results(
        **({"max_items": 3} if change == "settings" else {}),
        code="other" if change == "code" else "code",
    )
    assert len(cached(tmp_path)) == 2


def test_a_kill_while_a_result_is_written_leaves_no_half_of_it(results, tmp_path, monkeypatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            results()
    assert cached(tmp_path) == []
    assert len(results()["choose"]["policy"].ids) == 12 and len(cached(tmp_path)) == 1


@pytest.mark.parametrize("damaged", [b"", b"{}", b'{"ids": [', b"\xff\x00"])
def test_a_damaged_result_is_measured_anew(results, tmp_path, caplog, damaged):
    """Bug: it failed the stage, which was tried three times."""
    known = results()["choose"]
    (file,) = cached(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(damaged)
    assert results()["choose"] == known and file.read_bytes() == whole
    assert f"{file} is damaged" in caplog.text


SCORER = """
def words(prompts, replies):
    return [float(len(reply.split())) for reply in replies]
"""


def test_the_stage_leaves_metrics_and_items_that_gates_can_use(
    setup, tiny_model, tiny_splits, tmp_path, monkeypatch
):
    (tmp_path / "my_words.py").write_text(SCORER)
    monkeypatch.syspath_prepend(tmp_path)
    folder = write_task(tmp_path / "choose", count=20).parent
    config = setup(tasks=["choose"]).config.model_copy(
        update={"independent_scorer": "my_words:words", "max_prompts": 20, "max_heldout": 20}
    )
    paths = dict.fromkeys(("policy", "sft"), tiny_model)
    for name in ("prompts_heldout", "demonstrations_heldout"):
        paths[name] = tiny_splits / f"{name}.jsonl"
    spec = StageSpec(
        stage="evaluate",
        seed=1,
        config=EvaluateStageConfig(evaluate=config, dtype="float32"),
        inputs={name: Artifact.of(path) for name, path in paths.items()}
        | {"benchmark_choose": Artifact.of(folder / "**" / "*[!c]")},
        code="code",
    )
    run = tmp_path / "runs" / "evaluate"
    result = run_stage(spec, RunDir(run))
    assert result is not None and result.counts["eval/prompts"] == 20
    prompts, rows = (read(run / "items.parquet") for read in (read_items, read_benchmarks))
    assert len(prompts["policy_score"]) == 20 and len(rows["choose"]["policy_benchmark_acc"]) == 20
    for metric in ("eval/benchmark/choose/acc_gain", "eval/benchmark/choose/acc_policy"):
        rule = GateRule.model_validate(
            {"stage": "evaluate", "metric": metric, "bound": "at least", "threshold": 0}
        )
        found = measure(rule.model_copy(update={"confidence": 0.9}), result, run)
        assert (found.problem, found.n) == (None, 20)
    assert result.metrics["eval/benchmark/choose/acc_gain"] == 0.0  # they are one model
    assert len(list((tmp_path / "runs" / "benchmarks").glob("*.json"))) == 1
