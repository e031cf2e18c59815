"""Requests with their replies as traces in MLflow, in the form of the gateway's own traces."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Span, SpanType, TraceInfo, TraceLocation, TraceState
from mlflow.tracing.client import TracingClient
from mlflow.tracing.constant import SpanAttributeKey
from mlflow.tracing.utils import dump_span_attribute_value

PREVIEW = 1000  # characters, MLflow's limit of a preview


@dataclass(frozen=True)
class RecordedTrace:
    """A record as the reply log writes it, and the identity and tags of its trace."""

    identity: str
    record: dict[str, Any]
    tags: dict[str, str]


def identity_of(name: str) -> str:
    """Return the identity of a trace that follows from a name: written again, it is replaced."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def write_traces(tracing: TracingClient, experiment: str, traces: Sequence[RecordedTrace]) -> None:
    """Write traces to an experiment. Raises what MLflow raises."""
    tracing.log_spans(experiment, [_span(each) for each in traces])
    for each in traces:  # after its span, which it completes
        tracing.start_trace(_info(experiment, each))


def _span(made: RecordedTrace) -> Span:
    identity, record, reply = made.identity, made.record, made.record["reply"]
    message = {"role": "assistant", "content": reply["content"]}
    choice = {"index": 0, "message": message, "finish_reason": reply["finish_reason"]}
    attributes = {
        SpanAttributeKey.REQUEST_ID: f"tr-{identity}",
        SpanAttributeKey.SPAN_TYPE: SpanType.CHAT_MODEL,
        SpanAttributeKey.INPUTS: record["request"],
        SpanAttributeKey.OUTPUTS: {
            "id": reply["id"],
            "object": "chat.completion",
            "model": reply["model"],
            "choices": [choice],
            "usage": reply["usage"],
        },
        SpanAttributeKey.MODEL: reply["model"],
    }
    began = record["time_ms"] * 1_000_000
    return Span.from_dict(
        {
            "name": reply["model"],
            "trace_id": f"tr-{identity}",
            "span_id": identity[:16],
            "parent_span_id": None,
            "start_time_unix_nano": began,
            "end_time_unix_nano": began + record["duration_ms"] * 1_000_000,
            "status": {"code": "OK", "message": ""},
            "attributes": {
                name: dump_span_attribute_value(value) for name, value in attributes.items()
            },
        }
    )


def _info(experiment: str, made: RecordedTrace) -> TraceInfo:
    record, reply = made.record, made.record["reply"]
    messages = record["request"]["messages"]
    return TraceInfo(
        trace_id=f"tr-{made.identity}",
        client_request_id=reply["id"],
        trace_location=TraceLocation.from_experiment_id(experiment),
        request_time=record["time_ms"],
        execution_duration=record["duration_ms"],
        state=TraceState.OK,
        request_preview=messages[-1]["content"][:PREVIEW] if messages else "",
        response_preview=reply["content"][:PREVIEW],
        tags=made.tags,
    )
