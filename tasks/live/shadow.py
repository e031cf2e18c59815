"""Shadowed requests: a version answers kept prompts of the champion, which no client sees.

A shadow reply is a trace in the experiment of the live replies, with the time of the request that
it shadows, so that it is deleted with it. Its tags are its own: it never counts as a live reply.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
from mlflow.tracing.client import TracingClient
from mlflow.tracing.constant import TraceTagKey

from rlhf_core.live.chat_bodies import Redact, read_reply
from rlhf_core.live.routes import Route
from tasks.live.replies import AT_ONCE, LiveReply, experiment_name
from tasks.live.traces import RecordedTrace, identity_of, write_traces
from tasks.promotion.aliases import RegistryAliases
from tasks.tracking.client import find_or_create_experiment

SHADOWED, SHADOW_VERSION = "rlhf.live.shadow_of", "rlhf.live.shadow_version"  # tags of a trace
PARALLEL = 8  # requests of ours at a time, beside those of clients
REPLY_SECONDS = 600.0


@dataclass(frozen=True)
class Shadowing:
    """The settings of shadowing.

    share: of the champion's kept requests. routes: the servers by version. redact: the hook of the
    reply log. With one, kept prompts are not those that the champion answered, so that it answers
    them again too. tell: prints a line.
    """

    share: float
    routes: dict[str, Route]
    redact: Redact | None
    tell: Callable[[str], None]


def shadow_replies(
    registry: RegistryAliases, version: str, asked: Sequence[LiveReply], how: Shadowing
) -> dict[str, str]:
    """Return a version's replies to the requests of live replies, by the trace of each.

    Those that are kept are read; the others are drawn with the request's own settings, and kept.
    One that its server refuses or cannot give is left out, and tried again another time.
    """
    found = _kept(registry, version)
    missing = [reply for reply in asked if reply.trace_id not in found]
    route = how.routes.get(version)
    if missing and route:
        how.tell(f"version {version} answers {len(missing)} kept requests of the champion ...")
        found |= _drawn(registry, route, missing, how.redact)
    wanted = {reply.trace_id for reply in asked}
    return {trace: text for trace, text in found.items() if trace in wanted}


def _kept(registry: RegistryAliases, version: str) -> dict[str, str]:
    experiment = registry.client.get_experiment_by_name(experiment_name(registry.name))
    found: dict[str, str] = {}
    if experiment is None:
        return found
    tracing, token = TracingClient(registry.client.tracking_uri), None
    while True:
        page = tracing.search_traces(
            locations=[experiment.experiment_id],
            filter_string=f"tags.`{SHADOW_VERSION}` = '{version}'",
            max_results=100,
            page_token=token,
        )
        for trace in page:
            if trace.data.spans:
                choice = trace.data.spans[0].outputs["choices"][0]
                found[trace.info.tags[SHADOWED]] = choice["message"]["content"]
        token = page.token
        if not token:
            return found


def _drawn(
    registry: RegistryAliases, route: Route, asked: Sequence[LiveReply], redact: Redact | None
) -> dict[str, str]:
    """Return the replies that a server gives, and keep them a few at a time.

    It ends where a whole batch has no reply: the server is away.
    """
    tracing, found = TracingClient(registry.client.tracking_uri), dict[str, str]()
    experiment = find_or_create_experiment(
        registry.client, registry.workspace, experiment_name(registry.name)
    )
    with (
        httpx.Client(trust_env=False, timeout=httpx.Timeout(REPLY_SECONDS, connect=5.0)) as client,
        ThreadPoolExecutor(PARALLEL) as pool,
    ):
        for start in range(0, len(asked), AT_ONCE):
            batch = asked[start : start + AT_ONCE]
            drawn = pool.map(lambda reply: _draw(client, route, reply, redact), batch)
            traces = [trace for trace in drawn if trace]
            if not traces:
                break
            write_traces(tracing, experiment, traces)
            found |= {one.tags[SHADOWED]: one.record["reply"]["content"] for one in traces}
    return found


def _draw(
    client: httpx.Client, route: Route, asked: LiveReply, redact: Redact | None
) -> RecordedTrace | None:
    """Return the trace of one reply, None where the server gives none."""
    body = {"model": route.model, "messages": asked.messages} | asked.settings
    began = time.monotonic()
    try:
        headers = {"authorization": f"Bearer {route.key}"}
        given = client.post(f"{route.address}/chat/completions", json=body, headers=headers)
        reply = read_reply(given.raise_for_status().content, redact)
    except Exception:  # also the hook's: what it raises at is not kept
        return None
    record: dict[str, Any] = {
        "time_ms": asked.time_ms,
        "duration_ms": int(1000 * (time.monotonic() - began)),
        "request": {"messages": asked.messages} | asked.settings,
        "reply": reply,
    }
    tags = {
        TraceTagKey.TRACE_NAME: f"shadow of {asked.trace_id}",
        SHADOWED: asked.trace_id,
        SHADOW_VERSION: route.version,
    }
    return RecordedTrace(identity_of(f"shadow {route.version} {asked.trace_id}"), record, tags)
