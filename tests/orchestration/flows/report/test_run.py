"""The pages are self-contained, escaped, small enough, and written when MLflow is away too."""

import contextlib
import json
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient
from pages import EVIL, Page, assert_self_contained
from synthetic import Story, Synthetic

from flows.report.comparison import comparison_page
from flows.report.comparison_tables import tiles
from flows.report.page import LARGEST, fitting
from flows.report.run import run_page
from flows.report.stage_tables import gate_table
from rlhf_core.config import Recipe
from rlhf_core.errors import GateRefused
from tasks.analysis.comparison import WinRate, compare
from tasks.analysis.head_to_head import head_to_head
from tasks.analysis.run_evidence import from_record
from tasks.analysis.significance import Finding
from tasks.records.run_record import pending, records
from tasks.records.workspace import Workspace
from tasks.run_context import RunContext, opened
from tasks.tracking.sync import sync
from tasks.tracking.tracker import Tracker, tracking


@pytest.fixture
def write_report(home):
    from flows.pipeline import write_report  # it sets Prefect up before Prefect is imported

    return write_report


def evidence(synthetic: Synthetic, *stories: Story) -> list:
    return [from_record(synthetic.write(story)) for story in stories]


def test_the_comparison_is_one_self_contained_page_with_every_part(synthetic):
    stories = [
        Story("a", champion="policy-0"),
        Story("b", lift=2.0, reply=EVIL, policy="policy-b", seed=2),
    ]
    text = comparison_page(compare(evidence(synthetic, *stories)))
    seen = assert_self_contained(text)
    for part in (
        "Outcome",
        "What differs",
        "Metrics",
        "Curves and costs",
        "Replies to the same prompts",
        "Lineage",
    ):
        assert part in seen.text
    for plot in (
        "Reward over steps",
        "KL from the SFT model over steps",
        "Reply length over steps",
        "Reward against KL",
        "Reward-model calibration",
        "Reward-model margin",
        "Time per stage",
        "Peak memory per stage",
    ):
        assert plot in seen.text
    assert EVIL in seen.text and EVIL not in text and "&lt;script&gt;alert(1)" in text
    assert seen.text.count("better, significant") > 2 and "paired bootstrap" in seen.text


def test_names_and_values_are_escaped_too(synthetic):
    settings = {"description": EVIL}
    first, second = evidence(synthetic, Story("a"), Story("b", settings=settings))
    text = comparison_page(compare([first, second]))
    assert EVIL not in text and EVIL in Page(text).text
    assert EVIL not in run_page(second) and EVIL in Page(run_page(second)).text


def test_every_sample_row_sorts_by_its_numbers(synthetic):
    text = comparison_page(
        compare(evidence(synthetic, Story("a"), Story("b", lift=2.0, seed=2, policy="policy-b")))
    )
    table = text[text.index('class="sortable samples"') :]
    keys = re.findall(r'data-v="([^"]+)"', table)
    differences = [float(value) for value in keys[2::3]]
    assert len(differences) == 64 and differences == sorted(differences, reverse=True)


def test_long_replies_leave_rows_out_and_say_so(synthetic):
    long = "word " * 290
    runs = evidence(
        synthetic,
        *(
            Story(name, prompts=900, reply=long, policy=name, seed=place)
            for place, name in enumerate("ab")
        ),
    )
    comparison = compare(runs)
    text = comparison_page(comparison)
    shown = int(re.search(r"([\d,]+) of 900 are shown", text)[1])
    assert len(text.encode()) < LARGEST and 200 < shown < 900
    ends = {comparison.samples[0].prompt, comparison.samples[-1].prompt}
    assert all(prompt in Page(text).text for prompt in ends)


def test_a_page_that_cannot_be_made_small_keeps_no_rows():
    sizes = []

    def render(rows: int) -> str:
        sizes.append(rows)
        return "x" * (LARGEST + rows)

    assert len(fitting(render, 10)) == LARGEST and sizes == [10, 5, 2, 1, 0]


def test_a_comparison_without_items_says_so_and_draws_what_there_is(synthetic):
    text = comparison_page(
        compare(
            evidence(
                synthetic, Story("a", with_items=False), Story("b", with_items=False, lift=2.0)
            )
        )
    )
    seen = assert_self_contained(text)
    assert "no per-item evidence" in seen.text and "Reward over steps" in seen.text
    assert (
        "Reward-model calibration" not in seen.text
        and "Replies to the same prompts" not in seen.text
    )


# the report that a run ends with


