"""A rehearsal says what the promotion or rollback then does, and writes nothing."""

import pytest
from promotion_checks import champions

from rlhf_core.errors import BadInput, PromotionRefused
from tasks.promotion.promotion import PromotionRequest, promote, rollback
from tasks.promotion.rehearsal import Rehearsal, rehearse_promotion, rehearse_rollback
from tasks.records.approval_record import VersionApproval


def state(registry) -> list:
    """Return everything that a promotion writes: versions with their tags, and aliases."""
    models = {model.name: model for model in registry.client.search_registered_models()}
    return [
        (name, model.aliases, sorted((v.version, sorted(v.tags.items())) for v in found))
        for name, model in sorted(models.items())
        for found in [registry.client.search_model_versions(f"name='{name}'")]
    ]


def steps(found: Rehearsal) -> dict[str, bool | None]:
    return {step.name: step.passed for step in found.steps}


def test_what_would_be_promoted_is_said_and_then_done(registry):
    before = state(registry)
    found = rehearse_promotion(registry, PromotionRequest(version="3", reason="better"))
    assert state(registry) == before and found.allowed
    assert steps(found) == {
        "aliases": True,
        "models": True,
        "records": True,
        "contest": True,
        "approval": True,
        "smoke test": None,
    }
    texts = {step.name: step.reason for step in found.steps}
    assert "policy version 3 and reward version 2" in texts["models"]
    assert "all 4 gate records passed" in texts["records"]
    assert texts["contest"].startswith("it wins 70.0% of 250 decided prompts")
    assert "policy@champion from version 1 to version 3" in found.reason
    promote(registry, PromotionRequest(version="3"))
    assert registry.aliases() == found.after


@pytest.mark.parametrize(
    ("request_", "step", "says"),
    [
        (PromotionRequest(version="5"), "contest", "it wins 40.0%"),
        (PromotionRequest(version="2", expects="4"), "aliases", "is version 1, expected version 4"),
        (PromotionRequest(version="4"), "contest", "was not compared with the present champion"),
    ],
)
def test_a_refusal_is_that_of_the_promotion(registry, request_, step, says):
    before = state(registry)
    found = rehearse_promotion(registry, request_)
    assert state(registry) == before and not found.allowed and found.after == {}
    assert steps(found)[step] is False and "smoke test" not in steps(found)
    assert found.reason.startswith("Would not promote version") and says in found.reason
    with pytest.raises(PromotionRefused) as refused:
        promote(registry, request_)
    assert str(refused.value) in found.reason


def test_an_approval_that_is_missing_is_named(registrar):
    registrar.approval = VersionApproval(required=True)
    version = registrar.policy(2, beats="1")
    found = rehearse_promotion(registrar.registry, PromotionRequest(version=version))
    assert steps(found)["contest"] and steps(found)["approval"] is False
    given = PromotionRequest(version=version, approved_by="Ann", approval_comment="read it")
    assert rehearse_promotion(registrar.registry, given).allowed


def test_a_rollback_is_rehearsed_too(registry):
    found = rehearse_rollback(registry, PromotionRequest())
    assert not found.allowed and "has no earlier champion to go back to" in found.reason
    promote(registry, PromotionRequest(version="2"))
    before = state(registry)
    found = rehearse_rollback(registry, PromotionRequest())
    assert state(registry) == before and found.allowed
    assert found.reason.startswith("Would roll back to version 1 of tiny-policy: policy@champ")
    rollback(registry, PromotionRequest())
    assert registry.aliases() == found.after and champions(registry)[0] == "1"


def test_the_champion_itself_and_a_version_that_is_not_there(registry):
    found = rehearse_promotion(registry, PromotionRequest(version="1"))
    assert found.allowed and "is the champion already" in found.steps[0].reason
    with pytest.raises(BadInput, match="version 99 of tiny-policy does not exist"):
        rehearse_promotion(registry, PromotionRequest(version="99"))
