"""Helpers of the stages' files: names of artifacts, checked paths, and the spec itself."""

import difflib
import os
import re
from pathlib import Path
from typing import TypedDict, TypeVar

from rlhf_core.buckets import is_address
from rlhf_core.config import Recipe
from rlhf_core.config.recipe import Dtype
from rlhf_core.config.stage_configs import StageConfig
from rlhf_core.data.sources.shards import COMPRESSED, FORMATS
from rlhf_core.digest import code_digest
from rlhf_core.errors import BadInput
from rlhf_core.modeling.pickles import pickle_files
from rlhf_core.patterns import fixed_folder, is_pattern, matching_files
from rlhf_core.rundir import Artifact, StageSpec
from rlhf_core.stage_catalogue import STAGES, Stage
from rlhf_core.template_date import folder_asks_for_date
from tasks.records.workspace import first_template_date, home_folder
from tasks.stages.stored.stored_files import fetched

StageConfigT = TypeVar("StageConfigT", bound=StageConfig)
# by name: base, files, the splits, sft, reward, reward_adapter, policy, champion
Artifacts = dict[str, Artifact]

# folders, ':' between them; set for workers, whose recipes come from a page or a schedule
ROOTS = "RLHF_ALLOWED_ROOTS"
_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
_FILE_ENDINGS = {*FORMATS, *COMPRESSED, ".toml", ".gguf"}


class TrainedSettings(TypedDict):
    """The configuration that every stage which trains has."""

    ranks: int
    dtype: Dtype
    export_dtype: Dtype | None


class LanguageModelSettings(TrainedSettings):
    """The configuration that every stage which trains a language model has."""

    logits_mib: int


def taken(stage: Stage, have: Artifacts) -> Artifacts:
    """Return the inputs that the stage's entry names, from what earlier stages left."""
    optional = {name: have[name] for name in stage.may_take if name in have}
    return {name: have[artifact] for name, artifact in stage.takes.items()} | optional


def make_spec(
    recipe: Recipe, stage: str, config: StageConfigT, inputs: Artifacts
) -> StageSpec[StageConfigT]:
    """Return the spec of `stage`; `config` holds only what the stage depends on.

    The date that chat templates print is in it where a template of the inputs asks for one, and
    data.split_seed where held-out rows are drawn by another seed than the stage's.
    """
    measures = stage in STAGES and STAGES[stage].heldout
    if measures and recipe.data.split_seed != recipe.seed:
        config = config.model_copy(update={"split_seed": recipe.data.split_seed})
    if day := date_of_templates(recipe, [item.path for item in inputs.values()]):
        config = config.model_copy(update={"template_date": day})
    return StageSpec(
        stage=stage, seed=recipe.seed, config=config, inputs=inputs, code=code_digest()
    )


def date_of_templates(recipe: Recipe, inputs: list[Path]) -> str | None:
    """Return the date that the chat templates in these folders print, YYYY-MM-DD.

    None where no template asks for one.
    """
    if not any(map(folder_asks_for_date, inputs)):
        return None
    return recipe.model.template_date or first_template_date(home_folder())


def trained(recipe: Recipe) -> TrainedSettings:
    """Return the configuration of every stage that trains: ranks and number types."""
    return {
        "ranks": recipe.distributed.world_size,
        "dtype": recipe.model.dtype,
        "export_dtype": recipe.model.export_dtype,
    }


def trained_language_model(recipe: Recipe) -> LanguageModelSettings:
    """Return the configuration of every stage that trains a language model."""
    return {**trained(recipe), "logits_mib": recipe.model.logits_mib}


def local(field: str, text: str) -> Path | None:
    """Return the file, folder or pattern that `text` names, or None for a hub name.

    An address such as s3://bucket/*.jsonl is fetched into the workspace. A relative path starts at
    the current folder. Raises BadInput naming the field when it is
    neither, when its folder is here and it is not, and when it may not be read.
    """
    if is_address(text):
        return fetched(field, text)
    path = Path(text).expanduser()
    if is_there(field, path):
        return readable(field, permitted(field, path))
    if is_pattern(path):
        return _pattern(field, path)
    if looks_like_hub(text) and not path.parent.is_dir():
        return None
    hub = 'For the hub\'s data set of that name: {path = "...", format = "hub"}.'
    raise BadInput(
        f"{field} is {text!r}: no file or folder of that name in {Path.cwd()}{_similar(path)}, and"
        f" not a hub name (org/name). Correct the path in the recipe or with --set."
        + (f" {hub}" if looks_like_hub(text) else "")
    )


