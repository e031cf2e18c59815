"""The comparison of runs: references, differences and significance, over a real MLflow store."""

import json

import pytest
from command_line import rlhf_exit_code
from synthetic import Story, Synthetic

from rlhf_core.errors import ConfigError
from tasks.analysis import mlflow_runs
from tasks.analysis.comparability import no_common_scale
from tasks.analysis.comparison import Comparison, compare
from tasks.analysis.run_evidence import from_record
from tasks.analysis.significance import Finding


def compared(synthetic: Synthetic, *stories: Story) -> Comparison:
    """Compare runs read from their folders; another test checks that MLflow gives the same."""
    return compare([from_record(synthetic.write(story)) for story in stories])


def found(comparison: Comparison, metric: str) -> Finding:
    return next(row for row in comparison.metrics if row.metric == metric).against[0]


# references


def test_references_name_runs_by_name_age_id_and_model_version(synthetic):
    first, second = (
        synthetic.tell(Story("tiny-aaaaaaa-1")),
        synthetic.tell(Story("tiny-aaaaaaa-2", policy="policy-b")),
    )
    client = first.client
    client.create_registered_model("tiny-policy")
    for tracker in (first, second):
        tags = {"pipeline_run_id": tracker.record.run_id}
        version = client.create_model_version("tiny-policy", source="file:///nowhere", tags=tags)
    client.set_registered_model_alias("tiny-policy", "champion", version.version)
    stage_id = first.record.stages[1].run_id
    for reference, tracker in {
        "tiny-aaaaaaa-1": first,
        "latest": second,
        "latest~1": first,
        first.record.run_id: first,
        stage_id: first,
        first.record.run_id[:12]: first,
        "tiny-policy@champion": second,
        "tiny-policy/1": first,
        "models:/tiny-policy/1": first,
        "models:/tiny-policy@champion": second,
    }.items():
        assert mlflow_runs.resolve(client, reference).info.run_id == tracker.record.run_id, (
            reference
        )


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("tiny-aaaaaaa-3", "Close to it: tiny-aaaaaaa-1"),
        ("zzz", "Latest runs: tiny-aaaaaaa-1"),
        ("latest~7", "MLflow holds 1 pipeline runs"),
        ("tiny-policy@best", "has versions 1 and aliases @candidate"),
        ("tiny-policy/9", "has versions 1"),
        ("other@champion", "registered models are tiny-policy"),
        ("a' or '1'='1", "is no reference"),
    ],
)
def test_an_unknown_reference_is_refused_with_what_there_is(synthetic, reference, said):
    client = synthetic.tell(Story("tiny-aaaaaaa-1", until="validate")).client
    client.create_registered_model("tiny-policy")
    client.create_model_version("tiny-policy", source="file:///nowhere")
    client.set_registered_model_alias("tiny-policy", "candidate", "1")
    with pytest.raises(ConfigError, match=said):
        mlflow_runs.resolve(client, reference)


def test_an_ambiguous_name_lists_the_runs_that_it_could_mean(synthetic):
    trackers = [
        synthetic.tell(Story("tiny-aaaaaaa-1", seed=seed, until="validate")) for seed in (1, 2)
    ]
    with pytest.raises(ConfigError, match="means 2 runs") as refused:
        mlflow_runs.resolve(trackers[0].client, "tiny-aaaaaaa-1")
    assert all(tracker.record.run_id in str(refused.value) for tracker in trackers)


# the comparison


def test_what_differs_is_found_and_what_does_not_is_not_listed(synthetic):
    changed = Story(
        "b",
        policy="policy-b",
        comparisons="comparisons-b",
        reward="reward-b",
        settings={"ppo": {"policy_lr": 1e-4}},
    )
    groups = compared(synthetic, Story("a"), changed).differences
    assert [(row.key, row.values) for row in groups["config"]] == [
        ("ppo.policy_lr", ["1e-06", "0.0001"])
    ]
    assert {row.key for row in groups["data"]} == {
        "source comparisons",
        "comparisons_train",
        "comparisons_heldout",
    }
    assert "(600 rows)" in groups["data"][1].values[0]
    assert [row.key for row in groups["models"]] == ["reward", "policy"]
    assert groups["environment"] == groups["code"] == []


def test_a_better_policy_is_significantly_better_on_the_same_prompts(synthetic):
    better = Story("b", lift=1.5, seed=2, policy="policy-b", prompts=48)
    comparison = compared(synthetic, Story("a", lift=0.5), better)
    score = found(comparison, "eval/score_policy")
    assert score.verdict == "significant" and score.better and score.n == 48
    assert 0.5 < score.low < score.difference < score.high < 1.3
    assert {win_rate.judge: win_rate.finding.better for win_rate in comparison.win_rates} == {
        "reward model": True,
        "independent scorer": True,
    }
    assert found(comparison, "eval/length_policy").verdict == "identical"
    assert found(comparison, "eval/alignment_tax").verdict == "no interval"
    differences = [sample.difference for sample in comparison.samples]
    assert len(differences) == 48 and differences == sorted(differences, reverse=True)
    assert any("paired on the 48 held-out prompts" in note for note in comparison.cautions)
    assert comparison.samples[0].scores[1] - comparison.samples[0].scores[0] == pytest.approx(
        differences[0]
    )


