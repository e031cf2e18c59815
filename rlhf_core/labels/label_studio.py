"""Label Studio's JSON export of a project with a Pairwise tag.

A task is {"data": {...}, "annotations": [{"completed_by", "result": [...], ...}]}. Of an
annotation's result count {"type": "pairwise", "value": {"selected": "left"}}, a Choices tag beside
it (same, both bad, cannot judge), a Rating (strength) and a TextArea (comment). Source: Label
Studio's pages "Label Studio Task Format" and "Pairwise".
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from rlhf_core.data.sources.text_files import loads
from rlhf_core.errors import BadInput

# names of the two texts in a task's data, in the order left, right
REPLIES = (
    ("reply_a", "reply_b"),
    ("response_a", "response_b"),
    ("text1", "text2"),
    ("answer1", "answer2"),
    ("response1", "response2"),
    ("left", "right"),
)
_EXPECTED = (
    'tasks with "data" and "annotations", as Label Studio exports in the format JSON (not'
    " JSON-MIN, which does not say who labelled)"
)


def tasks_of(file: Path) -> Iterator[tuple[int, dict]]:
    """Yield number and task of an export. Raises BadInput for a file that is no such export."""
    text = file.read_text(encoding="utf-8")
    try:
        tasks = loads(text)
    except ValueError as error:
        raise BadInput(f"{file} is no JSON ({error}); expected {_EXPECTED}.") from None
    if not isinstance(tasks, list):
        raise BadInput(f"{file} is no list; expected {_EXPECTED}.")
    for number, task in enumerate(tasks, 1):
        is_task = isinstance(task, dict) and isinstance(task.get("data"), dict)
        if not is_task or not isinstance(task.get("annotations"), list):
            raise BadInput(
                f"{file} task {number} has no data and annotations; expected {_EXPECTED}."
            )
        yield number, task


def votes_of_task(where: str, task: dict) -> Iterator[dict]:
    """Yield each annotation of a task as a vote's row; a cancelled one says "cannot judge".

    Raises BadInput for a task whose data name no two replies, and a result without a choice.
    """
    data = task["data"]
    names = next((names for names in REPLIES if set(names) <= data.keys()), None)
    if names is None or "prompt" not in data:
        raise BadInput(
            f"{where} has the data {', '.join(data)}; expected prompt, and the replies as"
            f" {' or '.join(' and '.join(names) for names in REPLIES)}. Rename them in the export."
        )
    texts = {"prompt": data["prompt"], "reply_a": data[names[0]], "reply_b": data[names[1]]}
    for annotation in task["annotations"]:
        if not isinstance(annotation, dict):
            raise BadInput(
                f"{where} has the annotation {annotation!r:.60}, which is no object; expected"
                f" {_EXPECTED}."
            )
        author = annotation.get("completed_by")
        if isinstance(author, dict):
            author = author.get("email") or author.get("id")
        yield texts | {"annotator": author, "first": "a"} | _answer(where, annotation)


def _answer(where: str, annotation: dict) -> dict:
    if annotation.get("was_cancelled"):
        return {"choice": "cannot_judge"}
    found: dict = {}
    for kind, value in _parts(where, annotation):
        if kind == "pairwise":
            found["choice"] = value.get("selected")
        elif kind == "choices" and value.get("choices"):
            found.setdefault("choice", value["choices"][0])
        elif kind == "rating":
            found["strength"] = value.get("rating")
        elif kind == "textarea" and value.get("text"):
            text = value["text"]
            found["comment"] = "\n".join(text) if isinstance(text, list) else text
    if not found.get("choice"):
        raise BadInput(
            f"{where}: annotation {annotation.get('id', '')} says neither left nor right, nor a"
            " choice; expected a result of a Pairwise tag, or of a Choices tag beside it."
        )
    if at := _seconds(annotation.get("created_at")):
        found["at"] = at
    return found


def _parts(where: str, annotation: dict) -> Iterator[tuple[object, dict]]:
    """Yield type and value of each part of an annotation's result."""
    result = annotation.get("result") or []
    for part in result if isinstance(result, list) else [result]:
        value = (part.get("value") or {}) if isinstance(part, dict) else None
        if not isinstance(value, dict):
            raise BadInput(
                f"{where}: annotation {annotation.get('id', '')} has the result {part!r:.60};"
                ' expected objects with "type" and "value".'
            )
        yield part.get("type"), value


def _seconds(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
