"""The model card says what a version rests on, fits into MLflow, shows model output as text."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from markdown_it import MarkdownIt
from recipes import tiny_recipe

from rlhf_core.config.gate_rules import Override
from rlhf_core.evidence.items import write_items
from rlhf_core.gates.decide import Decision
from rlhf_core.rundir import Artifact, StageResult
from rlhf_core.stage_catalogue import EVALUATE, REWARD
from tasks import model_card
from tasks.records.approval_record import ApprovalRecord
from tasks.records.run_record import Record, Registration, StageRecord
from tasks.records.workspace import Workspace
from tasks.registration import register_reward_model
from tasks.run_context import RunContext, StageOutput
from tasks.tracking.rendering import spaced
from tasks.tracking.tracker import tracking

HOSTILE = (
    "a | b\n# head <script>alert(1)</script> ![x](https://example.org/x.png) `code` *bold*"
    " [l](javascript:1)"
)
OVERRIDE = Override(threshold=0.55, reason="shown for the record | not for use", by="someone")
SPLITS = ("comparisons_heldout", "comparisons_train", "prompts_heldout")
MODELS = ("base", "sft", "reward", "policy")
RESULTS = {
    "validate": {"metrics": {"data/comparisons_train": 4000.0, "data/comparisons_heldout": 600.0}},
    "reward": {
        "metrics": {
            "reward/accuracy": 0.755,
            "reward/accuracy_lower": 0.719,
            "reward/heldout_loss": 0.5,
        },
        "intervals": {"reward/accuracy": (0.719, 0.788), "reward/accuracy_lower": (0.719, 0.788)},
        "counts": {"reward/accuracy": 600},
    },
    "ppo": {"metrics": {"ppo/score_mean": 3.5, "ppo/entropy": 1.0}},
    "evaluate": {
        "metrics": {"eval/win_rate": 0.8, "eval/win_rate_lower": 0.7},
        "intervals": {"eval/win_rate": (0.7, 0.9)},
    },
}


def decision(stage: str, gate: str, **changes) -> Decision:
    values = {
        "stage": stage,
        "gate": gate,
        "metric": f"{stage}/{gate}",
        "value": 0.8,
        "n": 100,
        "interval": (0.7, 0.9),
        "bound": "at least",
        "threshold": 0.5,
        "passed": True,
        "reason": "it is",
    }
    return Decision.model_validate(values | changes)


@dataclass
class Evaluated:
    """A run whose evaluation is over, as far as a card looks at it."""

    context: RunContext
    artifacts: dict[str, Artifact]
    results: dict[str, StageResult]

    def output(self, kind: str) -> StageOutput:
        stage = REWARD if kind == "reward" else EVALUATE
        return StageOutput(stage, {}, self.artifacts, self.results, None)

    def card(self, kind: str, decisions: list[Decision], *, brief: bool = False) -> str:
        return model_card.card(self.context, self.output(kind), kind, decisions, brief=brief)


@pytest.fixture
def run(home, tmp_path) -> Iterator[Evaluated]:
    sampling = {"temperature": 0.7, "max_new_tokens": 48}
    recipe = tiny_recipe(seed=7, description="to try it", evaluate={"sampling": sampling})
    workspace = Workspace.here()
    record, results = Record.new(workspace, recipe), {}
    for name, values in RESULTS.items():
        run_dir = workspace.runs / name
        run_dir.mkdir(parents=True)
        record.stages.append(StageRecord(stage=name, run_dir=run_dir, started=0))
        results[name] = StageResult(stage=name, digest=f"{name}-digest", seconds=1.0, **values)
    for name in SPLITS:
        (tmp_path / name).write_text(name)
    for name in MODELS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"model_type": "llama"}')
    artifacts = {name: Artifact.of(tmp_path / name) for name in (*SPLITS, *MODELS)}
    with tracking(workspace, record):
        yield Evaluated(RunContext(recipe, workspace, record.id), artifacts, results)


def with_items(run: Evaluated, stage: str, columns: dict[str, list]) -> None:
    files = write_items(run.context.record.stage(stage).run_dir, columns)
    run.results[stage] = run.results[stage].model_copy(update={"files": files})


def replies(count: int) -> dict[str, list]:
    texts = [HOSTILE, *(f"reply {i} " + "word " * 100 for i in range(1, count))]
    return {
        "prompt": [f"prompt {i}" for i in range(count)],
        "sft_reply": texts,
        "sft_score": [0.25] * count,
        "policy_reply": texts,
        "policy_score": [1.5] * count,
    }


def test_a_policys_card_says_what_it_rests_on(run):
    with_items(run, "evaluate", replies(5))
    text = run.card("policy", [decision("evaluate", "win_rate")])
    assert (
        "| eval/win_rate | 0.8 | 0.7 to 0.9 |  | share |" in text
        and "eval/win_rate_lower" not in text
    )
    assert "| evaluate | win_rate | evaluate/win_rate | 0.8 |" in text
    digest = run.artifacts["comparisons_train"].digest[:16]
    assert (
        f"| comparisons_train | 4,000 | `{digest}` |" in text and "| prompts_heldout |  |" in text
    )
    assert "| seed | 7 |" in text and "| beta | 0.05 |" in text
    assert run.context.record.commit[:12] in text and run.artifacts["sft"].digest[:16] in text
    assert 'mlflow.pyfunc.load_model("models:/tiny-policy@champion")' in text
    assert (
        'params={"temperature": 0.7, "max_tokens": 48}' in text
        and "--model tiny-policy/artifacts/model" in text
    )
    assert text.count("| prompt ") == 1 + 3


def test_a_reward_models_card_shows_pairs_and_intervals(run):
    columns = {
        "prompt": ["p"],
        "chosen": ["good"],
        "chosen_score": [2.0],
        "rejected": ["bad"],
        "rejected_score": [-1.25],
    }
    with_items(run, "reward", columns)
    text = run.card("reward", [decision("reward", "accuracy")])
    assert "| reward/accuracy | 0.755 | 0.719 to 0.788 | 600 | share |" in text
    assert "| p | good | 2.00 | bad | -1.25 |" in text
    assert "AutoModelForSequenceClassification" in text and "win_rate" not in text


def test_a_card_names_no_class_of_transformers_that_a_family_has_not(run):
    folder = run.artifacts["reward"].path
    (folder / "config.json").write_text('{"model_type": "granite"}')
    text = run.card("reward", [])
    assert "AutoModelForSequenceClassification" not in text
    assert "transformers has no sequence classifier of this family; MLflow loads it" in text


def test_overrides_and_the_sign_off_stand_on_top(run):
    run.context.record.approval = ApprovalRecord.model_validate(
        {
            "evidence": "e",
            "run": "r",
            "asked_at": "2026-01-01T00:00Z",
            "until": "2026-01-02T00:00Z",
            "state": "approved",
            "by": "Pat",
            "comment": "reads well",
        }
    )
    text = run.card(
        "policy", [decision("reward", "accuracy", override=OVERRIDE), decision("ppo", "kl")]
    )
    top = text.partition("\n## ")[0]
    assert "Sign-off: approved by Pat: reads well." in top
    assert (
        "- reward.accuracy to 0.55 by someone: shown for the record \\| not for use" in top
        and "ppo.kl" not in top
    )


def test_a_parent_that_is_registered_is_named_by_its_version(run):
    wanted = Registration(
        model="tiny-reward", stage="reward", artifact=run.artifacts["reward"], tags={}, version="4"
    )
    run.context.record.registrations.append(wanted)
    assert "| reward model | tiny-reward version 4, `" in run.card("policy", [])


def test_model_output_is_shown_as_text(run):
    with_items(run, "evaluate", replies(1))
    tokens = MarkdownIt("commonmark").enable("table").parse(run.card("policy", []))
    cells = [token for token in tokens if token.type == "inline" and "javascript" in token.content]
    assert len(cells) == 2  # the SFT model's and the policy's
    for token in cells:
        assert {child.type for child in token.children} <= {"text", "text_special"}
        assert "".join(child.content for child in token.children) == " ".join(HOSTILE.split())
        assert "://" not in token.content  # which some renderers make a link of


def test_a_description_fits_and_says_what_is_left_out(run):
    with_items(run, "evaluate", replies(3))
    gates = [decision("evaluate", f"a_gate_with_a_long_name_{i}") for i in range(25)]
    whole = run.card("policy", gates)
    short = model_card.description(whole)
    assert len(whole) > model_card.DESCRIPTION_LENGTH >= len(short)
    assert "## Training" not in short and "Training" in short and "README.md" in short
    assert "## Gates" in short and "a_gate_with_a_long_name_24" in short and "## Metrics" in short
    assert model_card.description(whole, limit=10**6) == whole
    assert (
        len(model_card.description("# m\n\n## Gates\n\n" + "x" * 9000))
        <= model_card.DESCRIPTION_LENGTH
    )
    assert len(model_card.description("x" * 9000)) <= model_card.DESCRIPTION_LENGTH


def test_a_description_of_sixteen_gates_has_room_for_data_gates_samples_and_how_to_load(run):
    with_items(run, "evaluate", replies(3))
    metrics = {
        f"eval/{name}": 0.8
        for name in ("score_gain", "kl_per_response", "length_ratio", "repetition_increase")
    }
    run.results["evaluate"] = run.results["evaluate"].model_copy(update={"metrics": metrics})
    gates = [decision("evaluate", name.removeprefix("eval/"), metric=name) for name in metrics] * 4
    short = model_card.description(spaced(run.card("policy", gates, brief=True)))
    assert all(
        f"## {title}\n" in short for title in ("Metrics", "Gates", "Samples", "Data", "How to load")
    )
    assert short.count("| prompt ") == 1 + 3 and "reward\\_model" not in short


def test_tables_and_their_columns_have_a_gap_on_mlflows_page():
    text = (
        "A | b\n\n| gate | n | verdict |\n| --- | --- | --- |\n| a \\| b | 256 | **passed**"
        " |\n\nend"
    )
    assert (
        spaced(text)
        == "A | b\n\n| gate | n | verdict |\n| --- | --- | --- |\n| a \\| b&ensp; | 256&ensp; |"
        " **passed** |\n\n&ensp;\n\nend"
    )
    assert (
        spaced("no table") == "no table"
        and MarkdownIt("commonmark").enable("table").render(spaced(text)).count("<td>") == 3
    )


def test_the_registered_version_shows_the_card(run):
    run.context.record.stage("reward").decisions = [decision("reward", "accuracy")]
    register_reward_model(run.context, run.output("reward"))
    (wanted,) = run.context.record.registrations
    assert (
        wanted.card.startswith("# tiny-reward\n")
        and "| reward | accuracy | reward/accuracy | 0.8 |" in wanted.card
    )
    assert wanted.note.startswith("A reward model: ")
    assert "reward.accuracy&ensp; | **passed**&ensp; | 0.8 |" in wanted.note
    assert wanted.decisions == [decision("reward", "accuracy")]
    assert json.loads(wanted.tags["data"]) == {name: run.artifacts[name].digest for name in SPLITS}