def test_a_finished_stage_that_serves_both_runs_is_identical(synthetic):
    comparison = compared(synthetic, Story("a"), Story("a"))
    assert found(comparison, "eval/score_policy").note == "the same finished stage serves both runs"
    assert {row.against[0].verdict for row in comparison.metrics} == {"identical"}


def test_scores_of_two_reward_models_are_not_held_against_each_other(synthetic):
    other = Story("b", lift=3.0, policy="policy-b", reward="reward-b", accuracy=0.95)
    comparison = compared(synthetic, Story("a", lift=0.2), other)
    for metric in ("eval/score_policy", "eval/win_rate", "ppo/score_mean"):
        finding = found(comparison, metric)
        assert (
            finding.verdict == "not comparable"
            and "no common scale" in finding.note
            and finding.difference is None
        )
    assert [win_rate.judge for win_rate in comparison.win_rates] == ["independent scorer"]
    assert "independent score" in comparison.scale
    independent = dict(
        zip(
            *map(comparison.runs[1].items("evaluate").get, ("prompt", "policy_independent")),
            strict=True,
        )
    )
    assert all(sample.scores[1] == independent[sample.prompt] for sample in comparison.samples)
    accuracy = found(comparison, "reward/accuracy")
    assert (
        accuracy.verdict == "significant"
        and accuracy.better
        and "McNemar" in accuracy.method
        and accuracy.n == 120
    )
    assert any("different reward models" in note for note in comparison.cautions)


def test_without_a_common_scale_replies_are_shown_without_a_difference(synthetic):
    stories = [Story(name, reward=f"reward-{name}", scorer=f"known:{name}") for name in "ab"]
    comparison = compared(synthetic, *stories)
    assert comparison.win_rates == [] and {sample.difference for sample in comparison.samples} == {
        None
    }
    assert found(comparison, "eval/independent_policy").note == "two different independent scorers"
    assert "no common scale" in comparison.scale


def test_accuracy_on_two_heldout_sets_is_compared_unpaired_and_says_so(synthetic):
    accuracy = found(
        compared(synthetic, Story("a"), Story("b", comparisons="c-b", reward="r-b", accuracy=0.82)),
        "reward/accuracy",
    )
    assert (
        accuracy.verdict == "not significant"
        and "unpaired" in accuracy.method
        and "different held-out sets" in accuracy.note
    )


def test_kl_from_two_sft_models_is_not_compared_but_length_is(synthetic):
    comparison = compared(synthetic, Story("a"), Story("b", sft="sft-b"))
    assert (
        found(comparison, "eval/kl_per_response").note == "measured from two different SFT models"
    )
    assert found(comparison, "eval/length_policy").n == 64


def test_what_detectors_measure_relative_to_the_sft_model_is_not_compared_over_two(synthetic):
    first, second = compared(synthetic, Story("a"), Story("b", sft="sft-b")).runs
    for metric in (
        "distinct_2_cut",
        "distinct_3_ratio",
        "first_word_rise",
        "prompt_retrieval_loss",
    ):
        assert "two different SFT models" in no_common_scale(f"eval/{metric}", first, second)
        assert no_common_scale(f"eval/{metric}", first, first) is None
    assert no_common_scale("eval/prompt_retrieval", first, second) is None


def test_a_run_without_items_is_compared_as_far_as_its_intervals_go(synthetic):
    comparison = compared(
        synthetic, Story("a", with_items=False), Story("b", lift=-2.0, seed=2, policy="policy-b")
    )
    assert found(comparison, "eval/score_policy").verdict == "no interval"
    assert "no per-item evidence" in found(comparison, "eval/score_policy").note
    rate = found(comparison, "eval/win_rate")
    assert rate.verdict == "significant" and rate.better is False and "unpaired" in rate.method
    assert comparison.samples == [] and any(
        "No per-item evidence" in note for note in comparison.cautions
    )


def test_runs_that_stopped_early_are_compared_as_far_as_they_went(synthetic):
    comparison = compared(
        synthetic, Story("a", until="reward"), Story("b", accuracy=0.9, reward="reward-b")
    )
    rate = found(comparison, "eval/win_rate")
    assert rate.verdict == "missing" and rate.note == "not measured in a"
    assert found(comparison, "reward/accuracy").n == 120 and comparison.samples == []


def test_three_runs_are_each_held_against_the_first(synthetic):
    lifts = enumerate((0.5, 0.6, 2.0))
    comparison = compared(
        synthetic,
        *(Story(f"run-{seed}", lift, seed, policy=f"policy-{seed}") for seed, lift in lifts),
    )
    row = next(row for row in comparison.metrics if row.metric == "eval/score_policy")
    assert len(row.values) == 3 and row.against[1].verdict == "significant"
    assert len(comparison.samples[0].replies) == 3 and len(comparison.win_rates) == 4


def test_runs_of_one_name_are_told_apart(synthetic):
    assert compared(synthetic, Story("a"), Story("a", seed=2)).names == ["a (1)", "a (2)"]


