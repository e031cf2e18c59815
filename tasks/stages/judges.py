"""The endpoints of a recipe's judges, asked before anything is trained for them."""

from collections.abc import Callable

from rlhf_core.config import Judge, Recipe
from rlhf_core.errors import BadInput, StageFailed
from rlhf_core.stage_catalogue import EVALUATE, PPO
from tasks.execution.stage_calls import ask


def require_judges(recipe: Recipe, is_wanted: Callable[[str], bool]) -> None:
    """Check that the endpoint of each judge that a wanted stage asks gives an answer.

    Raises BadInput for one that refuses the request (wrong path, model or key), StageFailed for one
    that does not answer.
    """
    check = recipe.ppo.reward_check
    judges: dict[str, tuple[str, Judge | None]] = {
        "evaluate.judge": (EVALUATE.name, recipe.evaluate.judge),
        "ppo.reward_check.judge": (PPO.name, check.judge if check else None),
    }
    for key, (stage, judge) in judges.items():
        if judge and judge.endpoint and recipe.runs(stage) and is_wanted(stage):
            try:
                ask("rlhf_core.judging.judge_endpoint:require_answer", judge)
            except BadInput as error:
                raise BadInput(f"{key}, asked before anything trains: {error}") from None
            except StageFailed as error:
                raise StageFailed(
                    f"{key}, asked before anything trains: {error}. Start its server, or correct"
                    f" {key}.endpoint."
                ) from None
