"""A pipeline run waits for another promotion of its model; alone, it is refused at once."""

import threading
import time

import pytest
from promotion_checks import files, replaced

from rlhf_core.errors import PromotionRefused
from tasks.promotion.promotion import PromotionRequest
from tasks.promotion.turn import promote_in_turn

TWIN = PromotionRequest(version="2", reason="pipeline run twin")


def open_entry(registry, **seconds: float) -> threading.Timer:
    """Open an entry as another process does; a timer ends it."""
    entry = registry.ledger.append("promote", registry.model("policy"), "3", expects="1")

    def end() -> None:
        registry.ledger.close(entry, "refused", "for the test")
        registry.ledger.release(entry)

    timer = threading.Timer(seconds.get("ends_after", 2.0), end)
    timer.start()
    return timer


def test_a_run_waits_for_the_promotion_that_is_under_way(registry):
    timer = open_entry(registry)
    began = time.monotonic()
    result = promote_in_turn(registry, TWIN)
    timer.join()
    assert result.promoted and time.monotonic() - began >= 1.0
    assert registry.aliases()["policy@champion"] == "2"


def test_the_twin_of_a_run_that_has_promoted_is_promoted_already(registry):
    assert promote_in_turn(registry, TWIN).promoted
    again = promote_in_turn(registry, TWIN)
    assert again.promoted and "champion already" in again.reason


def test_two_runs_at_once_are_both_promoted(registry):
    results = []

    def run() -> None:
        results.append(promote_in_turn(registry, TWIN))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.promoted for result in results] == [True, True]


def test_a_promotion_that_stays_under_way_refuses_the_other_in_the_end(registry):
    timer = open_entry(registry, ends_after=8.0)
    with pytest.raises(PromotionRefused, match="one attempt at a time"):
        promote_in_turn(registry, TWIN, wait_seconds=1.0)
    timer.join()


def test_a_refusal_without_another_promotion_is_final_at_once(registry):
    entries = len(registry.ledger.entries())
    request = PromotionRequest(version="2", reason="late", expects="3")
    with pytest.raises(PromotionRefused, match="expected"):
        promote_in_turn(registry, request)
    assert len(registry.ledger.entries()) == entries + 1


def test_a_twin_that_renews_the_records_of_the_version_meanwhile_refuses_nobody(registry):
    """A registration writes the files first, and a moment later the tags."""
    gates = files(registry, "2") / "gates.json"
    before = gates.read_bytes()
    gates.write_bytes(before.replace(b"\n", b"\n\n"))
    timer = threading.Timer(2.0, gates.write_bytes, [before])
    timer.start()
    result = promote_in_turn(registry, TWIN)
    timer.join()
    assert result.promoted and registry.aliases()["policy@champion"] == "2"


def test_files_that_stay_other_than_their_tags_are_refused_in_the_end(registry):
    gates = files(registry, "2") / "gates.json"
    with (
        replaced(gates, b'{"decisions": []}'),
        pytest.raises(PromotionRefused, match="other gate records"),
    ):
        promote_in_turn(registry, TWIN, wait_seconds=2.0)
