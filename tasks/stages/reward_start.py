"""The reward model that training goes on from (reward.start): checks before anything trains."""

from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.config.training import FROM_SFT
from rlhf_core.errors import BadInput
from rlhf_core.modeling.requirements import read_config
from rlhf_core.rundir import ENSEMBLE, Artifact
from tasks.stages.spec import Artifacts, model_folder

KEY = "reward.start"
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


def start_folder(recipe: Recipe) -> Path | None:
    """Return the folder of the model to go on from; None for training anew.

    Raises BadInput for a folder that holds no model.
    """
    start = recipe.reward.start
    return None if start == FROM_SFT else model_folder(KEY, start)


def start_input(recipe: Recipe) -> Artifacts:
    """Return the model to go on from as the input 'start' of the reward stage, if there is one."""
    folder = start_folder(recipe)
    return {"start": Artifact.of(folder)} if folder else {}


def require_start(recipe: Recipe) -> None:
    """Raise BadInput unless the model to go on from is a reward model with as many members."""
    folder = start_folder(recipe)
    if folder is None:
        return
    labels = len(read_config(folder).get("id2label") or {})
    if labels != 1:
        raise BadInput(
            f"{KEY} is {recipe.reward.start!r}, which is no reward model: its config.json names"
            f" {labels} labels, expected one. Give the model of a finished reward stage, or"
            f" {KEY} = {FROM_SFT!r}."
        )
    members = _members(folder)
    if members != recipe.reward.ensemble:
        raise BadInput(
            f"{KEY} is {recipe.reward.start!r}, which has"
            f" {members} {'member' if members == 1 else 'members'}, but reward.ensemble is"
            f" {recipe.reward.ensemble}; expected the same number, because each member goes on"
            f" from its own. Set reward.ensemble = {members}, or {KEY} = {FROM_SFT!r}."
        )


def _members(folder: Path) -> int:
    if not (folder / ENSEMBLE).exists():
        return 1
    from rlhf_core.modeling.ensemble import offsets_of  # imports torch

    return len(offsets_of(folder))


def require_same_base(recipe: Recipe, model: Path) -> None:
    """Raise BadInput unless the model to go on from has shape and tokenizer of `model`.

    model: the folder that the SFT model starts from, or the given SFT model.
    """
    folder = start_folder(recipe)
    if folder is None:
        return
    ours, theirs = _shape(folder), _shape(model)
    if ours != theirs:
        raise BadInput(
            f"{KEY} is {recipe.reward.start!r}, a model of another shape than {model}: it has"
            f" {_named(ours, theirs)}, expected {_named(theirs, ours)}. Give a reward model that"
            f" was trained from the same base model, or {KEY} = {FROM_SFT!r}."
        )
    from rlhf_core.data.tokenizer import load_tokenizer
    from rlhf_core.modeling.reading import reads_the_same

    if not reads_the_same(load_tokenizer(folder), load_tokenizer(model)):
        raise BadInput(
            f"{KEY} is {recipe.reward.start!r}, which has another tokenizer or chat template than"
            f" {model}; expected the same. Give a reward model that was trained from the same base"
            f" model, or {KEY} = {FROM_SFT!r}."
        )


def _shape(folder: Path) -> dict[str, object]:
    config = read_config(folder)
    text = config.get("text_config") or config
    return {key: text[key] for key in _SHAPE if text.get(key) is not None}


def _named(shape: dict[str, object], other: dict[str, object]) -> str:
    """Return the values of one shape that the other has not."""
    keys = [key for key in _SHAPE if shape.get(key) != other.get(key)]
    return ", ".join(f"{key} {shape.get(key, 'none')}" for key in keys)
