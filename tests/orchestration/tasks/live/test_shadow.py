"""Shadowed requests: drawn once from a server, kept apart from live replies."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.platform.pages import answers, free_port
from rlhf_core.live.routes import Route
from tasks.live.replies import delete_older, live_replies, store_logged
from tasks.live.scores import paired_scores
from tasks.live.shadow import Shadowing, shadow_replies

STUB = Path(__file__).resolve().parents[3] / "support" / "servers" / "openai_stub.py"
ANN = "My name is Ann"


@pytest.fixture
def kept(registry, home):
    """Four kept replies of version 1, of which one request is no conversation."""
    folder = home / "replies"
    folder.mkdir()
    for number in range(4):
        role = "system" if number == 3 else "user"
        reply = {"id": f"chatcmpl-{number}", "model": "tiny-policy-1", "content": f"So {number}."}
        record = {
            "time_ms": int(1000 * time.time()) - 5000 + number,
            "duration_ms": 7,
            "request": {"messages": [{"role": role, "content": f"{ANN} {number}"}], "seed": 3},
            "reply": reply | {"finish_reason": "stop", "usage": None},
        }
        (folder / f"{number}.json").write_text(json.dumps(record))
    store_logged(registry.client, registry.workspace, "tiny", folder)
    return list(live_replies(registry.client, "tiny", oldest_first=True))


@pytest.fixture(scope="module")
def route():
    """The server of version 2, which repeats what was said."""
    port = free_port()
    command = [sys.executable, str(STUB), str(port), "tiny-policy-2", "--key", "k"]
    process = subprocess.Popen(command)
    end = time.monotonic() + 30
    while not answers(f"http://127.0.0.1:{port}/health"):
        assert time.monotonic() < end
        time.sleep(0.05)
    address = f"http://127.0.0.1:{port}/v1"
    yield Route(version="2", model="tiny-policy-2", address=address, key="k", share=10)
    process.kill()
    process.wait()


def hidden(text: str) -> str:
    return text.replace("Ann", "NAME")


def shadowing(route: Route | None, told: list[str], **more) -> Shadowing:
    routes = {route.version: route} if route else {}
    return Shadowing(share=1.0, routes=routes, redact=hidden, tell=told.append, **more)


def test_a_request_is_answered_once_and_no_live_reply_comes_of_it(registry, kept, route):
    told: list[str] = []
    found = shadow_replies(registry, "2", kept[:2], shadowing(route, told))
    assert found == {kept[n].trace_id: f"you said My name is NAME {n}" for n in (0, 1)}
    assert told == ["version 2 answers 2 kept requests of the champion ..."]
    assert shadow_replies(registry, "2", kept[:2], shadowing(None, told)) == found
    assert len(told) == 1  # they are kept
    assert [reply.version for reply in live_replies(registry.client, "tiny", most=4)] == ["1"] * 4
    assert list(live_replies(registry.client, "tiny", version="2")) == []
    assert delete_older(registry.client, "tiny", 0) == 6  # with the requests that they shadow
    assert shadow_replies(registry, "2", kept[:2], shadowing(None, told)) == {}


def test_a_server_that_is_away_gives_no_reply(registry, kept, route):
    gone = route.model_copy(update={"address": f"http://127.0.0.1:{free_port()}/v1"})
    assert shadow_replies(registry, "2", kept, shadowing(gone, [])) == {}
    wrong = route.model_copy(update={"key": "another"})
    assert shadow_replies(registry, "2", kept, shadowing(wrong, [])) == {}


def test_without_a_reward_model_the_scores_say_so_and_nobody_is_asked(registry, kept, route):
    registry.client.delete_registered_model_alias("tiny-reward", "champion")
    told: list[str] = []
    found = paired_scores(registry, ("1", "2"), kept, shadowing(route, told))
    assert "no reward model is registered with the champion (tiny-reward@champion)" in found.note
    assert not told and not found.champion


def test_without_replies_of_both_versions_there_are_no_scores(registry, kept):
    found = paired_scores(registry, ("1", "2"), kept, shadowing(None, []))
    assert (list(found.champion), found.note) == ([], "3 shadowed requests have no reply")