def test_the_policy_is_held_against_sft_model_and_champion_from_its_own_items(synthetic):
    (run,) = evidence(synthetic, Story("a", lift=1.0, champion="policy-0"))
    against = {model: head_to_head(run, model) for model in ("sft", "champion")}
    gains = {model: found.rows[0].against[0] for model, found in against.items()}
    assert gains["sft"].difference == pytest.approx(1.0, abs=0.15) and gains["sft"].better
    assert gains["champion"].difference == pytest.approx(0.5, abs=0.15)
    assert [row.metric for row in against["sft"].rows] == [
        "Reward",
        "Independent",
        "Length",
        "Repetition",
        "Cut replies",
    ]
    assert (
        len(against["champion"].samples) == 64
        and against["champion"].win_rates[0].over == "champion"
    )
    text = run_page(run)
    seen = assert_self_contained(text)
    assert (
        "Policy against the SFT model" in seen.text and "Policy against the champion" in seen.text
    )


def test_a_judge_has_its_say_beside_the_reward_model(synthetic):
    (run,) = evidence(synthetic, Story("a", champion="policy-0"))
    assert [win_rate.judge for win_rate in head_to_head(run, "sft").win_rates] == [
        "reward model",
        "independent scorer",
    ]
    run.stages["evaluate"].items["judge_vs_sft"] = [1.0] * 40 + [0.5] * 8 + [0.0] * 12 + [None] * 4
    *_, judge = head_to_head(run, "sft").win_rates
    # four were not judged
    assert (judge.judge, judge.over, judge.finding.n) == ("judge", "SFT model", 60)
    assert judge.finding.difference == pytest.approx(44 / 60) and judge.finding.better
    assert "by the judge" in Page(run_page(run)).text
    assert [win_rate.judge for win_rate in head_to_head(run, "champion").win_rates] == [
        "reward model",
        "independent scorer",
    ]


def test_without_items_the_report_rests_on_what_was_recorded(synthetic):
    (run,) = evidence(synthetic, Story("a", with_items=False))
    found = head_to_head(run, "sft")
    assert (
        found.win_rates[0].finding.low < found.win_rates[0].finding.difference
        and len(found.samples) == 8
    )
    assert {row.against[0].verdict for row in found.rows} == {"no interval"} and head_to_head(
        run, "champion"
    ) is None
    assert_self_contained(run_page(run))


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        ((None, None), "97.9% of prompts"),
        ((0.95, 0.99), "97.9% 95% interval 95.0% to 99.0% of prompts"),
    ],
)
def test_who_wins_is_one_sentence_with_and_without_an_interval(ends, says):
    found = Finding("no interval", 0.979, *ends)
    assert (
        f"policy wins over SFT model {says}, by the judge"
        in Page(str(tiles([WinRate("policy", "SFT model", "judge", found)]))).text
    )


def test_a_gate_without_a_champion_to_compare_with_says_so_and_is_not_called_missing():
    spoken = {
        "stage": "evaluate",
        "gate": "worth",
        "metric": "eval/independent_policy",
        "versus": "champion",
        "n": None,
        "bound": "at least",
        "threshold": 0.0,
        "value": None,
        "passed": True,
        "reason": "no champion took part",
    }
    won = spoken | {"metric": "eval/win_rate_vs_champion", "value": 0.7}
    gone = spoken | {
        "versus": None,
        "minus": "eval/independent_sft",
        "passed": False,
        "reason": "it is None",
    }
    passed, against, refused = (
        Page(str(gate_table([decision]))).text for decision in (spoken, won, gone)
    )
    assert (
        "eval/independent_policy minus the champion's - at least 0 passed no champion took part"
        in passed
    )
    assert "eval/win_rate_vs_champion 0.7 at least 0 passed" in against
    assert "minus eval/independent_sft missing at least 0 refused it is None" in refused


@pytest.mark.parametrize("until", ["validate", "reward", "ppo"])
def test_a_run_that_stopped_early_has_a_report_too(synthetic, until):
    (run,) = evidence(synthetic, Story("a", until=until))
    seen = assert_self_contained(run_page(run))
    assert "Lineage" in seen.text and "Policy against" not in seen.text


@pytest.fixture
def tracked(synthetic):
    """Return a function that opens the tracker of a record, as the flow does."""
    with contextlib.ExitStack() as stack:
        yield lambda record: stack.enter_context(tracking(synthetic.workspace, record))


def context_of(tracker: Tracker) -> RunContext:
    recipe = Recipe.model_validate(tracker.record.recipe)
    return RunContext(recipe, tracker.workspace, tracker.record.id)


