"""A benchmark on which no model could be right is refused, and not scored 0 for all of them."""

import json

import pytest
from benchmark_tasks import CHOICES, REPLIES, rows, write_task

from rlhf_core.errors import BadInput
from rlhf_core.evaluation.benchmarks.harness import load_task
from rlhf_core.evaluation.benchmarks.right_answers import require_right_answers


def load(folder, text: str = CHOICES, **changes: object):
    """Return a task of 12 items, with these values in its item 5."""
    write_task(folder / "choose", text)
    items = rows(12)
    items[5] |= changes
    (folder / "choose" / "items.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    return load_task("choose", folder / "choose")


@pytest.mark.parametrize(
    "text",
    [
        CHOICES,
        REPLIES,
        CHOICES.replace("doc_to_target: right", 'doc_to_target: "{{answers[right]}}"'),
    ],
    ids=["number", "reply", "text"],
)
def test_a_task_whose_items_have_right_answers_passes(tmp_path, text):
    require_right_answers(load(tmp_path, text))


@pytest.mark.parametrize(
    ("field", "column"), [("doc_to_target", "right"), ("doc_to_text", "question")]
)
def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path, field, column):
    task = load(tmp_path, CHOICES.replace(f"{field}: {column}", f"{field}: {column}s"))
    with pytest.raises(
        BadInput, match=rf"{field}: {column}s, which is no column .*answers, question, right"
    ):
        require_right_answers(task)


@pytest.mark.parametrize("right", [3, -1], ids=["too large", "hidden"])
def test_a_right_answer_that_is_no_choice_is_refused_with_its_item(tmp_path, right):
    with pytest.raises(BadInput, match=f"item 5 .* has the right answer {right}, which is none of"):
        require_right_answers(load(tmp_path, right=right))


def test_the_tasks_of_the_project_have_right_answers():
    from rlhf_core import ROOT

    folder = ROOT / "rlhf_core" / "evaluation" / "benchmarks" / "tasks"
    for name in ("quickstart_subject", "safe_requests"):
        require_right_answers(load_task(name, folder / name))
