"""Read the state of a live model: the processes that run, and whether it is as asked for."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.platform.live.servers import all_answer
from flows.platform.live.state import LiveOptions, LiveProcess, LiveState, ModelServer
from flows.platform.pages import free_port
from flows.platform.processes import group_of
from tasks.records.process_identity import ProcessIdentity

NOW = datetime.now(UTC)
HERE = ProcessIdentity.current()
EARLIER_BOOT = HERE.model_copy(update={"space": "an earlier boot"})
KILLED = HERE.model_copy(update={"started": "0"})
OPTIONS = LiveOptions(name="tiny", tracking_uri="http://127.0.0.1:5000", port=8000)
CANARY = OPTIONS.model_copy(update={"candidate": "2", "canary": 10, "asked": NOW})


def state(owner: ProcessIdentity) -> LiveState:
    about = {"owner": owner, "port": free_port(), "log": Path("log"), "started": NOW}
    server = ModelServer(version="1", digest="d", model="tiny-policy-1", key="k", **about)
    return LiveState(
        watcher=owner,
        since=NOW,
        router=LiveProcess(**about),
        servers={"1": server},
        shares={"1": 100},
        leaving={"1": NOW},
        ended=NOW,
    )


@pytest.mark.parametrize("owner", [EARLIER_BOOT, KILLED])
def test_nothing_runs_after_a_reboot_or_a_kill(owner):
    found = state(owner).running()
    assert (found.router, found.servers, found.shares, found.leaving) == (None, {}, {}, {})
    assert found.ended == NOW  # a canary that is over stays over
    assert not state(owner).runs


def test_what_runs_is_kept():
    found = state(HERE)
    assert found.running() == found and found.runs


def test_no_process_of_this_boot_is_ended_for_one_of_an_earlier_boot():
    assert group_of(EARLIER_BOOT) == []


def test_shares_without_a_router_that_answers_are_no_service():
    assert not all_answer(state(HERE))


def follows(options: LiveOptions, shares: dict[str, int], **changes: object) -> bool:
    seen = {"shares": shares, "options": options, "ended": None}
    return state(HERE).model_copy(update=seen | changes).follows(options)


def test_a_canary_is_followed_when_that_version_has_its_share():
    assert follows(CANARY, {"1": 90, "2": 10})
    assert not follows(CANARY, {"1": 90, "3": 10})
    assert not follows(CANARY, {"1": 100})


def test_a_canary_that_became_champion_is_waited_for_no_more():
    assert follows(CANARY, {"2": 100}, ended=NOW)


def test_the_end_of_a_canary_is_waited_for():
    assert follows(OPTIONS, {"1": 100})
    assert not follows(OPTIONS, {"1": 90, "2": 10})
    assert not follows(OPTIONS, {})


def test_options_that_the_watcher_has_not_seen_are_not_followed_yet():
    seen = state(HERE).model_copy(update={"options": CANARY, "ended": None})
    assert not seen.follows(OPTIONS)
