"""Formats by file name, and the files of a folder or pattern by format and split."""

import re
from pathlib import Path

from rlhf_core.errors import BadInput
from rlhf_core.patterns import fixed_folder, is_pattern, matching_files

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
# endings of files that hold no rows to read, and what to do with them
_CONVERT = {
    "a zip archive; unpack it": (".zip",),
    "a tar archive; unpack it": (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"),
    "an archive; unpack it": (".7z", ".rar"),
    "a workbook; save its sheet as CSV in UTF-8": (".xlsx", ".xls", ".xlsm", ".ods"),
    "a pickle, which may run code when it is read; write its rows as JSONL": (".pkl", ".pickle"),
    "a database; write its rows as JSONL or Parquet": (".db", ".sqlite", ".sqlite3", ".duckdb"),
}
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
_TEXT_FORMATS = ("jsonl", "json", "csv", "tsv")
# written beside the rows by `datasets` and by the hub
_NO_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
_SPLIT_NAME = re.compile(rf"(?:^|[-._/\d])({'|'.join(_SPLITS)})(?=$|[-._/\d])", re.I)


def format_of(path: Path) -> str | None:
    """Return the format that a file's name says, its compression aside; None for another name."""
    suffix = path.suffix.lower()
    if suffix not in COMPRESSED:
        return FORMATS.get(suffix)
    inner = FORMATS.get(path.with_suffix("").suffix.lower())
    return inner if inner in _TEXT_FORMATS else None


def unread_file(path: Path) -> str | None:
    """Return what a file is by its ending, and what to do with it; None for an unknown ending."""
    name = path.name.lower()
    return next((what for what, endings in _CONVERT.items() if name.endswith(endings)), None)


def is_saved_dataset(folder: Path) -> bool:
    """Return True for a folder that `datasets` saved, or one without a file of rows."""
    return (
        (folder / "dataset_dict.json").exists()
        or (folder / "state.json").exists()
        or not data_files(folder)
    )


def data_files(place: Path) -> list[Path]:
    """Return the files of rows below a folder, or that a pattern matches, in the order of paths.

    Hidden files are left out, and files whose name says no format.
    """
    folder = fixed_folder(place) if is_pattern(place) else place
    return sorted(
        file
        for file in (matching_files(place) if is_pattern(place) else folder.rglob("*"))
        if file.is_file()
        and format_of(file)
        and file.name not in _NO_ROWS
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def shards(name: str, place: Path, split: str, format_: str) -> tuple[str, list[Path]]:
    """Return the format and the files of one split of a folder or pattern.

    format_: "auto", or the format of the files to take. The split is a word in the path of a file
    below the folder, such as train-00000-of-00002.parquet or test/part.jsonl. Without any such word
    all files are the split 'train'. A pattern that matches one split only, such as
    'test-*.parquet', has chosen it.
    Raises BadInput for several formats, an absent split, and files in no split beside others that
    are in one.
    """
    files = [file for file in data_files(place) if format_ in ("auto", format_of(file))]
    if not files and is_pattern(place) and format_ != "auto":
        files = matching_files(place)  # their names say no format, the recipe does
    formats = {str(format_of(file) or format_) for file in files}
    if len(formats) != 1:
        raise BadInput(
            f"{name}: {place} holds files of {' and '.join(sorted(formats)) or 'no'} format;"
            ' expected one format. Name it: {path = "...", format = "jsonl"}.'
        )
    found = _by_split(name, place, files)
    wanted = _SPLITS.get(split.lower(), split)
    if is_pattern(place) and len(found) == 1 and wanted == "train":
        wanted = next(iter(found))
    if wanted not in found:
        raise BadInput(
            f"{name}: {place} has the splits {sorted(found)}; expected {split!r}. "
            'Name one: {path = "...", split = "..."}.'
        )
    return formats.pop(), found[wanted]


def _by_split(name: str, place: Path, files: list[Path]) -> dict[str, list[Path]]:
    folder = fixed_folder(place) if is_pattern(place) else place
    named: dict[str, list[Path]] = {}
    unnamed = []
    for file in files:
        if split := _split_of(file.relative_to(folder)):
            named.setdefault(split, []).append(file)
        else:
            unnamed.append(file)
    if unnamed and named:
        raise BadInput(
            f"{name}: {place} holds {unnamed[0].name}, which names no split, beside files of the"
            f" splits {sorted(named)}; expected train, validation or test in the name"
            " of every file. Move it away, or give the path of the file to read."
        )
    return named or {"train": unnamed}


def _split_of(path: Path) -> str | None:
    """Return the split in a relative path: that of the file's name, else of the nearest folder."""
    for part in reversed(path.parts):
        if words := _SPLIT_NAME.findall(part):
            return _SPLITS[words[0].lower()]
    return None
