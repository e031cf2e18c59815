"""Held-out splits without the prompts that a model which takes part was trained on."""

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rlhf_core.config import Recipe
from rlhf_core.data.splits import HELDOUT_FOR, load_split, prompt_keys, save_split, short_key
from rlhf_core.digest import digest_json
from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact
from rlhf_core.stage_catalogue import EVALUATE, NEW_HELDOUT, PREPARE, SFT, STAGES, UNSEEN, Stage
from tasks.leakage.training_data import Origins
from tasks.records.heldout_check import HeldoutCheck, brief_reasons
from tasks.records.workspace import Workspace
from tasks.run_context import RunContext
from tasks.stages.contract import spec_of
from tasks.stages.spec import Artifacts

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("rlhf.leakage")
TAKES_PART = ("given", "policy", "sft", "champion", "champion_reward", "reward", "start", "before")
BEFORE = "before"  # takes part in one measurement alone: prompts that it knows stay in the others


@dataclass(frozen=True)
class Found:
    """The search's finding: the held-out splits to measure on, and the record of the search."""

    splits: Artifacts
    check: HeldoutCheck


@dataclass(frozen=True)
class Search:
    """One who searches: a run, or the plan of one.

    client: MLflow's, asked for only where the workspace does not know a model. is_behind: is told
    that MLflow has not answered.
    """

    recipe: Recipe
    workspace: Workspace
    client: "Callable[[], MlflowClient]"
    is_behind: Callable[[Exception], None]


def without_leaks(context: RunContext, stage: Stage, have: Artifacts) -> Found | None:
    """Search for a run, as `search_leaks` does."""

    def is_behind(error: Exception) -> None:
        if not context.tracker.problem:
            context.tracker.is_behind(error)

    client = partial(_client, context)
    return search_leaks(Search(context.recipe, context.workspace, client, is_behind), stage, have)


def search_leaks(context: Search, stage: Stage, have: Artifacts) -> Found | None:
    """Return the stage's held-out splits without the training prompts of its models.

    None for a stage that measures no model on held-out data, and where every model is known to be
    trained on this run's own splits, which validation has checked. What the reward model before
    training knows is left out of splits of its own (UNSEEN). Raises BadInput when too few prompts
    are left.
    """
    models = _models(context.recipe, stage, have)
    taken = (*stage.takes, *stage.may_take)
    heldout = [name for name in taken if name.endswith("_heldout") and name in have]
    if not models or not heldout:
        return None
    own = {(name, have[name].digest) for name in have if name.endswith("_train")}
    check = HeldoutCheck(prompts={})
    trained = _training_prompts(context, models, own, check)
    if not check.unknown and not any(trained.values()):
        return None
    before = {name: trained.pop(name) for name in (BEFORE,) if name in trained}
    splits: Artifacts = {}
    for name in heldout:
        if kept := _kept(context, have[name], forbidden_prompts(trained, name), check, name):
            splits[name] = kept
            _require_enough(context.recipe, stage, name, check)
        rest, unseen = splits.get(name, have[name]), f"{name}{UNSEEN}"
        if kept := _kept(context, rest, forbidden_prompts(before, name), check, unseen):
            splits[unseen] = kept
    if not check.is_clean:
        log.warning("%s: %s.", stage.name, check.sentence)
    return Found(splits, check)


def _models(recipe: Recipe, stage: Stage, have: Artifacts) -> dict[str, Artifact]:
    """Return the models that the stage measures, compares or scores with, by input."""
    if not stage.heldout:
        return {}
    spec = spec_of(stage, recipe, have)
    inputs = spec.inputs if spec else {}
    models = {
        name: item
        for name, item in inputs.items()
        if name in TAKES_PART or (stage == EVALUATE and name.startswith("reward_"))
    }
    if stage not in (SFT, PREPARE) and "model" in inputs:
        models["sft"] = inputs["model"]
    return models


# by model: keys of training prompts by training split's name
TrainedPrompts = dict[str, dict[str, set[str]]]


