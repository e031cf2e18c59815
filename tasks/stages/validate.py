"""validate: the user's files in, checked and digested splits out."""

from pathlib import Path

from rlhf_core import stage_catalogue
from rlhf_core.config import Recipe, Source
from rlhf_core.config.stage_configs import ValidateStageConfig
from rlhf_core.errors import BadInput
from rlhf_core.named_functions import READERS
from rlhf_core.preflight import needs_of
from rlhf_core.rundir import Artifact, StageSpec
from tasks.execution.stage_calls import ask
from tasks.stages import benchmarks
from tasks.stages.capacity import require_classifier, require_context, require_given, require_served
from tasks.stages.functions.source import source_of
from tasks.stages.spec import Artifacts, local, make_spec, model_folder, permitted, taken

PREPARED = "{prepared}"


def spec(recipe: Recipe, have: Artifacts) -> StageSpec[ValidateStageConfig]:
    """Return the spec.

    Local sources are inputs under their field's name, known by content, as are the task files of
    benchmarks; hub names stay in the config, each with its commit. Raises BadInput for what cannot
    be read, for rows that may be longer than the model's context, and for models that later stages
    cannot use; StageFailed when neither the hub nor its cache knows the commit.
    """
    inputs = taken(stage_catalogue.VALIDATE, have)
    hub: dict[str, Source] = {}
    for name, source in recipe.data.sources.items():
        key = recipe.data.key_of(name)
        if found := _source(key, source, have):
            inputs[name] = found
        else:
            hub[name] = source
        if source.reader:
            inputs[f"reader_{name}"] = reader_of(key, source)
    inputs |= benchmarks.folders(recipe.evaluate.benchmarks)
    sft = recipe.model.sft
    model = model_folder("model.sft", sft) if sft else have["base"].path
    require_context(recipe, model)
    require_classifier(recipe, model)
    require_served(recipe, model)
    require_given(recipe, model, have)
    at_commit = "rlhf_core.data.sources.hub:at_commit"
    commits = {name: ask(at_commit, recipe.data.key_of(name), one) for name, one in hub.items()}
    data = recipe.data.with_sources(commits)
    config = ValidateStageConfig(data=data, needs=needs_of(recipe))
    spec = make_spec(recipe, "validate", config, inputs)
    # nothing here is random but the choice of held-out prompts: runs over seeds share the splits
    return spec.model_copy(update={"seed": recipe.data.split_seed})


def reader_of(field: str, source: Source) -> Artifact:
    """Return the source file of the function that reads a source: once edited, it reads anew.

    Raises BadInput naming the key, also for a path that is no local one.
    """
    assert source.reader
    if not source.path.startswith(PREPARED) and local(field, source.path) is None:
        raise BadInput(
            f"{field} is {source.path!r}, which is no file or folder here, and its reader"
            f" {source.reader!r} reads local files alone. Correct the path."
        )
    return source_of(f"{field}.reader", source.reader, READERS)


def _source(field: str, source: Source, have: Artifacts) -> Artifact | None:
    if source.format == "hub":
        # a path of that name here would be read in the hub's place
        if Path(source.path).exists():
            permitted(field, Path(source.path))
        return None
    if not source.path.startswith(PREPARED):
        path = local(field, source.path)
        if path is None:
            return None
        _require_no_revision(field, source)
        return Artifact.of(path)
    _require_no_revision(field, source)
    if "files" not in have:
        raise BadInput(
            f"{field} is {source.path!r}, but model.base prepares no files; expected a path or a"
            f" hub name{_or_none(field)}."
        )
    prepared = have["files"].path
    path = prepared / source.path.removeprefix(PREPARED).lstrip("/")
    if not path.resolve().is_relative_to(prepared.resolve()):
        raise BadInput(
            f"{field} is {source.path!r}, which leads out of {PREPARED}; expected a file of the"
            " prepared folder."
        )
    return Artifact.of(path)


def _or_none(field: str) -> str:
    """Return how to do without an optional source; '' for a source that must be there."""
    if field.endswith(("prompts", "prompts_heldout")):
        return f", or --set {field}=none to take those of the comparisons, or of the feedback"
    return f", or --set {field}=none to split by hash" if field.endswith("_heldout") else ""


def _require_no_revision(field: str, source: Source) -> None:
    """Raise BadInput for a configuration or revision of a local source, which has neither."""
    for key in ("config", "revision"):
        if getattr(source, key):
            raise BadInput(
                f"{field} has the {key} {getattr(source, key)!r}, but {source.path!r} is a file or"
                f" folder here; expected a {key} with a hub data set alone. Remove it, or set"
                ' format = "hub".'
            )
