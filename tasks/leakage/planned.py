"""The plan of a run: what it adds to the artifacts before a stage, without a run."""

from collections.abc import Callable
from functools import partial

from rlhf_core.config import Recipe
from rlhf_core.errors import BadInput
from rlhf_core.stage_catalogue import EVALUATE, Stage
from tasks.leakage.heldout import Search, search_leaks
from tasks.promotion.rival import champion_to_beat
from tasks.records.workspace import Workspace
from tasks.stages.spec import Artifacts
from tasks.tracking.client import connect


def added_by_run(recipe: Recipe, workspace: Workspace) -> Callable[[Stage, Artifacts], Artifacts]:
    """Return the function of a stage and what earlier ones left that gives what a run would add.

    That is the champion before the evaluation, and held-out splits without leaked prompts. Where
    MLflow does not answer they are left out, as in a run. The function raises BadInput as a run
    does.
    """
    client = partial(connect, workspace.tracking_uri)
    search = Search(recipe, workspace, client, lambda error: None)

    def added(stage: Stage, have: Artifacts) -> Artifacts:
        champion = _champion(search, have["policy"].digest) if stage == EVALUATE else {}
        found = search_leaks(search, stage, have | champion)
        return champion | (found.splits if found else {})

    return added


def _champion(search: Search, policy: str) -> Artifacts:
    name = f"{search.recipe.registry.name}-policy"
    try:
        found = champion_to_beat(search.client(), search.workspace, name, policy)
    except BadInput:
        raise
    except Exception:  # of many kinds
        return {}
    return found.artifacts if found else {}