def test_mlflow_tells_the_same_as_the_folders_of_a_run(synthetic):
    tracker = synthetic.tell(Story("a", champion="policy-0"))
    local = from_record(tracker.record)
    remote = mlflow_runs.read(tracker.client, mlflow_runs.resolve(tracker.client, "latest"))
    for name, stage in remote.stages.items():
        mine = local.stages[name]
        assert (mine.spec, mine.result, mine.items, mine.costs) == (
            stage.spec,
            stage.result,
            stage.items,
            stage.costs,
        )
        assert mine.curves == stage.curves and mine.verdict == stage.verdict
    assert (local.recipe, local.packages, local.metrics) == (
        remote.recipe,
        remote.packages,
        remote.metrics,
    )
    assert (local.hardware, local.commit, local.started) == (
        remote.hardware,
        remote.commit,
        remote.started,
    )
    assert remote.stages["ppo"].costs == {"seconds": 12.5, "peak_memory_mib": 800.0}
    # the summary under the last step is not a point of the curve
    assert len(remote.curve("ppo/score_mean")) == 20


def test_the_parent_run_holds_the_key_metrics_and_what_each_stage_took(synthetic):
    tracker = synthetic.tell(Story("a"))
    parent = tracker.client.get_run(tracker.record.run_id)
    assert parent.data.tags["stage"] == "pipeline" and parent.data.metrics["reward/accuracy"] == 0.8
    assert (
        parent.data.metrics["cost/ppo_seconds"] == 12.5
        and parent.data.metrics["cost/ppo_peak_memory_mib"] == 800.0
    )
    stage = tracker.client.get_run(tracker.record.stage("ppo").run_id)
    assert (
        stage.data.metrics["system/stage_memory_mib"] == 800.0 and stage.data.tags["stage"] == "ppo"
    )


def test_verdicts_are_corrected_for_the_number_of_metrics_and_say_so(synthetic):
    better = Story("b", lift=0.62, seed=2, policy="policy-b")
    comparison = compared(synthetic, Story("a", lift=0.5), better)
    tested = [row.against[0] for row in comparison.metrics if row.against[0].p_value is not None]
    tested += [win_rate.finding for win_rate in comparison.win_rates]
    assert len(tested) > 4
    for one in tested:
        assert one.p_adjusted >= one.p_value
        assert (one.verdict == "significant") <= (one.p_adjusted < 0.05)
    assert any(
        "corrected together (Benjamini and Hochberg)" in note for note in comparison.cautions
    )
    assert "corrected" in found(comparison, "eval/score_policy").probability


# the command


@pytest.fixture
def told(synthetic) -> list:
    """Record two runs in MLflow."""
    return [
        synthetic.tell(Story("tiny-aaaaaaa-1")),
        synthetic.tell(Story("tiny-aaaaaaa-2", lift=2.0, policy="policy-b", seed=2)),
    ]


def test_the_command_prints_json_and_attaches_the_page_to_both_runs(told, capsys):
    assert rlhf_exit_code("compare", "latest~1", "latest", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["baseline"] == "tiny-aaaaaaa-1"
    assert set(printed) == {
        "baseline",
        "runs",
        "differences",
        "duels",
        "metrics",
        "samples",
        "cautions",
        "seed_groups",
        "seed_metrics",
        "page",
    }
    row = next(row for row in printed["metrics"] if row["metric"] == "eval/score_policy")
    assert row["values"][0]["low"] < row["values"][0]["value"] < row["values"][0]["high"]
    assert (
        row["against"][0]["verdict"] == "significant"
        and row["against"][0]["method"] == "paired bootstrap"
    )
    assert printed["runs"][1]["costs"]["ppo"]["peak_memory_mib"] == 900.0
    for tracker in told:
        files = [
            item.path
            for item in tracker.client.list_artifacts(tracker.record.run_id, "comparisons")
        ]
        assert files == ["comparisons/tiny-aaaaaaa-1-vs-tiny-aaaaaaa-2.html"]


def test_the_command_prints_tables_and_replies_from_both_ends(told, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert (
        rlhf_exit_code(
            "compare", "latest~1", "latest", "--samples", "2", "--no-attach", "--html", str(page)
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "What differs: config" in out and "better, significant" in out and f"Page: {page}" in out
    assert "2 of 64" in out and "tiny-aaaaaaa-2 wins" in out and page.stat().st_size > 10_000
    assert told[0].client.list_artifacts(told[0].record.run_id, "comparisons") == []


def test_a_server_that_is_away_is_named(home, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert rlhf_exit_code("compare", "latest~1", "latest") == 1
    assert "MLflow at http://127.0.0.1:9 does not answer" in capsys.readouterr().err


def test_one_run_or_the_same_run_twice_is_refused(synthetic, capsys):
    synthetic.tell(Story("tiny-aaaaaaa-1", until="validate"))
    assert rlhf_exit_code("compare", "latest") == 2
    assert "needs two runs" in capsys.readouterr().err
    assert rlhf_exit_code("compare", "latest", "tiny-aaaaaaa-1") == 2
    assert "are the same run" in capsys.readouterr().err
