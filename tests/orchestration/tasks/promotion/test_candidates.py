"""Candidates: copied with their records, promoted from the copy, which later runs leave alone."""

import pytest
from contests import contest_record
from registrar import Registrar

from rlhf_core.rundir import Artifact
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.audit import audit
from tasks.promotion.candidates import candidates_of, contest_entries, promoted_copy
from tasks.promotion.looks import look_of
from tasks.promotion.promotion import PromotionRequest, promote
from tasks.promotion.proposal import propose
from tasks.registry import versions


@pytest.fixture
def fresh(registrar) -> RegistryAliases:
    """A registry name without a version."""
    registry = registrar.registry
    return RegistryAliases(registry.client, registry.workspace, "fresh")


@pytest.fixture
def candidates(fresh, registrar) -> Registrar:
    """The candidates of that name: a reward model, and what a test adds."""
    made = Registrar(candidates_of(fresh), registrar.models, candidate_of="fresh")
    made.add("reward", 1)
    return made


def add_policy(candidates: Registrar, seed: int, beats: int | None = None, wins: float = 0.7):
    """Register a candidate that was compared with the policy of another seed."""
    digest = Artifact.of(candidates.models / f"policy-{seed}").digest
    records = candidates.records("policy", digest)
    if beats:
        champion = Artifact.of(candidates.models / f"policy-{beats}").digest
        records.append(contest_record(digest, champion, wins))
    return candidates.add("policy", seed, records, reward_version="1", data='{"a": "b"}')


def test_a_candidate_is_promoted_as_a_copy_with_its_records_and_lineage(rlhf, fresh, candidates):
    add_policy(candidates, 1)
    proposed = propose(fresh, "1", "pipeline run tiny-1")
    assert not proposed.promoted
    assert proposed.reason == (
        "Version 1 of fresh-candidate-policy is eligible and waits for a promoter: rlhf promote"
        " fresh-candidate 1."
    )
    assert fresh.ledger.entries() == [] and set(fresh.aliases().values()) == {None}

    code, out, err = rlhf("promote", "fresh-candidate", "1")
    assert code == 0 and out.startswith("Version 1 of fresh-policy is the champion"), err
    assert fresh.aliases()["policy@champion"] == fresh.aliases()["reward@champion"] == "1"
    copy, own = fresh.version("policy", "1"), candidates.registry.version("policy", "1")
    assert copy.source != own.source
    assert copy.tags["copied_from"] == "models:/fresh-candidate-policy/1"
    assert copy.tags["reward_version"] == "1" and "candidate_of" not in copy.tags
    assert all(copy.tags[name] == own.tags[name] for name in ("digest", "data", "gates_digest"))
    assert [event.event for event in audit(fresh.client).events][-2:] == ["propose", "promote"]
    again = propose(fresh, "1", "the same run again")
    assert again.promoted and again.reason == (
        "Version 1 of fresh-candidate-policy is the champion already, as version 1 of fresh-policy."
    )


def test_what_the_pipeline_writes_later_is_not_in_the_copy(rlhf, fresh, candidates):
    add_policy(candidates, 1)
    assert rlhf("promote", "fresh-candidate", "1")[0] == 0
    add_policy(candidates, 2, beats=1)
    assert rlhf("promote", "fresh-candidate", "2")[0] == 0
    add_policy(candidates, 1, beats=2)  # its records are renewed, with a contest
    for number in ("1", "2"):
        with versions.served_files(fresh.workspace, fresh.version("policy", number)):
            pass  # opening them checks their digests
    assert rlhf("rollback", "fresh")[0] == 0
    assert fresh.aliases()["policy@champion"] == "1"


def test_altered_files_of_a_candidate_are_not_promoted(rlhf, fresh, candidates):
    number = add_policy(candidates, 1)
    fresh.client.set_model_version_tag("fresh-candidate-policy", number, "gates_digest", "0")
    code, _, err = rlhf("promote", "fresh-candidate", number)
    assert code == 3 and "has other gate records than when it was registered" in err
    assert set(fresh.aliases().values()) == {None}


def test_a_lost_contest_of_a_candidate_is_a_look_at_the_heldout_prompts(rlhf, fresh, candidates):
    add_policy(candidates, 1)
    rlhf("promote", "fresh-candidate", "1")
    add_policy(candidates, 2, beats=1, wins=0.4)
    with pytest.raises(Exception, match="Version 2 of fresh-candidate-policy is not promoted"):
        propose(fresh, "2", "pipeline run tiny-2")
    entries = contest_entries(fresh.client, "fresh")
    (lost,) = [entry.contest for entry in entries if entry.contest]
    assert not lost.passed and lost.look == 1
    assert look_of(entries, lost.model_copy(update={"evaluation": "another"})) == 2
    code, _, err = rlhf("promote", "fresh-candidate", "2")  # the same evaluation, no further look
    assert code == 3 and "contest 1 on these held-out prompts" in err


def test_a_version_that_is_a_candidate_only_is_named_in_the_refusal(rlhf, registry, registrar):
    made = Registrar(candidates_of(registry), registrar.models, candidate_of="tiny")
    for seed in (1, 2):
        made.add("reward", seed)
    code, _, err = rlhf("promote", "tiny-reward", "7")
    assert code == 2 and "rlhf promote tiny-candidate" not in err
    registry.client.delete_model_version("tiny-reward", "2")
    code, _, err = rlhf("promote", "tiny-reward", "2")
    assert code == 2 and "promoted by: rlhf promote tiny-candidate-reward 2" in err


def test_a_name_that_merely_ends_like_candidates_is_promoted_as_before(registrar):
    registry = candidates_of(registrar.registry)
    made = Registrar(registry, registrar.models)
    made.add("reward", 1)
    made.add("policy", 1, reward_version="1")
    assert promoted_copy(registry, "policy", "1") == (registry, "1")
    assert promote(registry, PromotionRequest(version="1")).promoted
    assert registry.aliases()["policy@champion"] == "1"
