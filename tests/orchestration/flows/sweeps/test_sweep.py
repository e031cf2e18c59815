"""`rlhf sweep` on the small stage program: whole sweeps, grid, figures and MLflow."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from workspaces import client, started

from flows.sweeps.grid import SweepRequest, make_plan, split_values
from rlhf_core.errors import ConfigError
from tasks.analysis import mlflow_runs
from tasks.records import events
from tasks.records.run_record import records
from tasks.records.workspace import Workspace
from tasks.sweeps import figures
from tasks.sweeps.sweep import SweepMetric, SweepRow

# The policy keeps its beta, and evaluation finds the KL and the gain that this beta allows.
BY_BETA = """
if stage == "ppo":
    beta = spec.config["ppo"]["beta"]
    (run.path / "model" / "beta").write_text(str(beta))
    outputs["model"] = Artifact(path=Path("model"), digest=Artifact.of(run.path / "model").digest)
    for step in (4, 5):
        score, kl = step * 0.1 / beta, step * 0.01 / beta
        run.log(step, 5, {"ppo/score_mean": score, "ppo/kl_per_response": kl})
if stage == "evaluate":
    beta = float((spec.inputs["policy"].path / "beta").read_text())
    metrics |= {"eval/kl_per_response": 0.1 / beta, "eval/score_gain": 0.5 / beta}
    metrics |= {"eval/score_gain_lower": 0.4 / beta}
