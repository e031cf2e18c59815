"""Versions of a registered model for tests: real gate records, made without a pipeline run."""

from dataclasses import dataclass, field
from pathlib import Path

from contests import contest_record

from rlhf_core.gates.decide import Decision
from rlhf_core.rundir import Artifact
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.promotion import PromotionRequest, promote
from tasks.records.approval_record import VersionApproval
from tasks.records.run_record import ModelKind, Registration
from tasks.registry import versions

STAGES = ("sft", "reward", "ppo", "evaluate")


def passed_gate(stage: str, model: str, **changes: object) -> Decision:
    """Return the record of one passed gate."""
    values = {
        "stage": stage,
        "gate": "g",
        "metric": f"{stage}/x",
        "value": 1.0,
        "n": 400,
        "interval": None,
        "bound": "at least",
        "threshold": 0.5,
        "passed": True,
        "reason": f"{stage}/x is 1, required at least 0.5",
        "model_digest": model,
    }
    return Decision(**values | changes)


@dataclass
class Registrar:
    """Registers models as the pipeline does."""

    registry: RegistryAliases
    models: Path
    digests: dict[tuple[str, str], str] = field(default_factory=dict)  # (kind, version) -> digest
    approval: VersionApproval = field(default_factory=VersionApproval)  # of the next version
    candidate_of: str = ""  # the registry name for which the next version is a candidate

    def add(
        self, kind: ModelKind, seed: int, decisions: list[Decision] | None = None, **tags: str
    ) -> str:
        """Register the model of this seed and return its version."""
        artifact, client = Artifact.of(self.models / f"{kind}-{seed}"), self.registry.client
        experiment = client.get_experiment_by_name("tiny")
        remote = self.registry.workspace.tracking_uri.startswith("http")
        place = None if remote else (self.registry.workspace.artifacts / "tiny").as_uri()
        where = (
            experiment.experiment_id
            if experiment
            else client.create_experiment("tiny", artifact_location=place)
        )
        logged = client.create_logged_model(where, name=kind)
        wanted = Registration(
            model=self.registry.model(kind),
            stage=kind,
            artifact=artifact,
            tags={},
            card="# a card\n",
            decisions=self.records(kind, artifact.digest) if decisions is None else decisions,
            approval=self.approval,
        )
        versions.store_model(client, logged, wanted)
        tags |= {versions.CANDIDATE_OF: self.candidate_of} if self.candidate_of else {}
        version = versions.register(client, wanted, logged, {"digest": artifact.digest} | tags)
        self.digests[kind, version] = artifact.digest
        return version

    def policy(
        self, seed: int, *, reward: str = "1", beats: str | None = None, wins: float = 0.7
    ) -> str:
        """Register a policy that has passed every gate.

        `beats` is the version that it was compared with, `wins` its win rate there.
        """
        digest = Artifact.of(self.models / f"policy-{seed}").digest
        records = self.records("policy", digest, reward)
        if beats:
            records.append(contest_record(digest, self.digests["policy", beats], wins))
        return self.add("policy", seed, records, reward_version=reward)

    def records(self, kind: str, digest: str, reward: str = "1") -> list[Decision]:
        """Return a gate record per stage for a policy, and one for a reward model."""
        if kind == "reward":
            return [passed_gate("reward", digest)]
        about = {"reward": self.digests["reward", reward], "ppo": digest, "evaluate": digest}
        return [passed_gate(stage, about.get(stage, "sft")) for stage in STAGES]


def fill(registrar: Registrar) -> None:
    """Register policies 1 (champion), 2 and 3 (both beat it), 4 (beats 2), 5 (loses to 1).

    Policy 3 was trained with reward model 2, the others with reward model 1.
    """
    for seed in (1, 2):
        registrar.add("reward", seed)
    registrar.policy(1)
    registrar.policy(2, beats="1")
    registrar.policy(3, beats="1", reward="2")
    registrar.policy(4, beats="2")
    registrar.policy(5, beats="1", wins=0.4)
    promote(registrar.registry, PromotionRequest(version="1"))
