"""The live replies as traces in MLflow: stored from the servers' logs, read, and deleted by age.

A trace has the request's messages and the reply as the gateway's own traces have them. Its tags say
which version replied, its client request id is the id that the client got with the reply.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Trace
from mlflow.exceptions import MlflowException
from mlflow.tracing.client import TracingClient
from mlflow.tracing.constant import TraceTagKey

from tasks.live.people import PersonsFeedback, peoples_feedback
from tasks.live.traces import RecordedTrace, identity_of, write_traces
from tasks.records.workspace import Workspace
from tasks.tracking.client import brief, find_or_create_experiment

MODEL, VERSION = "rlhf.live.model", "rlhf.live.model_version"  # tags of a trace
FINISH = "rlhf.live.finish_reason"
AT_ONCE = 50  # traces in one request
DAY_MS = 86_400_000
LOGGED = "[!.]*.json"  # a file that begins with a dot is being written
REFUSED = "refused"  # folder of the logged replies that MLflow does not take
NO_ACCESS = (401, 403)
ROLES = ("system", "user", "assistant")  # of messages that are text
log = logging.getLogger("rlhf.live")


@dataclass(frozen=True)
class LiveReply:
    """A reply of a live model, as its trace has it.

    reply_id: as the client got it. feedback: what people said of it.
    """

    trace_id: str
    reply_id: str
    model: str
    version: str
    messages: list[dict[str, str]]
    settings: dict[str, Any]
    reply: str
    finish_reason: str
    time_ms: int
    feedback: tuple[PersonsFeedback, ...] = ()

    @property
    def is_conversation(self) -> bool:
        """True if the request is messages of text, the last one of the user."""
        is_asked = bool(self.messages) and self.messages[-1]["role"] == "user"
        return is_asked and all(
            one["role"] in ROLES and one["content"].strip() for one in self.messages
        )

    @property
    def unusable(self) -> str:
        """Why it is no data to train on or to label, '' for a reply that is."""
        if not self.reply.strip():
            return "the reply is empty"
        return "" if self.is_conversation else "the request is no conversation of text"


def experiment_name(name: str) -> str:
    """Return the experiment of the live replies of a registry name."""
    return f"{name}-live"


def store_logged(client: MlflowClient, workspace: Workspace, name: str, folder: Path) -> int:
    """Store the logged replies in `folder` as traces, remove their files, and return their number.

    A file that is stored again after an outage replaces its trace. One that MLflow refuses is moved
    to the folder `refused` in it. Raises what MLflow raises where it takes none.
    """
    files = sorted(folder.glob(LOGGED))[:AT_ONCE]
    if not files:
        return 0
    experiment = find_or_create_experiment(client, workspace, experiment_name(name))
    tracing = TracingClient(client.tracking_uri)
    try:
        _store(tracing, experiment, files)
    except Exception:  # one of them may be the cause
        return _store_singly(client, experiment, files)
    return len(files)


def _store(tracing: TracingClient, experiment: str, files: list[Path]) -> None:
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    traces = [
        RecordedTrace(identity_of(file.name), record, _tags(record["reply"]))
        for file, record in zip(files, records, strict=True)
    ]
    write_traces(tracing, experiment, traces)
    for file in files:
        file.unlink()


def _store_singly(client: MlflowClient, experiment: str, files: list[Path]) -> int:
    """Store each file by itself, move those that are refused, and return how many are stored."""
    tracing, reasons = TracingClient(client.tracking_uri), []
    for file in files:
        try:
            _store(tracing, experiment, [file])
        except Exception as error:
            if isinstance(error, MlflowException) and error.get_http_status_code() in NO_ACCESS:
                raise
            client.get_experiment(experiment)  # raises where MLflow is away: that refuses nothing
            refused = file.parent / REFUSED
            refused.mkdir(mode=0o700, exist_ok=True)
            file.rename(refused / file.name)
            reasons.append(brief(error))
    if reasons:
        log.warning(
            "%d logged replies are in %s, because MLflow refused them: %s",
            len(reasons),
            files[0].parent / REFUSED,
            reasons[0],
        )
    return len(files) - len(reasons)


def delete_refused(folder: Path, days: int) -> None:
    """Delete the refused replies in `folder` that are older than `days`."""
    for file in (folder / REFUSED).glob("*.json"):
        if file.stat().st_mtime < time.time() - days * DAY_MS / 1000:
            file.unlink()


def store_rest(
    client: MlflowClient, workspace: Workspace, name: str, folder: Path, days: int | None
) -> None:
    """Store every logged reply that is left, and delete what is older than `days`, None: nothing.

    Raises what MLflow raises.
    """
    while any(folder.glob(LOGGED)):
        store_logged(client, workspace, name, folder)
    if days is not None:
        delete_refused(folder, days)
        delete_older(client, name, days)


def delete_older(client: MlflowClient, name: str, days: int) -> int:
    """Delete the traces of live replies that are older than `days`, and return their number."""
    found = client.get_experiment_by_name(experiment_name(name))
    if found is None:
        return 0
    before = int(1000 * time.time()) - days * DAY_MS
    return TracingClient(client.tracking_uri).delete_traces(
        found.experiment_id, max_timestamp_millis=before
    )


def live_replies(
    client: MlflowClient,
    name: str,
    *,
    most: int = 1000,
    since_ms: int = 0,
    version: str = "",
    oldest_first: bool = False,
) -> Iterator[LiveReply]:
    """Yield the live replies of a registry name, the newest first.

    most: their largest number. since_ms: leave out older ones, milliseconds since the epoch.
    version: only those of this version.
    """
    experiment = client.get_experiment_by_name(experiment_name(name))
    if experiment is None:
        return
    of_version = f" AND tags.`{VERSION}` = '{version}'" if version else ""
    tracing, token, left = TracingClient(client.tracking_uri), None, most
    while left > 0:
        found = tracing.search_traces(
            locations=[experiment.experiment_id],
            filter_string=f"timestamp_ms >= {since_ms}{of_version}",
            max_results=min(left, 100),
            order_by=[f"timestamp_ms {'ASC' if oldest_first else 'DESC'}"],
            page_token=token,
        )
        replies = [reply for trace in found if (reply := _reply(trace))]
        yield from replies
        left, token = left - len(replies), found.token
        if not token:
            return


def trace_of(client: MlflowClient, name: str, reply_id: str) -> str | None:
    """Return the id of the trace of a reply by the id that the client got with it."""
    experiment = client.get_experiment_by_name(experiment_name(name))
    if experiment is None:
        return None
    found = TracingClient(client.tracking_uri).search_traces(
        locations=[experiment.experiment_id],
        filter_string=f"client_request_id = '{reply_id}'",
        max_results=1,
        include_spans=False,
    )
    return found[0].info.trace_id if found else None


def _reply(trace: Trace) -> LiveReply | None:
    """Return the reply of a trace, None for a trace that somebody else has made."""
    tags = trace.info.tags
    if VERSION not in tags or not trace.data.spans:
        return None
    (asked, given) = trace.data.spans[0].inputs, trace.data.spans[0].outputs
    return LiveReply(
        trace_id=trace.info.trace_id,
        reply_id=trace.info.client_request_id or "",
        model=tags[MODEL],
        version=tags[VERSION],
        messages=asked["messages"],
        settings={key: value for key, value in asked.items() if key != "messages"},
        reply=given["choices"][0]["message"]["content"],
        finish_reason=tags.get(FINISH, ""),
        time_ms=trace.info.request_time,
        feedback=peoples_feedback(trace),
    )


def _tags(reply: dict[str, Any]) -> dict[str, str]:
    served = reply["model"]  # as versions.served_name has made it
    return {
        TraceTagKey.TRACE_NAME: served,
        MODEL: served,
        VERSION: served.rpartition("-")[2],
        FINISH: reply["finish_reason"] or "",
    }
