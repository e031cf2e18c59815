"""The watcher of a live model: a real registry and router, OpenAI servers without a model."""

import json
import os
import signal
import stat
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from flows.platform.live.gating import judge_canary
from flows.platform.live.servers import all_answer, requests
from flows.platform.live.state import MARKER, LiveFolder, LiveOptions, LiveState
from flows.platform.live.watch import LiveWatch
from flows.platform.pages import answers, free_port
from flows.platform.processes import end_all, group_of, marked
from rlhf_core.errors import BadInput
from tasks.live.replies import live_replies
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect

pytestmark = pytest.mark.slow
STUB = Path(__file__).resolve().parents[4] / "support" / "servers" / "openai_stub.py"


def stub(folder: Path, model: str, port: int, further: tuple[str, ...]) -> list[str]:
    return [sys.executable, str(STUB), str(port), model, *further]


def after_a_reboot(state: LiveState) -> LiveState:
    """Return the state as if its processes had run before this machine's last boot."""

    def moved(process):
        owner = process.owner.model_copy(update={"space": "an earlier boot"})
        return process.model_copy(update={"owner": owner})

    servers = {version: moved(server) for version, server in state.servers.items()}
    return state.model_copy(update={"router": moved(state.router), "servers": servers})


class Live:
    """A live model whose watcher takes its steps in this process."""

    def __init__(self, workspace: Workspace):
        self.client, self.port = connect(workspace.tracking_uri), free_port()
        self.place = LiveFolder(workspace, "tiny")
        self.options = LiveOptions(name="tiny", tracking_uri=workspace.tracking_uri, port=self.port)
        self.place.write(self.options)
        self.watch = self.new_watch()

    def new_watch(self) -> LiveWatch:
        return LiveWatch(self.place, self.options, command=stub)

    def until(self, condition, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition(self.watch.state):
            self.watch.step()
            assert time.monotonic() < end, self.watch.state
            time.sleep(0.05)

    def ask(self, **more: object) -> httpx.Response:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]} | more
        url = f"{self.options.address}/chat/completions"
        return httpx.post(url, json=body, timeout=60)

    def models(self, count: int) -> list[str]:
        return [self.ask().raise_for_status().json()["model"] for _ in range(count)]

    def make_champion(self, version: str) -> None:
        self.client.set_registered_model_alias("tiny-policy", "champion", version)


@pytest.fixture
def live(registrar, home):
    found = Live(Workspace(home))
    yield found
    end_all(marked(MARKER, str(found.place.path)))


@pytest.fixture
def served(live):
    """The champion, version 1, answers."""
    live.until(lambda state: state.shares == {"1": 100})
    end = time.monotonic() + 30
    while not answers(f"{live.watch.state.router.root}/health"):
        assert time.monotonic() < end
        time.sleep(0.05)
    return live


def test_the_champion_answers_under_one_name(served):
    assert served.ask().json()["choices"][0]["message"]["content"] == "you said hello"
    assert served.models(2) == ["tiny-policy-1"] * 2
    assert "data: [DONE]" in served.ask(stream=True).text
    server = served.watch.state.servers["1"]
    refused = httpx.post(f"{server.root}/v1/chat/completions", json={"model": server.model})
    assert refused.status_code == 401  # nobody of this machine passes the router by
    assert stat.S_IMODE(served.place.path.stat().st_mode) == 0o700  # the keys are in it


def test_an_alias_that_moves_is_followed_without_a_dropped_request(served):
    first = served.watch.state.servers["1"]
    answered: list[tuple[int, str]] = []
    moved = threading.Event()

    def client() -> None:
        while not moved.is_set():
            reply = served.ask()
            answered.append((reply.status_code, reply.json().get("model", reply.text)))

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        served.make_champion("2")
        served.until(lambda state: list(state.servers) == ["2"])
        time.sleep(0.5)
    finally:
        moved.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in answered} == {200}
    assert {model for _, model in answered} == {"tiny-policy-1", "tiny-policy-2"}
    assert first.owner.is_running() is False


