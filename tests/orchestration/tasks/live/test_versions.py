"""The versions to serve: the champion, and who may be its canary."""

import pytest

from rlhf_core.errors import BadInput, PromotionRefused
from rlhf_core.live.routing import WantedVersions
from tasks.live.versions import fetch_served, require_candidate, wanted_versions
from tasks.promotion.promotion import PromotionRequest, promote, rollback


def test_the_champion_is_served_alone_unless_a_candidate_is_asked_for(registry):
    assert wanted_versions(registry) == WantedVersions("1")
    assert wanted_versions(registry, "2", 10) == WantedVersions("1", "2", 10)
    assert wanted_versions(registry, "1", 10) == WantedVersions("1")  # it became champion


def test_the_newest_version_that_passed_its_gates_is_the_candidate(registrar):
    registry = registrar.registry
    assert require_candidate(registry, "", "1") == "5"  # it need not have beaten the champion
    assert require_candidate(registry, "candidate", "1") == "5"
    assert require_candidate(registry, "3", "1") == "3"


def test_a_version_that_was_champion_is_a_candidate_only_by_name(registrar):
    registry = registrar.registry
    promote(registry, PromotionRequest(version="5", contest_override="a test"))
    rollback(registry, PromotionRequest(reason="complaints"))
    assert require_candidate(registry, "", "1") == "4"
    assert require_candidate(registry, "5", "1") == "5"


def test_a_version_whose_gates_did_not_pass_is_no_candidate(registrar):
    registry = registrar.registry
    registrar.add("policy", 2, decisions=[], reward_version="1")  # the records of version 2 anew
    with pytest.raises(PromotionRefused, match="no gate record"):
        require_candidate(registry, "2", "1")


@pytest.mark.parametrize(
    ("named", "says"),
    [("1", "is the champion"), ("9", "does not exist"), ("beta", "no alias beta")],
)
def test_a_candidate_that_cannot_be_is_refused(registry, named, says):
    with pytest.raises(BadInput, match=says):
        require_candidate(registry, named, "1")


def test_served_files_have_the_digest_of_their_version(registry):
    served = fetch_served(registry, "1")
    assert (served.model, served.version) == ("tiny-policy-1", "1")
    (served.folder / "config.json").unlink()  # a link to the file of a model of other tests
    (served.folder / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="other bytes"):
        fetch_served(registry, "1")