def _training_prompts(
    context: Search, models: dict[str, Artifact], own: set[tuple[str, str]], check: HeldoutCheck
) -> TrainedPrompts:
    """Return the prompts that each model was trained on beside this run's own.

    Note in `check` whose training data are known, and why others are not.
    """
    origins = Origins(context.workspace, context.client)
    trained: TrainedPrompts = {}
    for name, model in models.items():
        trained[name], reasons, some = trained_prompts(origins, model.digest, own)
        if reasons:
            check.unknown[name] = brief_reasons(reasons)
        if reasons and some:
            check.known_in_part.append(name)
    check.known += sorted(set(models) - set(check.unknown))
    if origins.mlflow_error:
        context.is_behind(origins.mlflow_error)
    return trained


def _client(context: RunContext) -> "MlflowClient":
    """Return MLflow's client. Raises ConnectionError where MLflow failed a moment ago."""
    if problem := context.tracker.problem:
        raise ConnectionError(problem)
    return context.tracker.client


def trained_prompts(
    origins: Origins, model: str, own: Collection[tuple[str, str]] = ()
) -> tuple[dict[str, set[str]], list[str], bool]:
    """Return a model's training prompts by split, why some are not known, and if any split is.

    own: name and digest of splits to leave out.
    """
    data = origins.training_data(model)
    found: dict[str, set[str]] = {}
    reasons = list(data.unknown)
    for split, digest in sorted(data.splits - set(own)):
        prompts, why = origins.prompts(digest, model)
        if prompts is None:
            reasons += [f"its {split} {digest[:12]} {why[0]}", *why[1:]]
        else:
            found.setdefault(split, set()).update(prompts)
    return found, reasons, bool(found or data.splits & set(own))


def forbidden_prompts(trained: TrainedPrompts, heldout: str) -> dict[str, set[str]]:
    """Return by model the prompts that must not be in a held-out split of this kind.

    New comparisons may have prompts of demonstrations and rollouts (HELDOUT_FOR). A reward model
    that was trained on other labels of their prompts, before these were held out, is not measured
    on them: a model that is given, or that training goes on from.
    """
    kind = heldout.removesuffix("_heldout")
    return {
        model: set().union(
            *(
                keys
                for split, keys in splits.items()
                if kind in HELDOUT_FOR[split.removesuffix("_train")]
            )
        )
        for model, splits in trained.items()
    }


def _kept(
    context: Search, split: Artifact, trained: dict[str, set[str]], check: HeldoutCheck, name: str
) -> Artifact | None:
    """Return the split without leaked prompts, None without any; note the counts in `check`."""
    if not any(trained.values()):
        return None
    rows = load_split(split.path)
    prompts = prompt_keys(rows)
    check.prompts[name] = len(prompts)
    found = {model: len(prompts & keys) for model, keys in trained.items() if prompts & keys}
    if not found:
        return None
    leaked = prompts & set().union(*trained.values())
    check.left_out[name] = len(leaked)
    check.leaked_by_split[name] = found
    for model, count in found.items():
        check.leaked[model] = check.leaked.get(model, 0) + count
    kept = [row for row in rows if short_key(row["prompt"]) not in leaked]
    identity = digest_json([split.digest, sorted(leaked)])
    path = context.workspace.heldout / f"{name}-{identity[:12]}.jsonl"
    save_split(path, kept)
    return Artifact.of(path)


def _require_enough(recipe: Recipe, stage: Stage, split: str, check: HeldoutCheck) -> None:
    """Raise BadInput when fewer prompts are left than the gate, or the rules, ask for."""
    left = check.prompts[split] - check.left_out[split]
    least = max(_least(recipe, stage, split))
    if left < least:
        raise BadInput(
            f"{stage.name}: {check.sentence}; {left} are left, expected at least {least}. Give"
            " held-out rows that none of these models was trained on, or models that were trained"
            " with this data.split_seed."
        )


def _least(recipe: Recipe, stage: Stage, split: str) -> Iterator[int]:
    if split == NEW_HELDOUT:  # measured beside the others; it may be empty where no gate needs it
        yield 0 if recipe.reward.gate.min_new_accuracy is None else 1
        return
    yield recipe.data.rules.min_heldout
    if split == STAGES[stage.name].heldout:
        gate = getattr(recipe.section(stage.name), "gate", None)
        yield getattr(gate, "min_prompts", 0)
