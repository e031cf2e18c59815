"""The model to beat, and the reward model that it was trained with."""

import json

from tasks.promotion.promotion import PromotionRequest, promote
from tasks.promotion.rival import champion_to_beat


def rival_of(registry, policy: str = "a new policy"):
    found = champion_to_beat(registry.client, registry.workspace, "tiny-policy", policy)
    assert found is not None
    return found


def test_the_champion_brings_the_reward_model_of_its_lineage(registrar):
    registry, digests = registrar.registry, registrar.digests
    assert rival_of(registry).reward is None  # its tags name no parents
    parents = json.dumps({"sft": "f" * 64, "reward": digests["reward", "2"]})
    registry.client.set_model_version_tag("tiny-policy", "1", "parents", parents)
    found = rival_of(registry)
    assert found.reward is not None and found.reward.digest == digests["reward", "2"]
    assert {name: item.digest for name, item in found.artifacts.items()} == {
        "champion": digests["policy", "1"],
        "champion_reward": digests["reward", "2"],
    }


def test_a_reward_model_that_is_gone_or_of_a_policy_without_one_is_not_known(registrar):
    registry = registrar.registry
    for parents in ({"reward": "e" * 64}, {"sft": registrar.digests["reward", "1"]}):
        registry.client.set_model_version_tag("tiny-policy", "1", "parents", json.dumps(parents))
        assert list(rival_of(registry).artifacts) == ["champion"]


def test_the_rival_of_the_champion_itself_is_the_one_that_it_beat(registrar):
    registry, digests = registrar.registry, registrar.digests
    promote(registry, PromotionRequest(version="2"))
    assert rival_of(registry).policy.digest == digests["policy", "2"]
    registry.client.set_model_version_tag(
        "tiny-policy", "2", "compared_with", digests["policy", "1"]
    )
    assert rival_of(registry, digests["policy", "2"]).policy.digest == digests["policy", "1"]
