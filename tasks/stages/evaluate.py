"""The spec of evaluate: the policy beside SFT model and champion, on held-out prompts."""

from pathlib import Path
from typing import Any

from rlhf_core import stage_catalogue
from rlhf_core.config import Evaluate, EvaluationJudge, Recipe
from rlhf_core.config.stage_configs import EvaluateStageConfig
from rlhf_core.judging.judge_endpoint import read_key
from rlhf_core.named_functions import JUDGES, REWARDS
from rlhf_core.rundir import Artifact, StageSpec
from tasks.stages import benchmarks
from tasks.stages.functions.source import source_of
from tasks.stages.spec import Artifacts, make_spec, model_folder, taken

LABELLED = "comparisons_heldout"


def spec(recipe: Recipe, have: Artifacts) -> StageSpec[EvaluateStageConfig]:
    """Return the spec.

    Inputs: the catalogue's, the reward model if there is one, further opinions that the recipe
    names, the files of its benchmarks, a champion other than the policy, with the reward model that
    it was trained with where that is another one, and the labelled pairs for the judge.
    """
    inputs = taken(stage_catalogue.EVALUATE, have)
    if recipe.has_reward:
        inputs["reward"] = have["reward"]
    inputs |= _opinions(recipe.evaluate)
    if "champion" in have and have["champion"].digest != have["policy"].digest:
        inputs["champion"] = have["champion"]
        inputs |= _champions_reward(inputs, have)
    if recipe.evaluate.judge and recipe.evaluate.judge.agreement_pairs:
        inputs |= {name: have[name] for name in (LABELLED,) if name in have}
    inputs |= benchmarks.folders(recipe.evaluate.benchmarks)
    section = _identity(recipe.evaluate)
    sharded = recipe.evaluate.frozen == "sharded"
    config = EvaluateStageConfig(
        evaluate=section,
        dtype=recipe.model.dtype,
        frozen_dtype=recipe.model.frozen_dtype,
        logits_mib=recipe.model.logits_mib,
        train_on=recipe.sft.train_on,
        ranks=recipe.distributed.world_size if sharded else 1,
    )
    return make_spec(recipe, "evaluate", config, inputs)


def _identity(config: Evaluate) -> Evaluate:
    """Return the section without what does not change the result.

    Further reward models and task files are inputs: their content counts, not their place. How many
    verdicts MLflow shows is no matter of the stage.
    """
    named = benchmarks.without_places(config.benchmarks)
    changes: dict[str, Any] = {"reward_models": [], "benchmarks": named}
    if config.judge:
        default = EvaluationJudge.model_fields["traces"].default
        changes["judge"] = config.judge.model_copy(update={"traces": default})
    return config.model_copy(update=changes)


def _champions_reward(inputs: Artifacts, have: Artifacts) -> Artifacts:
    theirs, ours = have.get("champion_reward"), inputs.get("reward")
    is_other = theirs and ours and theirs.digest != ours.digest
    return {"champion_reward": theirs} if theirs and is_other else {}


def check(config: Evaluate) -> None:
    """Check that every further opinion that the recipe names is there.

    Raises BadInput naming the key.
    """
    _folders(config)
    _sources(config)
    benchmarks.folders(config.benchmarks)
    if config.judge and config.judge.api_key_env:
        read_key(config.judge.api_key_env)


def _opinions(config: Evaluate) -> Artifacts:
    """Return the further reward models as 'reward_2' and on, and the sources of functions."""
    folders = enumerate(_folders(config), start=2)
    models = {f"reward_{number}": Artifact.of(folder) for number, folder in folders}
    return models | _sources(config)


def _folders(config: Evaluate) -> list[Path]:
    return [model_folder("evaluate.reward_models", folder) for folder in config.reward_models]


def _sources(config: Evaluate) -> Artifacts:
    judge = config.judge.function if config.judge else None
    named = {
        "independent_scorer": ("independent_scorer", config.independent_scorer, REWARDS),
        "judge": ("judge.function", judge, JUDGES),
    }
    return {
        name: source_of(f"evaluate.{key}", function, group)
        for name, (key, function, group) in named.items()
        if function
    }