"""
INTERVAL = '{"eval/score_gain": (0.4 / beta, 0.6 / beta)} if stage == "evaluate" else {}'
ALL_STAGES = ["validate", "sft", "reward", "ppo", "evaluate"]


@pytest.fixture
def recipe_file(recipe_file, command) -> Path:
    """Run the recipe with a stage program whose results depend on ppo.beta."""
    program = Path(command[1])
    text = program.read_text().replace(
        'if "champion" in spec.inputs:', BY_BETA + 'if "champion" in spec.inputs:'
    )
    before = "        for name in compared\n    }"
    assert before in text
    program.write_text(text.replace(before, f"{before}\n    | ({INTERVAL})"))
    return recipe_file


def artifacts(home: Path, run_id: str) -> set[str]:
    return {item.path for item in client(home).list_artifacts(run_id)}


# whole sweeps


def assert_rows_of_three_betas(values: dict) -> None:
    """Check the JSON of a sweep over ppo.beta of 0.02, 0.05 and 0.5."""
    assert (
        values["metrics"] == ["eval/score_gain", "eval/kl_per_response"]
        and values["mlflow_problem"] is None
    )
    assert [row["values"]["ppo.beta"] for row in values["rows"]] == [0.02, 0.05, 0.5]
    assert [row["metrics"]["eval/score_gain"]["value"] for row in values["rows"]] == [
        25.0,
        10.0,
        1.0,
    ]
    assert values["rows"][1]["metrics"]["eval/score_gain"] == {
        "value": 10.0,
        "low": 8.0,
        "high": pytest.approx(12.0),
        "n": None,
    }
    assert all(row["state"] == "finished" and row["on_frontier"] for row in values["rows"])
    assert values["rows"][0]["curve"] == [
        [pytest.approx(2.0), 0.0],
        [pytest.approx(2.5), pytest.approx(5.0)],
    ]
    findings = {(one["setting"], one["metric"]): one for one in values["findings"]}
    assert len(findings) == 4 and {one["baseline"] for one in findings.values()} == {
        "ppo.beta=0.02"
    }
    gain = findings["ppo.beta=0.5", "eval/score_gain"]
    assert (gain["difference"], gain["verdict"], gain["better"]) == (-24.0, "significant", False)
    assert gain["p_value"] <= gain["p_adjusted"] < 0.05 and gain["covers"] == "items"
    assert findings["ppo.beta=0.5", "eval/kl_per_response"]["verdict"] == "no interval"
    assert values["spreads"] == []


def assert_runs_are_nested_and_no_champion_is_made(home: Path, values: dict) -> None:
    """Check what MLflow has of the sweep."""
    top = client(home).get_run(values["run_id"])
    assert top.info.status == "FINISHED" and top.data.tags["sweep.keys"] == "ppo.beta"
    assert (
        top.data.tags["sweep.ppo.beta"] == "0.02, 0.05, 0.5"
        and "| 0.05 | 10 [8, 12] |" in top.data.tags["mlflow.note.content"]
        and "- ppo.beta=0.5: eval/score_gain -24 [" in top.data.tags["mlflow.note.content"]
    )
    assert artifacts(home, values["run_id"]) == {"sweep.json", "metrics.png", "frontier.png"}
    nested = client(home).search_runs(
        [top.info.experiment_id], f"tags.`mlflow.parentRunId` = '{values['run_id']}'"
    )
    assert {run.info.run_id for run in nested} == {row["run_id"] for row in values["rows"]}
    assert {run.data.tags["sweep.values"] for run in nested} == {
        "ppo.beta=0.02",
        "ppo.beta=0.05",
        "ppo.beta=0.5",
    }
    one = values["rows"][0]["run_id"]
    # the sweep above it is no pipeline run
    assert mlflow_runs.resolve(client(home), one[:8]).info.run_id == one
    assert mlflow_runs.resolve(client(home), "latest").info.run_id in {
        row["run_id"] for row in values["rows"]
    }
    assert [model.name for model in client(home).search_registered_models()] == ["tiny-reward"]
    assert "champion" not in client(home).get_registered_model("tiny-reward").aliases


def test_a_sweep_shares_stages_nests_its_runs_and_repeats_nothing(rlhf, recipe_file, home):
    words = ["sweep", recipe_file, "--over", "ppo.beta=0.02,0.05,0.5", "--json"]
    code, out, err = rlhf(*words)
    assert code == 0, err
    assert "3 runs (3 of ppo.beta), until evaluate, 1 at a time" in err
    assert "[ppo.beta=0.05] sft: already done" in err and "[ppo.beta=0.02] sft: done" in err
    assert started(home) == [*ALL_STAGES, *["ppo", "evaluate"] * 2]
    values = json.loads(out)
    assert_rows_of_three_betas(values)
    assert_runs_are_nested_and_no_champion_is_made(home, values)

    code, out, err = rlhf(*words)
    assert code == 0 and started(home) == [] and "3 of them done earlier" in err
    assert json.loads(out)["run_id"] == values["run_id"] and len(records(Workspace(home))) == 3
    code, out, _ = rlhf(
        "sweep", recipe_file, "--over", "ppo.beta=0.02,0.05,0.5", "--metric", "eval/win_rate"
    )
    assert (
        code == 0
        and "win rate" in out
        and "Figure: " in out
        and "Difference from ppo.beta=0.02" in out
        and "/runs/" in out
        and len(records(Workspace(home))) == 3
    )

    code, out, _ = rlhf("run", recipe_file, "--set", "ppo.beta=0.05")
    assert code == 0 and "Promotion: promoted" in out and started(home) == []


@pytest.mark.slow
def test_a_sweep_over_seeds_compares_settings_by_mean_and_spread(rlhf, recipe_file, command):
    """A gain of 0.5 / beta, and 0.0825 more per seed with beta 0.05, 0.15 more with 0.5."""
    program = Path(command[1])
    text = program.read_text()
    assert '"eval/score_gain": 0.5 / beta}' in text
    by_seed = '"eval/score_gain": 0.5 / beta + spec.seed * (0.075 + 0.15 * beta)}'
    program.write_text(text.replace('"eval/score_gain": 0.5 / beta}', by_seed))
    code, out, err = rlhf(
        *("sweep", recipe_file, "--over", "ppo.beta=0.05,0.5", "--over", "seed=1,2", "--json")
    )
    assert code == 0, err
    values = json.loads(out)
    spreads = {(one["setting"], one["metric"]): one for one in values["spreads"]}
    one = spreads["ppo.beta=0.5", "eval/score_gain"]
    assert (one["seeds"], one["covers"]) == (2, "seeds")
    assert (one["mean"], one["sd"]) == (pytest.approx(1.225), pytest.approx(0.15 / 2**0.5))
    found = next(one for one in values["findings"] if one["metric"] == "eval/score_gain")
    assert (found["setting"], found["baseline"]) == ("ppo.beta=0.5", "ppo.beta=0.05")
    assert found["difference"] == pytest.approx(-8.89875) and found["covers"] == "seeds"
    assert found["method"] == "t interval over 2 seeds, paired"


@pytest.mark.slow
def test_a_gate_that_refuses_is_a_result_and_bad_input_ends_the_sweep(
    rlhf, recipe_file, home, plan
):
    code, out, err = rlhf(
        "sweep",
        recipe_file,
        "--over",
        "reward.gate.min_accuracy=0.7,0.9",
        "--set",
        "ppo.beta=0.1",
        "--json",
    )
    assert code == 0, err
    passed, refused = json.loads(out)["rows"]
    assert (passed["state"], refused["state"]) == (
        "finished",
        "refused",
    ) and "required at least 0.9" in refused["error"]
    assert refused["gain"] is None and started(home) == ALL_STAGES

    program = home.parent / "program" / "stage.py"
    program.write_text(
        program.read_text().replace(
            "for step in (1, 2, 3):",
            """if stage == "sft" and spec.config["sft"]["lr"] == 0.5:
    failure = {"error": "BadInput", "message": "no such loss"}
    (run.path / "failure.json").write_text(json.dumps(failure))
    sys.exit(2)