def _pattern(field: str, path: Path) -> Path:
    files = matching_files(path)
    if not files:
        folder = fixed_folder(path)
        if is_there(field, folder) and folder.is_dir():
            readable(field, permitted(field, folder))
        raise BadInput(
            f"{field} is {str(path)!r}: no file in {Path.cwd()} matches; expected a file, a folder,"
            " a pattern that matches at least one file, or a hub name. Correct it in the recipe or"
            " with --set."
        )
    for file in files:
        readable(field, permitted(field, file))
    return path


def is_there(field: str, path: Path) -> bool:
    """Return True when a file or folder is at `path`. Raises BadInput when it may not be seen."""
    try:
        return path.exists()
    except PermissionError:
        raise _unreadable(field, path) from None


def similar_names(path: Path) -> list[str]:
    """Return the paths beside `path` whose names are like its name, at most three."""
    try:
        beside = sorted(item.name for item in path.parent.iterdir())
    except OSError:
        return []
    same = [name for name in beside if name.partition(".")[0] == path.name]
    close = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.75)
    return [str(path.with_name(name)) for name in dict.fromkeys([*same, *close])][:3]


def _similar(path: Path) -> str:
    names = similar_names(path)
    return f" ({' and '.join(names)} {'are' if len(names) > 1 else 'is'} there)" if names else ""


def readable(field: str, path: Path) -> Path:
    """Return `path` when it and every file below it can be read.

    Raises BadInput naming the field for what may not be read, and for a pipe, socket or device.
    """
    if not path.is_file() and not path.is_dir():
        raise BadInput(
            f"{field} leads to {path}, which is a pipe, socket or device; expected a file or"
            " folder, because its bytes are read more than once. Write them to a file."
        )
    for item in [path, *(_below(field, path) if path.is_dir() else [])]:
        if not os.access(item, os.R_OK | (os.X_OK if item.is_dir() else 0), effective_ids=True):
            raise _unreadable(field, item)
    return path


def _below(field: str, path: Path) -> list[Path]:
    refused: list[OSError] = []
    items = [
        Path(folder, name)
        for folder, folders, files in os.walk(path, onerror=refused.append)
        for name in [*folders, *files]
        if not name.startswith(".")
    ]
    if refused:
        raise _unreadable(field, Path(refused[0].filename))
    return [item for item in items if item.is_file() or item.is_dir()]


def _unreadable(field: str, path: Path) -> BadInput:
    return BadInput(
        f"{field} leads to {path}, which user {os.geteuid()} may not read; expected a file or"
        f" folder that can be read. Have its owner run `chmod -R a+rX` on it, or copy it."
    )


def permitted(field: str, path: Path, *further: Path) -> Path:
    """Return `path`, which a recipe names, when it may be read.

    further: folders that are allowed as well. Raises BadInput when RLHF_ALLOWED_ROOTS is set and
    `path`, links followed, is outside.
    """
    roots = [Path(root).expanduser() for root in os.environ.get(ROOTS, "").split(":") if root]
    if roots and not any(
        path.resolve().is_relative_to(root.resolve()) for root in [*roots, *further]
    ):
        raise BadInput(
            f"{field} leads to {path.resolve()}, outside {', '.join(map(str, roots))}. Put the"
            " files below one of them, or have whoever runs the worker allow more:"
            f" {ROOTS}=FOLDER:FOLDER (rlhf down, then rlhf up with it).",
            code="RLHF-R002",
        )
    return path


def looks_like_hub(text: str) -> bool:
    """Return True when `text` can only be a hub name: 'org/name' without a file's ending."""
    return (
        "/" in text
        and bool(_HUB_NAME.match(text))
        and Path(text).suffix not in _FILE_ENDINGS
        and text[0] != "."
    )


def model_folder(field: str, text: str) -> Path:
    """Return the model folder that `text` names, fetched if that is an address.

    Raises BadInput naming the field otherwise.
    """
    stored = is_address(text)
    path = fetched(field, text) if stored else permitted(field, Path(text).expanduser())
    if not is_there(field, path) or not path.is_dir():
        raise BadInput(
            f"{field} is {text!r}: no such folder in {Path.cwd()}{_similar(path)}; expected a"
            " folder with a saved model."
        )
    readable(field, path)
    missing = [
        name for name in ("config.json", "tokenizer*", "*.safetensors") if not list(path.glob(name))
    ]
    if missing:
        raise BadInput(
            f"{field} is {text!r}, which holds no {' and no '.join(missing)}; expected a folder"
            " written by save_pretrained (model and tokenizer). Pickled weights (*.bin, *.pt) are"
            " never loaded."
        )
    if pickles := pickle_files(path):
        raise BadInput(
            f"{field} is {text!r}, which holds pickles ({', '.join(pickles)}); remove them,"
            " safetensors are enough."
        )
    return path