def test_the_report_is_in_the_workspace_in_mlflow_and_in_the_description(
    synthetic, write_report, tracked
):
    tracker = tracked(synthetic.write(Story("a")))
    context = context_of(tracker)
    tracker.flush()
    tracker.end("FINISHED", report=lambda: write_report(context))
    path = tracker.record.report
    assert path.is_relative_to(synthetic.workspace.home)
    assert tracker.record.run_id in path.read_text()
    parent = tracker.client.get_run(tracker.record.run_id)
    assert "report.html" in {
        item.path for item in tracker.client.list_artifacts(tracker.record.run_id)
    }
    link = f"/runs/{tracker.record.run_id}/artifacts/report.html)"
    assert link in parent.data.tags["mlflow.note.content"] and parent.info.status == "FINISHED"


def test_the_champions_run_is_shown_beside_the_candidates(synthetic, write_report, tracked):
    first = synthetic.tell(Story("first", policy="policy-0"))
    digest = synthetic.artifact("policy-0", model=True).digest
    first.client.create_registered_model("tiny-policy")
    tags = {"digest": digest, "pipeline_run_id": first.record.run_id}
    first.client.create_model_version("tiny-policy", source="file:///nowhere", tags=tags)
    second = tracked(
        synthetic.write(Story("second", champion="policy-0", settings={"ppo": {"beta": 0.2}}))
    )
    context = context_of(second)
    second.end("FINISHED", report=lambda: write_report(context))
    seen = assert_self_contained(second.record.report.read_text())
    assert "What differs from the champion's run" in seen.text and "ppo.beta" in seen.text


def test_with_mlflow_down_the_report_is_written_now_and_forwarded_later(
    synthetic, write_report, tracked, monkeypatch
):
    later = synthetic.workspace.tracking_uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    tracker = tracked(synthetic.write(Story("a", champion="policy-0")))
    context = context_of(tracker)
    tracker.flush()
    tracker.end("FINISHED", report=lambda: write_report(context))
    assert (
        tracker.problem
        and tracker.record.report.exists()
        and len(pending(synthetic.workspace)) == 1
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    file = pending(synthetic.workspace)[0]
    # the server is up again, elsewhere
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tracking_uri": later}))
    assert sync(synthetic.workspace).forwarded == ["a"]
    client = MlflowClient(tracking_uri=later)
    run_id = records(synthetic.workspace)[-1]["run_id"]
    assert "report.html" in {item.path for item in client.list_artifacts(run_id)}


def test_a_report_that_cannot_be_written_is_a_warning_and_costs_the_run_nothing(synthetic, caplog):
    tracker = Tracker(synthetic.workspace, synthetic.write(Story("a", until="sft")))

    def fail() -> Path:
        raise OSError("no space left")

    tracker.end("FINISHED", report=fail)
    assert "the report of a could not be written (OSError: no space left)" in caplog.text
    assert (
        tracker.client.get_run(tracker.record.run_id).info.status == "FINISHED"
        and tracker.record.report is None
    )


@pytest.mark.parametrize(
    ("raised", "status", "reports"),
    [(GateRefused("no"), "FAILED", 1), (KeyboardInterrupt(), "KILLED", 0)],
)
def test_a_refused_run_has_a_report_and_a_killed_one_ends_at_once(
    make_recipe, raised, status, reports
):
    asked: list[RunContext] = []
    with (
        pytest.raises(type(raised)),
        opened(make_recipe(), "a", from_stage=None, until=None, report=asked.append) as context,
    ):
        raise raised
    assert context.record.status == status and len(asked) == reports


def test_a_flow_links_its_report_from_prefect_also_when_a_gate_refused(make_recipe, plan, home):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    from flows.pipeline import run_pipeline

    plan(sft={"metrics": {"sft/heldout_improvement": -1.0}})
    with pytest.raises(GateRefused):
        run_pipeline(make_recipe(), until="sft")
    record = records(Workspace(home))[-1]
    text = Path(record["report"]).read_text()
    assert "refused" in Page(text).text and "sft/heldout_improvement" in Page(text).text
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["report", "report-summary"]))
        found = {
            artifact.key: artifact
            for artifact in client.read_latest_artifacts(artifact_filter=wanted)
        }
    assert (
        record["run_id"] in found["report"].data
        and record["report"] in found["report-summary"].data
    )
    *samples, _ = [  # the last line is the time since the last sample
        json.loads(line) for line in (Path(record["stages"][-1]["run_dir"]) / "system.jsonl").open()
    ]
    assert samples and all(line["metrics"]["system/stage_memory_mib"] > 1 for line in samples)
