"""The opinions of people on a live reply: feedback that its trace has in MLflow."""

from dataclasses import dataclass
from typing import Any

from mlflow.entities import AssessmentSource, Feedback, Trace

HUMAN, CODE = "HUMAN", "CODE"
NOBODY = "default"  # MLflow's source of feedback that names none


@dataclass(frozen=True)
class PersonsFeedback:
    """A person's feedback on a reply, under a name such as 'thumb'.

    author: as the caller of MLflow stated it, which proves nothing; '' where nobody is named.
    """

    name: str
    value: Any
    author: str
    time_ms: int


def peoples_feedback(trace: Trace) -> tuple[PersonsFeedback, ...]:
    """Return what people have said of a trace, without what they have taken back."""
    return tuple(
        PersonsFeedback(each.name, each.value, _author(each.source), _time(each))
        for each in trace.info.assessments
        if isinstance(each, Feedback) and each.valid is not False and _is_persons(each.source)
    )


def _is_persons(source: AssessmentSource) -> bool:
    """Return True for a person's feedback.

    An application that names no source passes a person's thumb on; judges and scorers have names.
    """
    is_unnamed = source.source_type == CODE and source.source_id == NOBODY
    return bool(source.source_type == HUMAN or is_unnamed)


def _author(source: AssessmentSource) -> str:
    return "" if source.source_id in (None, NOBODY) else str(source.source_id)


def _time(feedback: Feedback) -> int:
    return int(feedback.last_update_time_ms or feedback.create_time_ms or 0)
