"""The chain of the ledger: what is altered or deleted afterwards is found and placed."""

import contextlib

import pytest

from rlhf_core.errors import PromotionRefused
from tasks.promotion.ledger_chain import chain_problem, covered
from tasks.promotion.promotion import PromotionRequest, history, promote, rollback


@pytest.fixture
def attempts(registry):
    """Return the registry after a promotion, a refusal and a rollback: entries 1 to 4."""
    promote(registry, PromotionRequest(version="2"))
    with contextlib.suppress(PromotionRefused):
        promote(registry, PromotionRequest(version="5"))
    rollback(registry, PromotionRequest(reason="complaints"))
    return registry


def test_each_attempt_vouches_for_those_before_it(attempts):
    entries = attempts.ledger.entries()
    assert [bool(entry.chain) for entry in entries] == [True] * 4
    assert len({entry.chain for entry in entries}) == 4
    assert chain_problem(entries) == "" and covered(entries) == 3
    assert not history(attempts).problems


def test_an_entry_that_was_altered_or_deleted_is_found_and_placed(attempts):
    second, name = attempts.ledger.entries()[1], attempts.ledger.model
    for tag, value in {"by": "somebody@else", "outcome_reason": "it won", "new": "x"}.items():
        attempts.client.set_model_version_tag(name, "2", tag, value)
        (problem,) = history(attempts).problems
        assert problem.startswith("One of entries 2 to 2 was altered, added or deleted after")
        if tag in second.tags:
            attempts.client.set_model_version_tag(name, "2", tag, second.tags[tag])
            assert chain_problem(attempts.ledger.entries()) == ""
    attempts.client.delete_model_version_tag(name, "2", "new")
    attempts.client.delete_model_version(name, "3")
    assert "One of entries 2 to 3 was altered" in chain_problem(attempts.ledger.entries())


def test_entries_of_earlier_releases_have_no_digest_and_are_vouched_for(attempts):
    for number in ("1", "2"):
        attempts.client.delete_model_version_tag(attempts.ledger.model, number, "chain")
    assert "entries 1 to 2" in chain_problem(attempts.ledger.entries())  # 3 saw them with theirs
    attempts.client.delete_model_version_tag(attempts.ledger.model, "3", "chain")
    attempts.client.delete_model_version_tag(attempts.ledger.model, "4", "chain")
    assert (
        chain_problem(attempts.ledger.entries()) == "" and covered(attempts.ledger.entries()) == 0
    )
    promote(attempts, PromotionRequest(version="2"))
    assert covered(attempts.ledger.entries()) == 4 and not history(attempts).problems
