"""A champion of known training data, and contests on a held-out split, without a pipeline run."""

from contests import contest_record
from mlflow import MlflowClient

from rlhf_core.data.splits import load_split
from rlhf_core.evidence.items import prompt_id
from rlhf_core.rundir import Artifact, StageResult, StageSpec
from tasks.promotion.ledger import Ledger
from tasks.promotion.looks import outcome_of
from tasks.records.workspace import Workspace


def make_champion(client: MlflowClient, workspace: Workspace, trained_on: Artifact) -> None:
    """Register a champion of tiny-policy, which a recorded PPO stage made from these prompts."""
    folder = workspace.runs / "ppo-champion"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_text("champion")
    model = Artifact.of(folder / "model")
    inputs = {"prompts_train": trained_on}
    spec: StageSpec = StageSpec(stage="ppo", seed=1, config={}, inputs=inputs, code="c")
    output = model.model_copy(update={"path": "model"})
    result = StageResult(stage="ppo", digest=spec.digest, outputs={"model": output}, seconds=1.0)
    (folder / "spec.json").write_text(spec.model_dump_json())
    (folder / "result.json").write_text(result.model_dump_json())
    register_champion(client, model.digest)


def register_champion(client: MlflowClient, digest: str) -> None:
    """Register a champion of tiny-policy with this digest."""
    client.create_registered_model("tiny-policy")
    version = client.create_model_version(
        "tiny-policy", source="file:///nowhere", tags={"digest": digest}
    )
    client.set_registered_model_alias("tiny-policy", "champion", version.version)


def record_contest(client: MlflowClient, number: int, split: Artifact) -> None:
    """Record a lost contest on a held-out split in the ledger, as a promotion does."""
    ids = [prompt_id(row["prompt"]) for row in load_split(split.path)]
    decision = contest_record(f"p{number}", "c", 0.4, heldout=split.digest, prompts=ids)
    assert decision.contest is not None
    ledger = Ledger(client, "tiny")
    entry = ledger.append("promote", "tiny-policy", str(number))
    outcome = outcome_of(decision, decision.contest, number)
    ledger.record(entry, "contest", outcome.model_dump_json())
    ledger.close(entry, "refused", "lost")
    ledger.release(entry)
