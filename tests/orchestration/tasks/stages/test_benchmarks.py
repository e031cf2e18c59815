"""The benchmarks that a recipe names, found before anything runs."""

import pytest
from benchmark_tasks import CHOICES, write_task

from rlhf_core.config.evaluate import Benchmarks
from rlhf_core.errors import BadInput
from rlhf_core.patterns import fixed_folder
from tasks.stages import benchmarks


def found(*tasks: str) -> dict:
    return benchmarks.folders(Benchmarks(tasks=list(tasks)))


def test_without_benchmarks_nothing_is_needed(monkeypatch):
    monkeypatch.setattr(benchmarks, "LIBRARY", "no_such_library")
    assert found() == {}


def test_without_lm_eval_the_recipe_is_refused_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr(benchmarks, "LIBRARY", "no_such_library")
    with pytest.raises(BadInput) as refused:
        found("safe_requests")
    assert "make setup" in str(refused.value) and "rlhf-pipeline[bench]" in str(refused.value)


def test_a_name_is_of_this_project_or_of_lm_eval(tmp_path):
    inputs = found("safe_requests", "hellaswag", "mmlu")
    assert list(inputs) == ["benchmark_safe_requests", "benchmark_hellaswag", "benchmark_mmlu"]
    folders = {name: fixed_folder(item.path) for name, item in inputs.items()}
    assert (folders["benchmark_safe_requests"] / "safe_requests.jsonl").is_file()
    assert (folders["benchmark_hellaswag"] / "hellaswag.yaml").is_file()
    assert "group: mmlu" in (folders["benchmark_mmlu"] / "_mmlu.yaml").read_text()


def test_a_task_file_is_known_by_the_content_of_its_folder_and_not_by_its_place(tmp_path):
    here, there = (write_task(tmp_path / place / "mine") for place in ("a", "b"))
    first, second = (found(str(file))["benchmark_mine"].digest for file in (here, there))
    (there.parent / "__pycache__").mkdir()
    (there.parent / "__pycache__" / "words.pyc").write_bytes(b"compiled")
    assert first == second == found(str(there))["benchmark_mine"].digest
    write_task(tmp_path / "b" / "mine", count=13)
    assert found(str(there))["benchmark_mine"].digest != first
    named = benchmarks.without_places(Benchmarks(tasks=[str(here)]))
    assert named.tasks == ["mine"]


def test_a_benchmark_that_is_not_there_is_refused(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"'hellaswig', which neither .* did you mean hellaswag"):
        found("hellaswig")
    with pytest.raises(BadInput, match=r"tasks has '.*none\.yaml': no such file"):
        found(str(tmp_path / "none.yaml"))
    other = write_task(tmp_path / "other", CHOICES.replace("task: NAME", "task: 'mine'"))
    with pytest.raises(BadInput, match="names the task 'mine'; expected `task: other`"):
        found(str(other))
    none = write_task(tmp_path / "nameless", CHOICES.replace("task: NAME", ""))
    with pytest.raises(BadInput, match="names no task; expected `task: nameless`"):
        found(str(none))
    monkeypatch.setenv("RLHF_ALLOWED_ROOTS", str(tmp_path / "allowed"))
    with pytest.raises(BadInput, match="outside"):
        found(str(write_task(tmp_path / "mine")))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"description: caf\xe9", r"whose line 2 is not UTF-8 \(byte 0xe9\)"),
        (b"doc_to_text: [question", r"whose line \d+ is not valid YAML \(expected ',' or '\]'"),
    ],
    ids=["text", "yaml"],
)
def test_a_task_file_that_cannot_be_read_is_refused_with_the_line(tmp_path, line, said):
    """Bug: lm-eval then knew no task of this name."""
    file = write_task(tmp_path / "mine")
    file.write_bytes(b"task: mine\n" + line + b"\n")
    with pytest.raises(BadInput, match=said):
        found(str(file))


def test_a_task_file_may_name_functions_of_its_folder(tmp_path):
    text = CHOICES.replace("doc_to_text: question", "doc_to_text: !function words.question")
    assert found(str(write_task(tmp_path / "coded", text)))
