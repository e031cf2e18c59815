"""The contests on the same held-out prompts: counted in the ledger, and judged by their place."""

import json

import pytest
from contests import contest_record, outcomes
from promotion_checks import champions, refused

from rlhf_core.config import Contest
from rlhf_core.contest.spending import level
from rlhf_core.evidence.items import item_id
from tasks.promotion.eligibility import ContestLost
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.ledger_chain import chain_digest, chain_problem
from tasks.promotion.looks import basis_of, look_of, outcome_of
from tasks.promotion.promotion import PromotionRequest, promote


def contests(registry):
    return [entry.contest for entry in registry.ledger.entries() if entry.contest]


def test_each_contest_is_counted_with_its_evidence_and_the_same_one_only_once(registry):
    for _ in range(2):  # lost twice by the same evidence: one look
        with refused(registry, r"contest 1 on these held-out prompts\.$", ContestLost):
            promote(registry, PromotionRequest(version="5"))
    assert "contest 2 on these" in promote(registry, PromotionRequest(version="2")).reason
    first, again, second = contests(registry)
    assert first == again and (first.look, second.look) == (1, 2)
    assert first.heldout == second.heldout and first.champion == second.champion
    assert (first.metric, first.share, first.n, first.passed) == (
        "eval/win_rate_vs_champion",
        0.4,
        250,
        False,
    )
    assert first.level == pytest.approx(level(1, 0.95))
    assert second.level == pytest.approx(level(2, 0.95)) and second.passed


def test_contests_on_other_held_out_prompts_are_not_counted(registry):
    with refused(registry, "contest 1", ContestLost):
        promote(registry, PromotionRequest(version="5"))
    entries = registry.ledger.entries()
    (contest,) = contests(registry)
    other = contest.model_copy(update={"evaluation": "another evaluation"})
    assert look_of(entries, other) == 2 and look_of(entries, contest) == 1
    assert look_of(entries, other.model_copy(update={"heldout": "other prompts"})) == 1


LOST = outcomes(0.4)
METRIC = "eval/independent_win_rate_vs_champion"
CHANGES = {  # of a contest on one evaluation, by which somebody may hope to win it after all
    "another metric": {"contest": Contest(metric=METRIC)},
    "a smaller effect": {"contest": Contest(min_effect=-0.05)},
    "the estimate": {"contest": Contest(of="estimate")},
    "another confidence": {"contest": Contest(confidence=0.9)},
    "fewer prompts": {"contest": Contest(min_n=10)},
    "a judge that samples, asked again": {"won": {"score": LOST[::-1], "independent": LOST}},
    "both": {"contest": Contest(metric=METRIC), "won": {"score": LOST, "independent": LOST[::-1]}},
}


def test_the_same_evaluation_by_another_rule_or_on_other_items_is_another_look(registry):
    first, (template,) = {"won": {"score": LOST, "independent": LOST}}, registry.ledger.entries()
    entries: list[LedgerEntry] = []
    for change in ({}, *CHANGES.values(), {}, CHANGES["both"]):
        decision = contest_record("policy", "champion", 0.4, **first | change)
        evidence = decision.contest
        assert evidence is not None
        outcome = outcome_of(decision, evidence, look_of(entries, basis_of(decision, evidence)))
        entries.append(template.model_copy(update={"contest": outcome}))
    found = [entry.contest for entry in entries if entry.contest]
    assert len({contest.evaluation for contest in found}) == 1
    assert [contest.look for contest in found] == [*range(1, len(CHANGES) + 2), 1, 8]
    assert found[0].rule == (
        "lower 95% bound of eval/win_rate_vs_champion more than 0.5, n at least 50"
    )
    assert len(found[0].items) == 64


def test_a_promotion_counts_another_metric_on_the_same_evaluation(registrar):
    registry = registrar.registry
    policy, champion = (registrar.digests["policy", version] for version in ("5", "1"))
    for metric in ("auto", METRIC, METRIC):
        won, contest = {"score": LOST, "independent": LOST}, Contest(metric=metric)
        decision = contest_record(policy, champion, 0.4, contest=contest, won=won)
        records = [*registrar.records("policy", policy), decision]
        registrar.add("policy", 5, records, reward_version="1")
        with refused(registry, "contest", ContestLost):
            promote(registry, PromotionRequest(version="5"))
    assert [contest.look for contest in contests(registry)] == [1, 2, 2]