def test_a_slow_reply_is_given_by_the_old_server(served):
    served.place.write(served.options.model_copy(update={"vllm": ("--seconds", "3")}))
    served.make_champion("2")
    served.until(lambda state: state.shares == {"2": 100})
    replies = []
    slow = threading.Thread(target=lambda: replies.append(served.ask()))
    slow.start()
    time.sleep(0.5)
    served.make_champion("1")
    served.until(lambda state: state.shares == {"1": 100})
    assert "2" in served.watch.state.servers and not replies
    slow.join()
    assert replies[0].json()["model"] == "tiny-policy-2"
    served.until(lambda state: list(state.servers) == ["1"])


def test_a_candidate_gets_its_share(served):
    canary = {"candidate": "2", "canary": 20, "asked": datetime.now(UTC)}
    served.place.write(served.options.model_copy(update=canary))
    served.until(lambda state: state.shares == {"1": 80, "2": 20})
    count = served.models(200).count("tiny-policy-2")
    assert 20 <= count <= 62  # binomial, 4 standard deviations
    served.place.write(served.options)
    served.until(lambda state: list(state.servers) == ["1"])
    assert served.models(5) == ["tiny-policy-1"] * 5


def test_a_candidate_that_dies_drops_no_request_and_takes_none_until_it_answers(served):
    canary = {"candidate": "2", "canary": 50, "asked": datetime.now(UTC)}
    served.place.write(served.options.model_copy(update=canary))
    served.until(lambda state: state.shares == {"1": 50, "2": 50})
    os.killpg(served.watch.state.servers["2"].owner.pid, signal.SIGKILL)
    assert served.models(10) == ["tiny-policy-1"] * 10  # the watcher has not looked yet
    served.until(lambda state: state.shares == {"1": 100})
    assert "version 2 of tiny has ended" in served.watch.state.problem
    assert not served.watch.state.leaving  # it comes back
    served.until(lambda state: state.shares == {"1": 50, "2": 50} and not state.problem)


def test_a_candidate_that_became_champion_and_was_rolled_back_is_no_canary_again(served):
    canary = {"candidate": "2", "canary": 10, "asked": datetime.now(UTC)}
    served.place.write(served.options.model_copy(update=canary))
    served.until(lambda state: state.shares == {"1": 90, "2": 10})
    served.make_champion("2")
    served.until(lambda state: list(state.servers) == ["2"])
    served.make_champion("1")
    served.until(lambda state: list(state.servers) == ["1"])
    assert served.watch.state.shares == {"1": 100}


def test_a_candidate_whose_replies_are_worse_is_sent_back_by_the_gate(served, registry):
    canary = {"candidate": "2", "canary": 20, "asked": datetime.now(UTC), "log_rate": 1.0}
    served.place.write(served.options.model_copy(update=canary))
    served.until(lambda state: state.shares == {"1": 80, "2": 20})
    for number in range(104):  # as the router logs them; those of version 2 are empty
        write_logged(served.place.replies / f"{number}.json", number, 1 + number % 2)
    served.until(lambda state: not list(served.place.replies.glob("*.json")))
    looked = judge_canary(registry, served.place, apply=False, tell=print)
    assert looked.verdict.decision == "back" and not looked.done
    assert served.watch.state.shares == {"1": 80, "2": 20}
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            served.watch.step()
            time.sleep(0.05)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        found = judge_canary(registry, served.place, apply=True, tell=print)
    finally:
        over.set()
        watching.join()
    assert found.verdict == looked.verdict and "The canary is over" in found.done
    served.until(lambda state: list(state.servers) == ["1"])
    assert served.models(5) == ["tiny-policy-1"] * 5
    entry = registry.ledger.entries()[-1]
    assert (entry.version, entry.outcome, entry.live) == ("2", "refused", found.verdict)
    with pytest.raises(BadInput, match="tiny has no canary"):
        judge_canary(registry, served.place, apply=False, tell=print)


def write_logged(file: Path, number: int, version: int) -> None:
    record = {
        "time_ms": int(1000 * time.time()) + number,
        "duration_ms": 7,
        "request": {"messages": [{"role": "user", "content": f"question {number}"}]},
        "reply": {
            "id": f"chatcmpl-{number}",
            "model": f"tiny-policy-{version}",
            "content": f"answer {number}" if version == 1 else "",
            "finish_reason": "stop",
            "usage": {"total_tokens": 9},
        },
    }
    file.write_text(json.dumps(record), encoding="utf-8")


