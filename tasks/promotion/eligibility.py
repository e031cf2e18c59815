"""Conditions for the alias 'champion': a version's bytes, and the records beside its weights."""

import json
from dataclasses import dataclass, field

from rlhf_core.errors import GateRefused, PromotionRefused, RLHFError
from rlhf_core.gates.decide import Decision, refused
from rlhf_core.stage_catalogue import ALIGNMENTS, EVALUATE, LEARNING, PPO, REWARD, STAGES
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.champions import AliasState, Champion
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.looks import ContestOutcome, describe
from tasks.records.approval_record import ApprovalRecord, VersionApproval, evidence_of
from tasks.records.run_record import ModelKind
from tasks.registry import packaging, versions

# maker -> stages that need gate records: those of the policy's parents, its own, and evaluate
REQUIRED: dict[str, tuple[str, ...]] = {REWARD.name: (REWARD.name,)} | {
    maker: (*(name for name in STAGES[maker].parents if name in LEARNING), maker, EVALUATE.name)
    for maker in ALIGNMENTS
}
APPROVE = (
    "Run its recipe, which asks; or, if you have been told yes: --approved-by NAME --comment TEXT,"
    " which the ledger keeps."
)
RUN_AGAIN = (
    "Run its recipe again: it repeats no training, and registers the same bytes with their records."
)


class ContestLost(PromotionRefused):
    """Every gate passed, but the policy does not beat the present champion."""

    code = "RLHF-P004"


class ApprovalMissing(PromotionRefused):
    """Every gate passed, but the approval that the recipe requires is missing."""

    code = "RLHF-P003"


@dataclass(frozen=True)
class VersionEvidence:
    """The gate records and the approval in a version's files. approval: None if not there."""

    decisions: list[Decision] = field(default_factory=list)
    approval: VersionApproval | None = None


def state_at_promotion(
    registry: RegistryAliases, entries: list[LedgerEntry], state: AliasState
) -> AliasState:
    """Return the champions as the promotion of the state's policy has left them, by the ledger.

    The records of a policy are about the reward model that it was promoted with. A reward model
    that was promoted alone afterwards stands beside the policy, and changes nothing in them. A
    policy that no entry has promoted, because the ledger began with it, is judged by its tag
    'reward_version', and by the state itself where there is no such version.
    """
    if state.policy is None:
        return state
    for entry in reversed(entries):
        promoted = entry.outcome == "done" and (entry.action, entry.kind) == ("promote", "policy")
        if promoted and entry.plan and entry.plan.state.policy == state.policy:
            return entry.plan.state
    reward = registry.version("policy", state.policy.version).tags.get("reward_version")
    if not reward or not versions.find_version(registry.client, registry.model("reward"), reward):
        return state
    return AliasState(policy=state.policy, reward=registry.as_champion("reward", reward))


def check_version(registry: RegistryAliases, state: AliasState, kind: ModelKind) -> VersionEvidence:
    """Check the bytes and gate records of the state's champion of a kind, as they are served now.

    The records of a policy must be about the state's reward model: for a policy that was promoted
    before, see state_at_promotion. Raises PromotionRefused.
    """
    champion = state.champion(kind)
    assert champion is not None  # the callers ask only for the champions that there are
    version = registry.verified_version(kind, champion)
    about = {"reward": champion.digest}
    if kind == "policy":
        about = dict.fromkeys((*ALIGNMENTS, "evaluate"), champion.digest)
        about |= {"reward": state.reward.digest} if state.reward else {}
    try:
        with versions.served_files(registry.workspace, version) as folder:
            found = VersionEvidence(
                packaging.read_decisions(folder), packaging.read_approval(folder)
            )
        require_evidence(kind, about, version.tags, found.decisions)
    except RLHFError as error:
        raise PromotionRefused(
            f"version {champion.version} of {registry.model(kind)} may not be champion: {error}"
        ) from error
    return found


def _alignment(stages: set[str]) -> str:
    """Return the alignment that the gate records are of; PPO where they are of none."""
    if PPO.name in stages:
        return PPO.name
    return next((name for name in ALIGNMENTS if name in stages), PPO.name)


