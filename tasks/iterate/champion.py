"""The champion as a source of pairs: its policy and its reward model, with a loop's own prompts."""

from dataclasses import dataclass

from rlhf_core.config import Recipe
from rlhf_core.rundir import Artifact
from rlhf_core.stage_catalogue import ALIGNMENTS, VALIDATE
from tasks.labels.sources import RunModels, models_of
from tasks.promotion.rival import Rival, present_champion
from tasks.records.run_record import Record, records
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect

SPLITS = ("prompts_train", "comparisons_train")


@dataclass(frozen=True)
class ChampionModels:
    """The champion's models with the training splits of the loop.

    made_by: the run of this workspace that made the champion; None for one made elsewhere.
    """

    models: RunModels
    made_by: Record | None

    @property
    def facts(self) -> dict:
        """The facts that the provenance of labels records: run and digests of the models."""
        inputs, run = self.models.inputs, self.made_by
        digests = {name: inputs[name].digest for name in ("policy", "reward") if name in inputs}
        return {"name": run and run.name, "id": run and run.id, "digests": digests}


def champion_digest(workspace: Workspace, recipe: Recipe) -> str | None:
    """Return the digest of the policy that is champion now; None without a champion."""
    champion = _champion(workspace, recipe)
    return champion.policy.digest if champion else None


def champion_models(workspace: Workspace, recipe: Recipe, latest: Record) -> ChampionModels | None:
    """Return the present champion's models; None without a champion.

    latest: the loop's latest run, whose training splits are asked about; see has_splits. The reward
    model is the one that the champion was trained with, or else the one of its run.
    """
    champion = _champion(workspace, recipe)
    if champion is None:
        return None
    splits = _splits(latest)
    inputs = {name: splits[name] for name in SPLITS if name in splits}
    made_by = _maker(workspace, champion.policy.digest)
    inputs |= _models(champion, made_by)
    return ChampionModels(RunModels(made_by or latest, recipe, inputs), made_by)


def has_splits(run: Record) -> bool:
    """Return True if the training splits of a run are in the workspace, where gc may remove them.

    A run that ended before its data were read has none either.
    """
    return bool(_splits(run))


def _splits(run: Record) -> dict[str, Artifact]:
    validated = run.stage(VALIDATE.name)
    result = validated.result if validated else None
    return result.outputs if result else {}


def _champion(workspace: Workspace, recipe: Recipe) -> Rival | None:
    client = connect(workspace.tracking_uri)
    return present_champion(client, workspace, f"{recipe.registry.name}-policy")


def _models(champion: Rival, made_by: Record | None) -> dict[str, Artifact]:
    """Return policy and reward model: those of the run directories, or of the registry."""
    found = {"policy": champion.policy}
    if champion.reward:
        found["reward"] = champion.reward
    if made_by is None or not has_splits(made_by):
        return found
    own = models_of(made_by).inputs
    return found | {name: own[name] for name in ("policy", "reward") if name in own}


def _maker(workspace: Workspace, digest: str) -> Record | None:
    """Return the newest run of this workspace whose policy has these bytes."""
    for values in reversed(records(workspace)):
        record = Record.model_validate(values)
        for stage in record.stages:
            result = stage.result if stage.stage in ALIGNMENTS else None
            if result and "model" in result.outputs and result.outputs["model"].digest == digest:
                return record
    return None
