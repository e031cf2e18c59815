"""Decide, before `rlhf live` starts or changes anything."""

import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from flows.platform.live.control import _change
from flows.platform.live.state import LiveFolder, LiveOptions, LiveState
from flows.platform.live.wish import LiveWish, _asked, present_candidate, require_same
from rlhf_core.errors import BadInput, RLHFError
from tasks.records.process_identity import ProcessIdentity
from tasks.records.workspace import Workspace

NOW = datetime(2026, 11, 28, tzinfo=UTC)
OPTIONS = LiveOptions(name="tiny", tracking_uri="http://ann:secret@host:5000", port=8000)
CANARY = OPTIONS.model_copy(update={"candidate": "2", "canary": 10, "asked": NOW})


def state(ended: datetime | None) -> LiveState:
    return LiveState(watcher=ProcessIdentity.current(), since=NOW, ended=ended)


def test_a_canary_that_goes_on_is_the_same_one():
    assert _asked(CANARY, state(None), (10, "2")) == NOW


def test_a_canary_that_is_over_is_another_one_when_it_is_asked_for_again():
    assert _asked(CANARY, state(NOW), (10, "2")) > NOW
    assert _asked(CANARY, state(None), (20, "2")) > NOW
    assert _asked(None, None, (10, "2")) > NOW


def test_the_share_of_a_canary_changes_without_naming_its_candidate_again():
    assert present_candidate(CANARY, state(None)) == "2"
    assert present_candidate(CANARY, state(NOW)) == ""  # it is over
    assert present_candidate(OPTIONS, state(None)) == present_candidate(None, None) == ""


def test_the_options_that_were_given_have_the_names_of_the_command_line():
    assert LiveWish().given() == []
    assert LiveWish(port=1, canary=0, log_rate=0.0, keep_days=3).given() == [
        "--port", "--canary", "--log", "--keep-days",
    ]  # fmt: skip


def test_a_refusal_names_the_options_without_a_password():
    other = OPTIONS.model_copy(update={"tracking_uri": "http://ann:other@host:1", "log_rate": 0.5})
    with pytest.raises(BadInput, match=r"log_rate 0\.0, asked for 0\.5") as refused:
        require_same(OPTIONS, other)
    assert "ann:***@host:5000" in str(refused.value)
    assert "secret" not in str(refused.value) and "other@" not in str(refused.value)


def test_a_change_does_not_wait_for_a_watcher_that_has_died(tmp_path):
    place = LiveFolder(Workspace(tmp_path), "tiny")
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    watcher = ProcessIdentity.of(process.pid)
    process.kill()
    process.communicate()
    place.write(OPTIONS)
    place.write(LiveState(watcher=watcher, since=NOW))
    began = time.monotonic()
    with pytest.raises(RLHFError, match=r"the watcher of tiny has ended.*rlhf live tiny starts"):
        _change(place, OPTIONS, CANARY)
    assert time.monotonic() - began < 5 and place.options() == OPTIONS
