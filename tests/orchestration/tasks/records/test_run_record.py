"""Runs are ordered by their start, on every clock."""

import time

import pytest
from recipes import tiny_recipe

from tasks.records.approval_record import VersionApproval
from tasks.records.run_record import Record, Registration, find_records
from tasks.records.workspace import Workspace


@pytest.fixture
def at_zone(monkeypatch):
    """Set the time zone of this process, and give it back at the end."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


def test_latest_is_the_newest_run_where_the_zone_of_the_clock_changed(home, at_zone):
    workspace = Workspace.here()
    for zone in ("Asia/Tokyo", "America/Los_Angeles"):
        at_zone(zone)
        record = Record.new(workspace, tiny_recipe())
        record.started += 1000 * (zone == "America/Los_Angeles")
        record.save(workspace)
    assert find_records(workspace, "latest")[0].id == record.id


def test_latest_is_the_newest_run_among_ids_of_local_times(home):
    workspace = Workspace.here()
    for id_, started in (("20261128-063619-f15f6a", 1000), ("20261127-133651-7fad60", 2000)):
        record = Record.new(workspace, tiny_recipe())
        record.id, record.started = id_, started
        record.save(workspace)
    assert find_records(workspace, "latest")[0].started == 2000
    assert find_records(workspace, "latest~1")[0].started == 1000


def test_an_id_begins_with_the_time_in_utc(home, at_zone):
    at_zone("Asia/Tokyo")
    record = Record.new(Workspace.here(), tiny_recipe())
    assert record.id[:13] == time.strftime("%Y%m%d-%H%M", time.gmtime(record.started / 1000))


def test_a_registration_that_an_earlier_release_left_keeps_its_approval():
    values = {"model": "tiny-policy", "stage": "ppo", "tags": {}}
    values |= {"artifact": {"path": "/a", "digest": "d"}, "sign_off": {"required": True}}
    kept = Registration.model_validate(values)
    assert kept.approval == VersionApproval(required=True)
    assert Registration.model_validate_json(kept.model_dump_json()) == kept