def test_a_server_that_is_killed_is_started_again(served):
    first = served.watch.state.servers["1"]
    os.killpg(first.owner.pid, signal.SIGKILL)
    served.until(lambda state: bool(state.problem))
    assert "the server of version 1 of tiny has ended" in served.watch.state.problem
    assert served.ask().status_code == 503
    served.until(lambda state: not state.problem and "1" in state.servers)
    assert served.models(1) == ["tiny-policy-1"]


def test_a_router_that_is_killed_is_started_again_at_the_same_address(served):
    os.killpg(served.watch.state.router.owner.pid, signal.SIGKILL)
    served.watch.step()
    end = time.monotonic() + 30
    while not answers(f"{served.watch.state.router.root}/health"):
        served.watch.step()
        assert time.monotonic() < end
    assert served.models(1) == ["tiny-policy-1"]


def test_a_new_watcher_takes_the_servers_of_a_killed_one_over(served):
    before = served.watch.state.servers
    served.watch = served.new_watch()
    served.make_champion("2")
    served.watch.step()
    assert served.watch.state.servers["1"] == before["1"]
    assert served.models(1) == ["tiny-policy-1"]  # until version 2 answers
    served.until(lambda state: list(state.servers) == ["2"])
    assert served.models(1) == ["tiny-policy-2"]


def test_after_a_reboot_everything_is_started_anew(served):
    first = served.watch.state
    end_all([each for process in first.processes for each in group_of(process.owner)])
    served.place.write(after_a_reboot(first))
    served.watch = served.new_watch()
    assert served.watch.state.shares == {} and served.place.routes.read() == []
    served.until(lambda state: state.shares == {"1": 100} and all_answer(state))
    assert served.models(1) == ["tiny-policy-1"]
    assert served.watch.state.router.port == first.router.port


def test_a_candidate_that_cannot_be_fetched_does_not_hold_up_the_champion(served):
    canary = {"candidate": "99", "canary": 10, "asked": datetime.now(UTC)}
    served.place.write(served.options.model_copy(update=canary))
    served.make_champion("2")
    served.until(lambda state: list(state.servers) == ["2"])
    assert served.models(1) == ["tiny-policy-2"]
    assert "version 99 is not served" in served.watch.state.problem


def test_what_is_served_goes_on_where_the_alias_is_deleted(served):
    served.client.delete_registered_model_alias("tiny-policy", "champion")
    served.watch.step()
    assert "no champion" in served.watch.state.problem
    assert served.models(1) == ["tiny-policy-1"]


def test_replies_are_logged_only_where_that_was_asked_for(served):
    served.models(3)
    served.watch.step()
    assert list(live_replies(served.client, "tiny")) == []
    end_all(group_of(served.watch.state.router.owner))
    log = {"log_rate": 1.0, "redact": "builtins:repr"}
    served.place.write(served.options.model_copy(update=log))
    served.watch.step()
    end = time.monotonic() + 30
    while not answers(f"{served.watch.state.router.root}/health"):
        assert time.monotonic() < end
        time.sleep(0.05)
    served.models(2)
    served.ask(stream=True)
    served.until(lambda state: len(list(live_replies(served.client, "tiny"))) == 3)
    found = list(live_replies(served.client, "tiny"))
    assert {reply.version for reply in found} == {"1"}
    assert {reply.messages[0]["content"] for reply in found} == {"'hello'"}
    assert {reply.reply.strip("' ") for reply in found} == {"you said hello"}


def test_a_client_that_goes_away_ends_its_request(served):
    served.place.write(served.options.model_copy(update={"vllm": ("--seconds", "60")}))
    served.make_champion("2")
    served.until(lambda state: state.shares == {"2": 100})
    with pytest.raises(httpx.ReadTimeout):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
        httpx.post(f"{served.options.address}/chat/completions", json=body, timeout=1)
    time.sleep(0.5)
    server = served.watch.state.servers["2"]
    assert requests(served.watch.state.router)["under_way"][server.model] == 0
    assert httpx.get(f"{server.root}/load").json() == {"server_load": 0}
