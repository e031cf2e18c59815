"""Trace one PPO batch on what the stages before ppo left in the workspace."""

from rlhf_core.config import Recipe
from rlhf_core.config.stage_configs import TraceStageConfig
from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact, StageResult, StageSpec, read_result
from rlhf_core.stage_catalogue import STAGES, Stage
from tasks.execution.stage_process import StageRun, run_stage
from tasks.records.run_record import Record
from tasks.records.workspace import Workspace
from tasks.stages import ppo
from tasks.stages.contract import outputs_of, spec_of
from tasks.stages.spec import Artifacts, make_spec

BEFORE = tuple(STAGES.values())[: tuple(STAGES).index("ppo")]


def trace(
    recipe: Recipe,
    workspace: Workspace,
    *,
    rows: int,
    trained: bool,
    brought: Artifacts | None = None,
    record: Record | None = None,
) -> StageRun:
    """Trace a batch of the recipe's PPO, or find it traced.

    trained: by the policy that ppo made, not by the SFT model. brought, record: as of `inputs`.
    Raises BadInput as `require_traceable` does and when an earlier stage has not run, and what the
    stage raises.
    """
    require_traceable(recipe)
    have = inputs(recipe, workspace, brought=brought, record=record)
    given = spec(recipe, have, rows=rows)
    if trained:
        given = with_actor(given, _of(recipe, workspace, ppo.spec(recipe, have)).outputs["model"])
    return run_stage(given, workspace.run_dir(given), distributed=recipe.distributed)


def require_traceable(recipe: Recipe) -> None:
    """Raise BadInput for a recipe without PPO, and for ranks that a person starts elsewhere."""
    if not recipe.runs("ppo"):
        raise BadInput(
            f"recipe {recipe.name} has align = {recipe.align!r}: there is no PPO batch to trace."
        )
    distributed = recipe.distributed
    others = list(distributed.hosts)[1:]
    if distributed.launcher == "by_hand" and others:
        raise BadInput(
            f"rlhf trace with distributed.launcher 'by_hand' would wait for ranks on"
            f" {', '.join(others)}, for which nothing prints a command; expected ranks that it"
            " starts itself. Set the launcher to 'pdsh' or 'ray', or trace on this host alone:"
            " --set distributed.hostfile=none."
        )


def spec(recipe: Recipe, have: Artifacts, *, rows: int) -> StageSpec[TraceStageConfig]:
    """Return the spec of ppo with the number of responses to show token by token."""
    same = ppo.spec(recipe, have)
    config = TraceStageConfig(rows=rows, **dict(same.config))
    return make_spec(recipe, "trace", config, same.inputs)


def with_actor(given: StageSpec, actor: Artifact) -> StageSpec:
    """Return the spec with another actor; what was the actor stays the reference."""
    return given.model_copy(
        update={"inputs": given.inputs | {"policy": actor, "reference": given.inputs["policy"]}}
    )


def inputs(
    recipe: Recipe,
    workspace: Workspace,
    stages: tuple[Stage, ...] = BEFORE,
    brought: Artifacts | None = None,
    record: Record | None = None,
) -> Artifacts:
    """Return what these stages left, the first ones of the recipe; those before ppo by default.

    brought: artifacts that no stage makes, as of RunContext. record: of the run that made them,
    which knows what a search for leaks has left of the held-out splits. Raises BadInput when one of
    them is missing.
    """
    have = dict(brought or {})
    for stage in stages:
        given = spec_of(stage, recipe, have)
        of_run = record.stage(stage.name) if record else None
        found = of_run.result if of_run else None
        result = found or _of(recipe, workspace, given) if given else None
        have |= outputs_of(stage, recipe, result)
    return have


def _of(recipe: Recipe, workspace: Workspace, given: StageSpec) -> StageResult:
    result = read_result(workspace.run_dir(given))
    if result is None:
        raise BadInput(
            f"stage {given.stage} of recipe {recipe.name} has not been run with these settings:"
            f" nothing is in {workspace.run_dir(given)}. Run: rlhf run with the same recipe and"
            f" settings --until {given.stage}."
        )
    return result
