"""Tasks of lm-eval on the pipeline's models: what is read of a task, and each item's result."""

import json

import pytest
from benchmark_tasks import CHOICES, REPLIES, rows, write_task

from rlhf_core import ROOT
from rlhf_core.config.evaluate import Benchmarks
from rlhf_core.errors import BadInput
from rlhf_core.evaluation.benchmarks.harness import load_task, measure_items

SHIPPED = ROOT / "rlhf_core" / "evaluation" / "benchmarks" / "tasks"
PLAIN = Benchmarks(chat_template=False)


def test_each_item_of_a_choice_has_its_answer_by_likelihood(make_task, asked):
    model = asked(chat_template=False)
    found = measure_items(make_task(), model, PLAIN)
    assert [one.split("/")[:2] for one in found.ids] == [["choose", str(k)] for k in range(12)]
    assert found.prompts == [row["question"] for row in rows(12)]
    assert found.targets == [row["answers"][row["right"]] for row in rows(12)]
    for row, reply, value in zip(rows(12), found.replies, found.values["acc"], strict=True):
        ids = [model.tok_encode(text) for text in row["answers"]]
        before = model.tok_encode(row["question"])
        scores = model._loglikelihood_tokens([(("", ""), before, own) for own in ids])
        best = max(range(3), key=lambda k: scores[k][0])
        assert reply == row["answers"][best] and value == float(best == row["right"])


def test_each_item_of_a_generation_has_its_reply(make_task, asked):
    found = measure_items(make_task("write", REPLIES), asked(chat_template=False), PLAIN)
    assert list(found.values) == ["exact_match"] and len(found.replies) == 12
    assert all("w9" not in reply and len(reply.split()) <= 6 for reply in found.replies)
    right = [float(r == t) for r, t in zip(found.replies, found.targets, strict=True)]
    assert found.values["exact_match"] == right


def test_the_first_items_alone_are_asked_where_the_recipe_says_so(make_task, asked):
    few = Benchmarks(chat_template=False, max_items=5)
    found, whole = (measure_items(make_task(), asked(chat_template=False), c) for c in (few, PLAIN))
    assert found.ids == whole.ids[:5] and found.values["acc"] == whole.values["acc"][:5]


def test_an_item_keeps_its_identity_and_a_changed_one_has_another(make_task, tmp_path):
    task = make_task()
    assert load_task("choose", tmp_path / "tasks" / "choose").digest == task.digest
    file = tmp_path / "tasks" / "choose" / "items.jsonl"
    file.write_text(file.read_text().replace('"w0 w1"', '"w0 w2"'))
    changed = load_task("choose", tmp_path / "tasks" / "choose")
    assert changed.digest != task.digest
    assert make_task("choose", CHOICES.replace("1.0", "2.0")).digest != task.digest


def test_two_filters_of_a_task_are_two_metrics(make_task, asked):
    filters = """
filter_list:
  - {name: whole, filter: [{function: take_first}]}
  - name: first word
    filter: [{function: regex, regex_pattern: "(w[0-9]+)"}, {function: take_first}]
"""
    found = measure_items(make_task("two", REPLIES + filters), asked(chat_template=False), PLAIN)
    assert list(found.values) == ["exact_match-first_word", "exact_match-whole"]


def test_a_task_that_is_code_leaves_no_file_beside_it(tmp_path, asked):
    text = CHOICES.replace("doc_to_text: question", "doc_to_text: !function words.question")
    folder = write_task(tmp_path / "coded", text).parent
    (folder / "words.py").write_text("def question(doc):\n    return doc['question'] + ' w5'\n")
    task = load_task("coded", folder)
    assert measure_items(task, asked(chat_template=False), PLAIN).prompts[0] == "w0 w1 w5"
    assert sorted(file.name for file in folder.iterdir()) == [
        "coded.yaml",
        "items.jsonl",
        "words.py",
    ]
    assert load_task("coded", folder).digest == task.digest


def test_what_lm_eval_cannot_load_or_measure_is_refused(make_task, asked, tmp_path):
    with pytest.raises(
        BadInput, match=r"the benchmark other of .* cannot be loaded \(FileNotFound"
    ):
        make_task("other", CHOICES.replace("items.jsonl", "none.jsonl"))
    with pytest.raises(BadInput, match="cannot be loaded"):
        make_task("odd", CHOICES.replace("multiple_choice", "no_such_type"))
    summed = CHOICES.replace(
        "{metric: acc, aggregation: mean,", "{metric: mcc, aggregation: matthews_corrcoef,"
    )
    with pytest.raises(BadInput, match="summed has no metric that is one number for each item"):
        measure_items(make_task("summed", summed), asked(chat_template=False), PLAIN)
    f1 = summed.replace("mcc", "f1").replace(
        "matthews_corrcoef", "f1"
    )  # lm-eval's is for two answers, and these have three
    with pytest.raises(BadInput, match=r"lm-eval cannot measure the benchmark three \(ValueError"):
        measure_items(make_task("three", f1), asked(chat_template=False), PLAIN)


@pytest.mark.parametrize(
    ("data", "cause"),
    [("", "its data have no rows"), ('{"question": "w1"}\n{"question": \n', "JSON")],
    ids=["empty", "broken"],
)
def test_data_that_cannot_be_read_are_named_with_the_cause(tmp_path, data, cause):
    """Bug: it said "(StopIteration: )" and "An error occurred while generating the dataset"."""
    file = write_task(tmp_path / "choose").parent / "items.jsonl"
    file.write_text(data)
    with pytest.raises(BadInput) as refused:
        load_task("choose", file.parent)
    assert str(file) in str(refused.value) and cause in str(refused.value)


@pytest.mark.parametrize(("name", "n"), [("quickstart_subject", 240), ("safe_requests", 104)])
def test_the_shipped_tasks_load_without_a_network(name, n, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    task = load_task(name, SHIPPED / name)
    assert list(task.leaves) == [name] and len(task.leaves[name].eval_docs) == n


def test_no_answer_to_all_of_the_safe_requests_is_right_more_often_than_half():
    lines = (SHIPPED / "safe_requests" / "safe_requests.jsonl").read_text().splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    assert answers.count("yes") == answers.count("no") == 52