def test_entries_of_an_earlier_release_are_counted_and_their_record_again_is_the_same_look(
    registrar,
):
    """Such an entry holds neither rule nor items, and nobody has altered it."""
    registry = registrar.registry
    policy, champion = (registrar.digests["policy", version] for version in ("5", "1"))
    new = contest_record(policy, champion, 0.4)
    assert new.contest is not None
    old = new.model_copy(
        update={"contest": new.contest.model_copy(update={"rule": "", "items": ""})}
    )
    assert old.contest is not None
    entry = registry.ledger.append("promote", "tiny-policy", "5")
    kept = outcome_of(old, old.contest, 1).model_dump(mode="json", exclude={"rule", "items"})
    registry.ledger.record(entry, "chain", chain_digest(registry.ledger.entries(), entry.number))
    registry.ledger.record(entry, "contest", json.dumps(kept))
    registry.ledger.close(entry, "refused", "lost")
    registry.ledger.release(entry)
    for decision in (old, new):
        records = [*registrar.records("policy", policy), decision]
        registrar.add("policy", 5, records, reward_version="1")
        with refused(registry, "contest", ContestLost):
            promote(registry, PromotionRequest(version="5"))
    assert [contest.look for contest in contests(registry)] == [1, 1, 2]
    assert chain_problem(registry.ledger.entries()) == ""


def test_a_win_at_the_level_of_an_earlier_look_is_judged_at_the_level_of_its_place(registrar):
    """Two pipelines ended at once: both took their contest for the first one."""
    registrar.policy(2, beats="1", wins=0.568)
    decision = contest_record("p", "c", 0.568)
    assert decision.passed and decision.contest is not None
    assert outcome_of(decision, decision.contest, 1).passed
    late = outcome_of(decision, decision.contest, 4)
    assert late.level == pytest.approx(level(4, 0.95)) and not late.passed
    registry = registrar.registry
    with refused(registry, "contest 1", ContestLost):
        promote(registry, PromotionRequest(version="5"))
    before = champions(registry)
    with refused(registry, r"wins 56\.8% .*; contest 2 on these held-out prompts", ContestLost):
        promote(registry, PromotionRequest(version="2"))
    assert champions(registry) == before


def test_a_split_without_leaked_prompts_or_with_an_added_one_is_looked_at_again(registrar):
    """A champion was trained on 100 of 150 prompts: the split without them has another digest."""
    registry, prompts = registrar.registry, [item_id(f"prompt {i}") for i in range(150)]
    splits = [
        ("whole split", prompts, 5),
        ("without the leaked prompts", prompts[100:], 4),
        ("one prompt more", [*prompts, item_id("added")], 3),
        ("fresh prompts", [item_id(f"fresh {i}") for i in range(150)], 2),
    ]
    champion = registrar.digests["policy", "1"]
    for heldout, looked_at, seed in splits:
        digest = registrar.digests["policy", str(seed)]
        contest = contest_record(digest, champion, 0.4, heldout=heldout, prompts=looked_at)
        records = [*registrar.records("policy", digest), contest]
        version = registrar.add("policy", seed, records, reward_version="1")
        with refused(registry, "contest", ContestLost):
            promote(registry, PromotionRequest(version=version))
    assert [each.look for each in contests(registry)] == [1, 2, 3, 1]


def test_an_override_is_a_look_too(registry):
    promote(registry, PromotionRequest(version="5", contest_override="shorter replies"))
    assert [(each.look, each.passed) for each in contests(registry)] == [(1, False)]


def test_a_record_of_an_earlier_release_wins_nothing(registrar):
    digest = registrar.digests["policy", "2"]
    old = contest_record(digest, registrar.digests["policy", "1"], 0.9)
    records = [*registrar.records("policy", digest), old.model_copy(update={"contest": None})]
    registrar.add("policy", 2, records, reward_version="1")
    with refused(registrar.registry, "recorded by an earlier release", ContestLost):
        promote(registrar.registry, PromotionRequest(version="2"))
