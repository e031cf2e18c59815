"""Label Studio's JSON export."""

import json

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.labels.formats import read_votes

DATA = {"prompt": "How?", "text1": "So.", "text2": "Thus."}


def annotation(author, *parts: tuple[str, dict], **more) -> dict:
    result = [
        {"from_name": kind, "to_name": "text1,text2", "id": "x", "type": kind, "value": value}
        for kind, value in parts
    ]
    return {
        "id": 7,
        "completed_by": author,
        "result": result,
        "was_cancelled": False,
        "created_at": "2026-11-28T16:00:00.000000Z",
    } | more


def export(tmp_path, *annotations: dict, data: dict = DATA):
    file = tmp_path / "export.json"
    tasks = [{"id": 1, "data": data, "annotations": list(annotations), "predictions": []}]
    file.write_text(json.dumps(tasks), encoding="utf-8")
    return file


def test_pairwise_choices_rating_and_text_become_votes(tmp_path):
    found = read_votes(
        export(
            tmp_path,
            annotation(1, ("pairwise", {"selected": "right"}), ("rating", {"rating": 3})),
            annotation({"id": 2, "email": "bob@x.org"}, ("choices", {"choices": ["Both bad"]})),
            annotation(
                3, ("pairwise", {"selected": "left"}), ("textarea", {"text": ["no", "yes"]})
            ),
            annotation(4, was_cancelled=True),
        )
    )
    assert [(v.annotator, v.choice, v.strength, v.comment) for v in found.votes] == [
        ("1", "b", 3.0, ""),
        ("bob@x.org", "both_bad", None, ""),
        ("3", "a", None, "no\nyes"),
        ("4", "cannot_judge", None, ""),
    ]
    assert found.votes[0].at == 1795881600.0 and found.votes[0].first == "a"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"prompt": "How?", "one": "x", "two": "y"}, "has the data prompt, one, two"),
        ({"text1": "x", "text2": "y"}, "expected prompt"),
    ],
)
def test_a_task_without_prompt_and_two_replies_is_refused(tmp_path, data, says):
    with pytest.raises(BadInput, match=says):
        read_votes(export(tmp_path, annotation(1), data=data))


def test_an_annotation_without_an_answer_is_refused(tmp_path):
    with pytest.raises(BadInput, match="annotation 7 says neither left nor right"):
        read_votes(export(tmp_path, annotation(1, ("rating", {"rating": 3}))))


@pytest.mark.parametrize("text", ['{"a": 1}', '[{"prompt": "p", "pw": "left"}]', "not json"])
def test_another_json_is_no_export(tmp_path, text):
    file = tmp_path / "export.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match="as Label Studio exports"):
        read_votes(file)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ("left", "task 1 has the annotation 'left', which is no object"),
        (annotation(1) | {"result": ["left"]}, "annotation 7 has the result 'left'"),
        (annotation(1) | {"result": "left"}, "annotation 7 has the result 'left'"),
        (annotation(1) | {"result": [{"type": "pairwise", "value": "left"}]}, "has the result"),
        (annotation(1, ("textarea", {"text": "\ud83d"})), "surrogates not allowed"),
    ],
)
def test_what_is_no_annotation_is_refused(tmp_path, found, says):
    with pytest.raises(BadInput, match=says):
        read_votes(export(tmp_path, found))
