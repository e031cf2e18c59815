"""Choose the versions that have a server, and the share of requests of each."""

import pytest

from rlhf_core.live.routing import WantedVersions, shares, to_start, to_stop, wait_seconds

CANARY = WantedVersions("1", "2", 10)


@pytest.mark.parametrize(
    ("wanted", "ready", "present", "expected"),
    [
        (WantedVersions("1"), ["1"], {}, {"1": 100}),
        (WantedVersions("1"), [], {}, {}),  # nothing answers yet
        (CANARY, ["1"], {}, {"1": 100}),  # the candidate still loads
        (CANARY, ["1", "2"], {"1": 100}, {"1": 90, "2": 10}),
        (WantedVersions("2"), ["1"], {"1": 100}, {"1": 100}),  # the alias moved, 2 still loads
        (WantedVersions("2"), ["1", "2"], {"1": 100}, {"2": 100}),
        (WantedVersions("3"), ["2"], {"1": 90, "2": 10}, {"2": 100}),  # the old champion died
        (WantedVersions("3"), ["1", "2"], {"1": 90, "2": 10}, {"1": 90, "2": 10}),
        (CANARY, ["2"], {"1": 90, "2": 10}, {"2": 100}),  # the champion died
        (CANARY, ["1"], {"1": 90, "2": 10}, {"1": 100}),  # the candidate died
        (CANARY, [], {"1": 90, "2": 10}, {}),
    ],
)
def test_requests_go_to_servers_that_answer(wanted, ready, present, expected):
    found = shares(wanted, ready, present)
    assert found == expected and sum(found.values()) in (0, 100)
    assert list(found) == list(expected)  # the first one takes over what another does not answer


def test_a_wanted_version_without_a_server_is_started():
    assert to_start(CANARY, []) == ["1", "2"]
    assert to_start(CANARY, ["1"]) == ["2"]
    assert to_start(WantedVersions("1"), ["1", "2"]) == []


def test_a_server_is_ended_only_when_it_gets_no_requests():
    assert to_stop(WantedVersions("2"), ["1", "2"], {"1": 100}) == []
    assert to_stop(WantedVersions("2"), ["1", "2"], {"2": 100}) == ["1"]
    assert to_stop(CANARY, ["1", "2"], {"1": 100}) == []  # it loads


def test_a_server_that_dies_again_and_again_is_started_less_and_less_often():
    assert [wait_seconds(deaths) for deaths in (0, 1, 2, 3, 20)] == [0, 2, 4, 8, 300]
