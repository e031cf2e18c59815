"""Data sets of the Hugging Face hub: the commit that a revision names, and the rows at a commit."""

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_core.config import Source
from rlhf_core.data.splits import sources_of
from rlhf_core.errors import BadInput, StageFailed

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SECONDS = 30.0


def is_commit(revision: str | None) -> bool:
    """Return True for the full hash of a commit, which names the same rows for ever."""
    return bool(revision and _COMMIT.fullmatch(revision))


def hub_sources(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the hub data sets, by source, in the JSON of a validate stage's configuration.

    Those without a commit, which older runs have, are left out.
    """
    return {
        name: source
        for name, source in sources_of(config.get("data") or {}).items()
        if is_commit(source.get("revision"))
    }


def at_commit(name: str, source: Source) -> Source:
    """Return the source with its revision (a branch, a tag or none) replaced by the commit.

    Without the hub it is the commit in the local cache. Raises BadInput for a data set or revision
    that the hub does not have, StageFailed when neither the hub nor the cache knows the commit.
    """
    if is_commit(source.revision):
        return source
    from huggingface_hub import HfApi, errors

    try:
        if is_offline():
            raise errors.OfflineModeIsEnabled("offline mode is enabled")
        commit = HfApi().dataset_info(source.path, revision=source.revision, timeout=_SECONDS).sha
        _note_commit(source)
    except errors.RevisionNotFoundError:
        raise BadInput(
            f"{name}: the hub's data set {source.path!r} has no revision {source.revision!r};"
            " expected a branch, a tag or the full hash of a commit. Correct the recipe's revision."
        ) from None
    except errors.RepositoryNotFoundError:  # also for one that is private or gated
        raise BadInput(
            f"{name}: {source.path!r} is no file or folder here, and the hub has no such data set"
            " that this account may read; expected an existing path or 'owner/name'. Correct the"
            " recipe, or set HF_TOKEN for a private or gated one."
        ) from None
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        response = getattr(error, "response", None)
        if response is not None and response.status_code >= 500:
            raise _unreachable(name, source, error) from error
        raise _unusable(name, source, error) from error
    except Exception as error:  # no network, or offline mode: httpx and the hub have a dozen kinds
        commit = _cached_commit(source)
        if commit is None:
            raise _unreachable(name, source, error) from error
    return source.model_copy(update={"revision": commit})


def _note_commit(source: Source) -> None:
    """Have the local cache note the commit of the revision, for a later run without the hub."""
    from huggingface_hub import HfApi

    with contextlib.suppress(Exception):  # without the note, a later run takes the newest rows
        HfApi().hf_hub_download(
            source.path, "README.md", repo_type="dataset", revision=source.revision
        )


def load_hub(name: str, source: Source) -> "Dataset":
    """Return the rows of a hub data set, at its revision.

    Raises BadInput for what does not load: the configuration, the split, the files; StageFailed
    when the hub cannot be reached.
    """
    from datasets import Dataset

    try:
        builder = _builder(name, source)
        builder.download_and_prepare()
        found = builder.as_dataset(split=source.split)
    except (BadInput, StageFailed):
        raise
    except ConnectionError as error:
        raise _unreachable(name, source, error) from error
    except Exception as error:  # not found, gated, broken: datasets has a dozen kinds
        raise _unusable(name, source, error) from error
    assert isinstance(found, Dataset), f"split {source.split!r} gave {type(found).__name__}"
    return found


def _builder(name: str, source: Source) -> "DatasetBuilder":
    from datasets import load_dataset_builder

    if _is_cached(source):  # a commit's rows do not change; offline, asking again takes 25 s
        return _cached_builder(name, source)
    try:
        builder = load_dataset_builder(source.path, source.config, revision=source.revision)
    except ValueError as error:
        names = _configurations(source)
        if not names or source.config in names:
            raise
        wanted = repr(source.config) if source.config else "one of them"
        raise BadInput(
            f"{name}: the hub's data set {source.path!r} has the configurations {names}; expected"
            f' {wanted}. Name one: {{path = "{source.path}", config = "{names[0]}"}}.'
        ) from error
    if is_commit(source.revision) and builder.hash != source.revision:
        # without the hub, datasets takes the newest that it has
        return _cached_builder(name, source)
    return builder


def _is_cached(source: Source) -> bool:
    """Return True if the cache has the rows of this configuration at this very commit."""
    here = [folder for folder in _cached_folders(source) if folder.name == source.revision]
    if source.config is None and len(here) > 1:
        return False  # the hub says which of them is the default
    return (source.config or "default") in {folder.parts[-3] for folder in here}


def _configurations(source: Source) -> list[str]:
    from datasets import get_dataset_config_names

    cached = {folder.parent.parent.name for folder in _cached_folders(source)}
    if cached and is_offline():
        return sorted(cached)
    try:
        return get_dataset_config_names(source.path, revision=source.revision)
    except Exception:  # the error that led here says more
        return []


def is_offline() -> bool:
    """Return True where HF_HUB_OFFLINE or HF_DATASETS_OFFLINE forbids to ask the hub."""
    from huggingface_hub import constants

    own = os.environ.get("HF_DATASETS_OFFLINE", "").upper()  # as `datasets` reads it
    return constants.HF_HUB_OFFLINE or own in ("1", "ON", "YES", "TRUE")


def _cached_builder(name: str, source: Source) -> "DatasetBuilder":
    """Return the builder of the cached rows at the source's commit."""
    from datasets.packaged_modules.cache.cache import Cache

    folders = [
        folder
        for folder in _cached_folders(source)
        if source.config in (None, folder.parent.parent.name)
    ]
    here = [folder for folder in folders if folder.name == source.revision]
    if len(here) != 1:
        commits = sorted({folder.name[:12] for folder in folders})
        raise BadInput(
            f"{name}: the hub was not asked or did not answer, and the cache has {source.path!r} at"
            f" {', '.join(commits)}; expected {str(source.revision)[:12]}, with one configuration."
            " Load it once with the network, or correct the recipe's revision or config."
        )
    config, version, commit = here[0].parts[-3:]
    return Cache(
        repo_id=source.path,
        dataset_name=source.path.split("/")[-1],
        config_name=config,
        version=version,
        hash=commit,
    )


def _cached_folders(source: Source) -> list[Path]:
    """Return the folders configuration/version/commit of a data set, oldest first."""
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    *owner, own = source.path.split("/")
    root = Path(config.HF_DATASETS_CACHE) / "___".join([*owner, camelcase_to_snakecase(own)])
    folders = [folder for folder in root.glob("*/*/*") if is_commit(folder.name)]
    return sorted(folders, key=lambda folder: folder.stat().st_mtime)


def _cached_commit(source: Source) -> str | None:
    """Return the commit that a revision had when the hub was last asked.

    Without a revision, and without such a note, it is the newest whose rows are in the cache.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{source.path.replace('/', '--')}" / "refs"
    note = folder / (source.revision or "main")
    if note.is_file():
        return note.read_text(encoding="utf-8").strip()
    folders = [] if source.revision not in (None, "main") else _cached_folders(source)
    return folders[-1].name if folders else None


def _unreachable(name: str, source: Source, error: Exception) -> BadInput | StageFailed:
    if is_offline():
        return BadInput(
            f"{name}: {source.path!r} is no file or folder here, HF_HUB_OFFLINE or"
            " HF_DATASETS_OFFLINE forbids to ask the hub, and its cache does not have revision"
            f" {source.revision or 'main'!r}; expected a data set that was loaded before. Unset the"
            " variable, or correct the recipe."
        )
    return StageFailed(
        f"{name}: {source.path!r} is no file or folder here, and the hub could not be reached"
        f" for it: {error}"
    )


def _unusable(name: str, source: Source, error: Exception) -> BadInput:
    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.300}"
    return BadInput(
        f"{name}: {source.path!r} is neither a file here nor a hub data set that loads"
        f" ({reason}); expected an existing path or 'owner/name'."
        " Check the recipe's path, format, split, config and revision."
    )