def require_evidence(
    kind: ModelKind, digests: dict[str, str], tags: dict[str, str], decisions: list[Decision]
) -> None:
    """Raise GateRefused unless every stage has records that passed and are about these bytes.

    digests: stage -> digest of the model that its records must be about. Overridden gates count as
    passed.
    """
    gates = [decision for decision in decisions if not decision.is_contest]
    # 'sft' is the one model that a recipe may give and not measure
    given = set(json.loads(tags.get("given", "[]"))) & {"sft"}
    found = {gate.stage for gate in gates}
    made_by = "reward" if kind == "reward" else _alignment(found)
    missing = [stage for stage in REQUIRED[made_by] if stage not in found | given]
    if missing:
        raise GateRefused(
            f"no gate record of {' and '.join(missing)}; expected records of every stage."
            f" {RUN_AGAIN}"
        )
    if stops := refused(gates):
        raise GateRefused(
            "refused by its gates: "
            + "; ".join(f"{gate.stage}: {gate.reason}" for gate in stops)
            + "."
        )
    for gate in gates:
        expected = digests.get(gate.stage)
        if expected and gate.model_digest != expected:
            about = (
                f"a model with digest {gate.model_digest[:12]}" if gate.model_digest else "no model"
            )
            raise GateRefused(
                f"the record of {gate.stage}.{gate.gate} is about {about}, expected"
                f" {expected[:12]}. {RUN_AGAIN}"
            )


def contest_with(decisions: list[Decision], rival: Champion) -> Decision | None:
    """Return the record of the contest with exactly this champion, None without one."""
    return next((d for d in decisions if d.is_contest and d.champion_digest == rival.digest), None)


def require_comparison(decisions: list[Decision], rival: Champion) -> None:
    """Raise ContestLost unless every record about a champion is about exactly this one.

    A record of an earlier release, which no held-out prompts are counted for, is none.
    """
    contest = contest_with(decisions, rival)
    stale = [d for d in decisions if d.versus and d.champion_digest != rival.digest]
    if contest is None or stale:
        raise ContestLost(
            f"it was not compared with the present champion, version {rival.version}. Run its"
            ' recipe again, or give --override-contest "REASON", which is recorded.'
        )
    if contest.contest is None:
        raise ContestLost(
            f"its comparison with the present champion, version {rival.version}, was recorded by an"
            " earlier release, which took no account of chance. Run its recipe again, or give"
            ' --override-contest "REASON", which is recorded.'
        )


def require_win(outcome: ContestOutcome, rival: Champion) -> None:
    """Raise ContestLost unless the contest was won."""
    if outcome.passed:
        return
    required = f"more than {outcome.threshold:.1%}"
    if outcome.of == "lower":
        required = f"a lower bound of {required}"
    raise ContestLost(
        f"{describe(outcome)} against the champion, version {rival.version}, required {required};"
        f" contest {outcome.look} on these held-out prompts."
    )


def require_approval(
    approval: VersionApproval | None, policy: str, decisions: list[Decision]
) -> None:
    """Raise ApprovalMissing unless a person approved of these bytes on these records.

    A recipe that requires no approval passes.
    """
    if approval is None:
        raise ApprovalMissing(
            f"its files do not say whether its recipe requires a person's approval. {APPROVE}"
        )
    if not approval.required:
        return
    record = approval.record
    if record is None or record.state != "approved":
        found = record.sentence if record else "nobody was asked"
        raise ApprovalMissing(
            f"its recipe requires a person's approval, and none is recorded ({found}). {APPROVE}"
        )
    if record.evidence != evidence_of(policy, decisions):
        raise ApprovalMissing(
            f"it was {record.sentence}, but on other bytes or other gate records than these."
            f" {APPROVE}"
        )


def require_signed(signed: ApprovalRecord, registered_by: str) -> None:
    """Raise ApprovalMissing unless an account has approved by MLflow's server, and not its own run.

    registered_by: the account that has registered the policy, '' where it is not known.
    """
    if signed.state != "approved":
        found = signed.sentence if signed.state == "rejected" else "nobody has answered"
        raise ApprovalMissing(
            f"its recipe requires a person's approval, and MLflow's server has none on these bytes"
            f" and gate records ({found}). An approver's account gives it: rlhf approve"
            f" {signed.run}"
        )
    if is_own(signed, registered_by):
        raise ApprovalMissing(
            f"it was approved by {signed.by}, the account that has registered it; expected another"
            " approver, or registry.approval.allow_self = true in its recipe."
        )


def is_own(signed: ApprovalRecord, registered_by: str) -> bool:
    """Return True for an approval by whoever has registered the policy, where that is forbidden.

    MLflow compares names of accounts without regard to case.
    """
    return not signed.allow_self and (signed.by or "").lower() == registered_by.lower()


def overridden(decisions: list[Decision]) -> list[str]:
    """Return the gates that passed only by a recorded override, with who and why."""
    return [
        f"{d.stage}.{d.gate} (to {d.override.threshold:g} by {d.override.by}: {d.override.reason})"
        for d in decisions
        if d.override
    ]