for step in (1, 2, 3):""",
        )
    )
    words = ["sweep", recipe_file, "--over", "sft.lr=0.25,0.5,0.125", "--until", "sft", "--json"]
    code, out, err = rlhf(*words)
    assert code == 2 and "sft.lr=0.5: no such loss" in err
    assert [row["state"] for row in json.loads(out)["rows"]] == ["finished", "failed", "not run"]
    assert (
        started(home) == ["sft", "sft"]
        and client(home).get_run(json.loads(out)["run_id"]).info.status == "KILLED"
    )


@pytest.mark.slow
def test_runs_at_once_are_processes_of_their_own_and_train_nothing_twice(
    rlhf, recipe_file, home, command, tmp_path, monkeypatch
):
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        f"from tasks.execution import stage_process\nstage_process.COMMAND = {command!r}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(hook))
    code, out, err = rlhf(
        "sweep", recipe_file, "--over", "ppo.beta=0.05,0.5", "--jobs", 2, "--json"
    )
    assert code == 0, err
    assert sorted(started(home)) == sorted([*ALL_STAGES, "ppo", "evaluate"])
    values = json.loads(out)
    assert [row["state"] for row in values["rows"]] == ["finished", "finished"] and values[
        "mlflow_problem"
    ] is None
    assert "[ppo.beta=0.05] validate: " in err and "[ppo.beta=0.5] validate: " in err
    versions = client(home).search_model_versions("name = 'tiny-reward'")
    assert len(versions) == 1 and len(records(Workspace(home))) == 2


@pytest.mark.slow
def test_a_sweep_that_was_stopped_goes_on(rlhf, recipe_file, home, plan):
    words = ["sweep", recipe_file, "--over", "ppo.beta=0.05,0.5", "--json"]

    def interrupt(event) -> None:
        if isinstance(event, events.StepEnded) and event.stage == "evaluate":
            threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGINT)).start()
            raise KeyboardInterrupt

    seen = []
    end = events.subscribe(
        lambda event: interrupt(event) if seen else seen.extend(_second_ppo(event))
    )
    code, _, err = rlhf(*words)
    end()
    assert code == 130 and "Traceback" not in err
    assert started(home) == [*ALL_STAGES, "ppo", "evaluate"]
    code, out, err = rlhf(*words)
    assert code == 0 and "1 of them done earlier" in err and started(home) == []
    assert [row["state"] for row in json.loads(out)["rows"]] == ["finished", "finished"]


def _second_ppo(event) -> list:
    running = (
        isinstance(event, events.StageStarted)
        and event.stage == "ppo"
        and len(list(event.run_dir.parent.glob("ppo-*"))) > 1
    )
    return [event] if running else []


@pytest.mark.slow
def test_figures_are_drawn_without_mlflow_and_forwarded_by_sync(
    rlhf, recipe_file, home, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    words = ["sweep", recipe_file, "--over", "ppo.beta=0.05,0.5"]
    code, out, err = rlhf(*words)
    assert code == 0 and "rlhf sync forwards the rest" in out, err
    (folder,) = (home / "sweeps").iterdir()
    assert {"metrics.png", "frontier.png", "sweep.json", "unsent"} == {
        file.name for file in folder.iterdir()
    }

    # the server is back: here, the same records under the store's address
    store = f"sqlite:///{home / 'mlflow.db'}"
    for file in [*(home / "outbox").glob("*.json"), folder / "sweep.json"]:
        file.write_text(file.read_text().replace("http://127.0.0.1:9", store))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    code, out, _ = rlhf("sync", "--json")
    assert code == 0 and folder.name[:7] in " ".join(json.loads(out)["forwarded"])
    sweep = json.loads((folder / "sweep.json").read_text())
    assert not (folder / "unsent").exists() and "frontier.png" in artifacts(home, sweep["run_id"])
    assert (
        all(row["link"] for row in sweep["rows"])
        and client(home).get_run(sweep["run_id"]).info.status == "FINISHED"
    )
    parents = {
        client(home).get_run(row["run_id"]).data.tags["mlflow.parentRunId"] for row in sweep["rows"]
    }
    assert parents == {sweep["run_id"]}


# the grid


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0.02,0.05", ["0.02", "0.05"]),
        ("[1,2], [3]", ["[1,2]", "[3]"]),
        ('"a,b",c', ['"a,b"', "c"]),
        ("{a=1,b=[2,3]},{a=4}", ["{a=1,b=[2,3]}", "{a=4}"]),
        (r'"a\",b","c\\",d', [r'"a\",b"', r'"c\\"', "d"]),
        ("'it,s',\"x]\"", ["'it,s'", '"x]"']),
    ],
)
def test_a_comma_inside_brackets_or_quotes_does_not_split(text, parts):
    assert split_values("k", text) == parts


@pytest.mark.parametrize("text", ["", "1,", ",1", "1,,2", "[1,2", '"a', "1]"])
def test_values_that_cannot_be_split_are_refused(text):
    with pytest.raises(ConfigError, match="--over k="):
        split_values("k", text)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--over", "ppo.beta=0.1,abc"], ["ppo.beta=abc", "number"]),
        (["--over", "ppo.bta=0.1,0.2"], ["ppo.bta"]),
        (["--over", "ppo.beta=0.1,0.10"], ["ppo.beta=0.1 and ppo.beta=0.10 are the same recipe"]),
        (["--over", "ppo.beta=0.1,0.1"], ["ppo.beta=0.1 is given twice"]),
        (["--over", "ppo.beta=0.1,0.2", "--set", "ppo.beta=0.3"], ["ppo.beta is given twice"]),
        (["--over", "ppo.beta"], ["expected key=value"]),
        (["--over", "registry.name=a,b"], ["where runs are filed"]),
        (["--over", "limits.hours=1,2"], ["what they may take"]),
        (
            ["--over", "data.comparisons=nosuch.jsonl,other.jsonl"],
            ["data.comparisons=nosuch.jsonl: ", "no file"],
        ),
        (
            ["--over", "seed=1,2,3", "--over", "ppo.beta=0.1,0.2", "--max-runs", "5"],
            ["6 runs (3 of seed x 2 of ppo.beta)", "5"],
        ),
        (["--over", "seed=1,2", "--metric", "eval/gain"], ["no such metric", "eval/gain"]),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(rlhf, recipe_file, home, words, says):
    code, out, err = rlhf("sweep", recipe_file, *words)
    assert (
        code == 2 and out == "" and "Traceback" not in err and all(word in err for word in says)
    ), err
    assert not (home / "outbox").exists() and not (home / "sweeps").exists()


def test_a_sweep_with_a_raised_limit_is_the_same_sweep(recipe_file):
    def planned(*settings: str) -> str:
        request = SweepRequest(["seed=1,2"], [*settings], "sft", [], 4)
        return make_plan(str(recipe_file), request).sweep.id

    assert planned("limits.hours=1") == planned("limits.hours=2") != planned("ppo.beta=0.3")


def test_promote_is_no_stage_of_a_sweep(rlhf, recipe_file):
    code, _, err = rlhf("sweep", recipe_file, "--over", "seed=1,2", "--until", "promote")
    assert code == 2 and "promote" in err


def test_help_of_the_command_line_stays_light():
    code = (
        "import sys, flows.cli.runs.sweep; print([n for n in ('matplotlib', 'prefect', 'mlflow',"
        " 'torch') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# the figures


def row(beta: object, gain: float, kl: float, **changes) -> SweepRow:
    metrics = {
        "eval/score_gain": SweepMetric(value=gain, low=gain - 0.1, high=gain + 0.1),
        "eval/kl_per_response": SweepMetric(value=kl),
    }
    values = {
        "label": f"b={beta}",
        "values": {"b": beta},
        "state": "finished",
        "metrics": metrics,
        "kl": kl,
    }
    return SweepRow(
        **(values | {"gain": metrics["eval/score_gain"], "reward_model": "r"} | changes)
    )


def test_the_frontier_is_what_nothing_beats_in_both():
    assert figures.frontier(
        [(1, 1.0), (2, 0.5), None, (3, 2.0), (3, 1.9), (4, 2.0), (0.5, float("nan"))]
    ) == [0, 3]


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [([0.01, 0.1, 1.0], True), ([0.1, 2.0], False), ([0.0, 5.0], False), (["a", "b"], False)],
)
def test_a_key_that_spans_more_than_twentyfold_has_a_logarithmic_axis(values, logarithmic):
    figure = figures.metrics_figure(
        [row(value, 1.0, 2.0) for value in values], ["b"], ["eval/score_gain"]
    )
    assert (figure.axes[0].get_xscale() == "log") is logarithmic
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == [
        f"{v:g}" if type(v) is float else v for v in values
    ]


def test_the_metrics_figure_has_a_panel_a_metric_intervals_and_a_line_a_second_key():
    rows = [row(beta, beta * 2, 1.0) for beta in (0.1, 0.2, 0.3)]
    rows += [item.model_copy(update={"values": item.values | {"s": 2}}) for item in rows]
    rows[:3] = [item.model_copy(update={"values": item.values | {"s": 1}}) for item in rows[:3]]
    figure = figures.metrics_figure(
        rows, ["b", "s"], ["eval/score_gain", "eval/kl_per_response", "eval/win_rate"]
    )
    assert [axes.get_title() for axes in figure.axes] == ["eval/score_gain", "eval/kl_per_response"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["s=1", "s=2"]
    bars = figure.axes[0].containers[0].lines[2][0].get_segments()
    assert [tuple(bar[:, 1]) for bar in bars] == [
        pytest.approx((0.1, 0.3)),
        pytest.approx((0.3, 0.5)),
        pytest.approx((0.5, 0.7)),
    ]


def test_the_frontier_figure_shows_points_curves_and_when_gains_do_not_compare():
    rows = [
        row(0.1, 2.0, 5.0, on_frontier=True, curve=[(0.0, 0.0), (5.0, 1.9)]),
        row(0.2, 1.0, 6.0, state="refused"),
    ]
    axes = figures.frontier_figure(rows).axes[0]
    assert {text.get_text() for text in axes.texts} == {"b=0.1", "b=0.2"}
    thin = [line for line in axes.lines if line.get_linewidth() == 0.8]
    assert len(thin) == 1 and list(thin[0].get_ydata()) == [0.0, 1.9]
    assert (
        axes.get_title() == "Reward against KL"
        and "refused" in axes.get_legend().get_title().get_text()
    )
    rows[1].reward_model = "other"
    assert "do not compare" in figures.frontier_figure(rows).axes[0].get_title()
    assert figures.frontier_figure([row(1, 1.0, 1.0).model_copy(update={"gain": None})]) is None
