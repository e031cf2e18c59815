"""`rlhf live`: what it says where it serves nothing."""

import json
from datetime import UTC, datetime

import pytest

from flows.platform.live.state import LiveFolder, LiveOptions, LiveState
from tasks.records.process_identity import ProcessIdentity
from tasks.records.workspace import Workspace


def test_nothing_is_live_in_a_new_workspace(rlhf):
    assert rlhf("live", "status") == (0, "nothing is live\n", "")
    assert rlhf("live", "stop") == (0, "nothing is live\n", "")
    assert json.loads(rlhf("live", "stop", "--json")[1]) == {"stopped": {}}


@pytest.mark.parametrize("action", ["status", "stop"])
def test_a_model_that_is_not_live_is_refused(rlhf, action):
    code, _, says = rlhf("live", action, "tiny")
    assert code == 2 and "tiny is not live in this workspace; found none" in says


def test_a_name_that_no_model_has_is_refused(rlhf):
    code, _, says = rlhf("live", "nosuch")
    assert code == 2 and "no registered model nosuch-policy" in says


def test_a_model_without_a_champion_is_refused(rlhf, registry):
    registry.client.delete_registered_model_alias("tiny-policy", "champion")
    code, _, says = rlhf("live", "tiny")
    assert code == 2 and "tiny-policy has no champion" in says and "rlhf promote tiny" in says
    assert rlhf("live", "status")[1] == "nothing is live\n"


def test_the_gateway_needs_a_server(rlhf, registry):
    code, _, says = rlhf("live", "tiny", "--gateway")
    assert code == 2 and "part of its server" in says and "rlhf up" in says


def test_requests_that_nobody_keeps_cannot_be_shadowed(rlhf, registry):
    code, _, says = rlhf("live", "tiny", "--shadow", "0.2")
    assert code == 2 and "--shadow is 0.2, and no reply is kept" in says and "--log SHARE" in says
    assert rlhf("live", "status")[1] == "nothing is live\n"


def test_the_champion_is_no_canary(rlhf, registry):
    code, _, says = rlhf("live", "tiny", "--canary", "10", "--candidate", "1")
    assert code == 2 and "version 1 of tiny-policy is the champion" in says


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["tiny", "--candidate", "2"], "--candidate is 2, and it would get no requests"),
        (["tiny", "--thumb", " "], "--thumb is empty; expected the name"),
        (["tiny", "--port", "70000"], "port 70000 does not exist; expected one from 1 to 65535"),
        (["tiny", "--port", "0"], "port 0 does not exist"),
        (["tiny", "--vllm", '"'], "--vllm is '\"': No closing quotation; expected arguments"),
        (["tiny", "status"], "rlhf live tiny status has two names; expected rlhf live NAME, or"),
        (["status", "--canary", "3"], "rlhf live status was given --canary; expected none"),
        (["gate", "tiny", "--thumb", "liked", "--log", "1"], "was given --log, --thumb; expected"),
        (["stop", "--port", "8000"], "rlhf live stop was given --port"),
    ],
)
def test_what_would_not_be_heeded_is_refused(rlhf, registry, words, found):
    code, out, says = rlhf("live", *words)
    assert (code, out) == (2, "") and found in says
    assert rlhf("live", "status")[1] == "nothing is live\n"


def test_the_same_call_waits_for_what_an_earlier_one_was_killed_waiting_for(rlhf, registry, home):
    place = LiveFolder(Workspace(home), "tiny")
    options = LiveOptions(name="tiny", tracking_uri=place.workspace.tracking_uri, port=1)
    place.write(options)
    watcher = ProcessIdentity.current()  # it runs, and no server answers
    state = LiveState(
        watcher=watcher, since=datetime.now(UTC), problem="no memory", options=options
    )
    place.write(state)
    code, out, says = rlhf("live", "tiny")
    assert (code, out) == (1, "") and "tiny does not run as asked for: no memory" in says
    place.forget()


def test_a_start_at_the_same_time_is_refused(rlhf, registry, home):
    with LiveFolder(Workspace(home), "tiny").locked("lock", "starts or stops"):
        code, _, says = rlhf("live", "tiny")
    assert code == 2 and "another process starts or stops tiny" in says


def test_a_start_that_was_interrupted_is_shown_and_can_be_stopped(rlhf, home):
    place = LiveFolder(Workspace(home), "tiny")
    place.write(LiveOptions(name="tiny", tracking_uri=place.workspace.tracking_uri, port=1))
    assert "was not started to its end" in rlhf("live", "status")[1]
    assert rlhf("live", "stop")[1] == "stopped: tiny, version none ran\n"
    assert rlhf("live", "status")[1] == "nothing is live\n"


def test_the_gate_needs_a_live_model_with_a_canary(rlhf, registry, home):
    assert "rlhf live gate NAME" in rlhf("live", "gate")[2]
    code, _, says = rlhf("live", "gate", "tiny")
    assert code == 2 and "tiny is not live in this workspace" in says
    place = LiveFolder(Workspace(home), "tiny")
    options = LiveOptions(name="tiny", tracking_uri=place.workspace.tracking_uri, port=1)
    place.write(options)
    code, _, says = rlhf("live", "gate", "tiny")
    assert code == 2 and "tiny has no canary" in says and "--canary 10" in says
    place.write(options.model_copy(update={"candidate": "2", "canary": 20}))
    code, _, says = rlhf("live", "gate", "tiny")
    assert code == 2 and "no reply of version 2 is kept" in says and "--log 1 --canary 20" in says
    code, _, says = rlhf("live", "tiny", "--apply")
    assert code == 2 and "--apply is for rlhf live gate NAME" in says


def test_the_gate_says_that_there_are_too_few_replies(rlhf, registry, home):
    place = LiveFolder(Workspace(home), "tiny")
    options = {"candidate": "2", "canary": 20, "log_rate": 1.0}
    uri = place.workspace.tracking_uri
    place.write(LiveOptions(name="tiny", tracking_uri=uri, port=1, **options))
    code, out, _ = rlhf("live", "gate", "tiny", "--apply")
    assert code == 0 and out.startswith("continue: too few replies to look at: version 2 has 0")
    found = json.loads(rlhf("live", "gate", "tiny", "--json")[1])
    assert (found["decision"], found["candidate"], found["done"]) == ("continue", "2", "")
