"""The reward models of reward.start and reward.before, and checks before anything trains."""

from dataclasses import dataclass
from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.config.preference.reward import CHAMPIONS, FROM_SFT
from rlhf_core.errors import BadInput
from rlhf_core.modeling.requirements import read_config
from rlhf_core.rundir import ENSEMBLE, Artifact
from rlhf_core.stage_catalogue import NEW_HELDOUT, UNSEEN
from tasks.execution.stage_calls import ask
from tasks.stages.spec import Artifacts, model_folder

OF_CHAMPION = "reward_of_champion"  # the artifact that a key names by 'champion'
_MEASURED = ("comparisons_heldout", NEW_HELDOUT)  # the splits that measure the model before
# keys of config.json by which two models have the same shape, of whichever family
_SHAPE = (
    "model_type",
    "hidden_size",
    "n_embd",
    "d_model",
    "num_hidden_layers",
    "n_layer",
    "num_attention_heads",
    "n_head",
    "num_key_value_heads",
    "intermediate_size",
    "head_dim",
)


@dataclass(frozen=True)
class NamedModel:
    """A reward model that the recipe names: the stage's input 'start' or 'before'.

    artifact: None until its bytes are asked for.
    """

    name: str
    value: str
    folder: Path
    artifact: Artifact | None = None

    @property
    def said(self) -> str:
        """The key and what it names, as a message begins."""
        where = f" ({self.folder})" if self.value == CHAMPIONS else ""
        return f"reward.{self.name} is {self.value!r}{where}"

    @property
    def otherwise(self) -> str:
        """The setting without this model."""
        return f"reward.start = {FROM_SFT!r}" if self.name == "start" else "no reward.before"


def start_inputs(recipe: Recipe, have: Artifacts) -> Artifacts:
    """Return the models that the recipe names as inputs of the reward stage, 'start' and 'before'.

    One that is both is 'start' alone. With 'before' come the held-out splits without the prompts
    that it was trained on, where a search has found some.
    """
    assert OF_CHAMPION in have or CHAMPIONS not in _values(recipe).values(), "see models_brought"
    found = {
        one.name: one.artifact or Artifact.of(one.folder) for one in named_models(recipe, have)
    }
    if "before" not in found:
        return found
    if "start" in found and found["start"].digest == found["before"].digest:
        return {"start": found["start"]}
    unseen = [f"{split}{UNSEEN}" for split in _MEASURED]
    return found | {name: have[name] for name in unseen if name in have}


def named_models(recipe: Recipe, have: Artifacts) -> list[NamedModel]:
    """Return the reward models that the recipe names.

    Raises BadInput for a folder that holds no model, and where the champion's is not among `have`.
    """
    found = []
    for name, value in _values(recipe).items():
        if value != CHAMPIONS:
            found.append(NamedModel(name, value, model_folder(f"reward.{name}", value)))
        elif OF_CHAMPION in have:
            artifact = have[OF_CHAMPION]
            found.append(NamedModel(name, value, artifact.path, artifact))
    return found


def _values(recipe: Recipe) -> dict[str, str]:
    start, before = recipe.reward.start, recipe.reward.before
    values = {} if start == FROM_SFT else {"start": start}
    return values | ({"before": before} if before else {})


def require_start(recipe: Recipe, have: Artifacts) -> None:
    """Raise BadInput unless each named model is a reward model, and the start has as many members.

    The champion's is checked where it is among `have`.
    """
    for model in named_models(recipe, have):
        labels = len(read_config(model.folder).get("id2label") or {})
        if labels != 1:
            raise BadInput(
                f"{model.said}, which is no reward model: its config.json names {labels} labels,"
                f" expected one. Give the model of a finished reward stage, or {model.otherwise}."
            )
        members = _members(model.folder)
        if model.name == "start" and members != recipe.reward.ensemble:
            raise BadInput(
                f"{model.said}, which has {members} {'member' if members == 1 else 'members'}, but"
                f" reward.ensemble is {recipe.reward.ensemble}; expected the same number, because"
                f" each member goes on from its own. Set reward.ensemble = {members}, or"
                f" {model.otherwise}."
            )


def _members(folder: Path) -> int:
    if not (folder / ENSEMBLE).exists():
        return 1
    return len(ask("rlhf_core.modeling.ensemble:offsets_of", folder))


def require_same_base(recipe: Recipe, model: Path, have: Artifacts) -> None:
    """Raise BadInput unless each named model has shape and tokenizer of `model`.

    model: the folder that the SFT model starts from, or the given SFT model.
    """
    for named in named_models(recipe, have):
        ours, theirs = _shape(named.folder), _shape(model)
        remedy = (
            f"Give a reward model that was trained from the same base model, or {named.otherwise}."
        )
        if ours != theirs:
            raise BadInput(
                f"{named.said}, a model of another shape than {model}: it has"
                f" {_described(ours, theirs)}, expected {_described(theirs, ours)}. {remedy}"
            )
        if not ask("rlhf_core.inspection.given:folders_read_the_same", named.folder, model):
            raise BadInput(
                f"{named.said}, which has another tokenizer or chat template than {model}; expected"
                f" the same. {remedy}"
            )


def _shape(folder: Path) -> dict[str, object]:
    config = read_config(folder)
    text = config.get("text_config") or config
    return {key: text[key] for key in _SHAPE if text.get(key) is not None}


def _described(shape: dict[str, object], other: dict[str, object]) -> str:
    """Return the values of one shape that the other has not."""
    keys = [key for key in _SHAPE if shape.get(key) != other.get(key)]
    return ", ".join(f"{key} {shape.get(key, 'none')}" for key in keys)
