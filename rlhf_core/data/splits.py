"""The choice of held-out prompts, and the files of the splits."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlhf_core.config.data.section import NEW_COMPARISONS
from rlhf_core.data.rows.split_file import SplitFile
from rlhf_core.data.tool_use import Message, beside_text
from rlhf_core.digest import digest_json
from rlhf_core.rundir import write_atomically
from rlhf_core.stage_catalogue import SPLITS as SPLITS

SOURCES = (  # fields of a recipe's [data], and inputs of the validate stage
    "demonstrations",
    "demonstrations_heldout",
    "comparisons",
    "comparisons_heldout",
    "feedback",
    "feedback_heldout",
    "prompts",
    "prompts_heldout",
)

# kind of training rows -> kinds whose held-out prompts must not be among them, because the model
# trained on them is measured on those prompts. The held-out new comparisons measure the reward
# model, and not what is trained on demonstrations and prompts
HELDOUT_FOR: dict[str, tuple[str, ...]] = {
    "demonstrations": ("demonstrations", "comparisons", "feedback", "prompts"),
    "comparisons": ("comparisons", "feedback", "prompts", NEW_COMPARISONS),
    "feedback": ("comparisons", "feedback", "prompts", NEW_COMPARISONS),
    "prompts": ("comparisons", "feedback", "prompts"),
    NEW_COMPARISONS: ("comparisons", "feedback", "prompts", NEW_COMPARISONS),
}
_NEW_SOURCE = re.compile(rf"{NEW_COMPARISONS}_\d+")
RESERVE = "reserve"  # side of the rows that are set aside for later held-out folds
SHORT = 16  # hex digits of a short key
# the file of a validation that holds the keys of its training prompts, for later leak searches
TRAIN_PROMPTS = "train_prompts.json"


_LINE = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False)


def is_new(source: str) -> bool:
    """Return True for the name of a file of data.new_comparisons, as in reports and inputs."""
    return bool(_NEW_SOURCE.fullmatch(source))


def is_source(name: str) -> bool:
    """Return True for the name of a source of rows."""
    return name in SOURCES or is_new(name)


def sources_of(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sources in the JSON of a data section, by their names as in Data.sources."""
    found = {name: data[name] for name in SOURCES if isinstance(data.get(name), dict)}
    new = enumerate(data.get(NEW_COMPARISONS) or (), start=1)
    return found | {f"{NEW_COMPARISONS}_{number}": source for number, source in new}


def prompt_key(messages: list[Message]) -> str:
    """Return the identity of a prompt, sha256 in hex.

    It covers roles, texts, tools and tool calls; a run of white space counts as one blank.
    """
    parts = [[m["role"], " ".join(m["content"].split()), beside_text(m)] for m in messages]
    return digest_json([part if part[2] else part[:2] for part in parts])


def short_key(messages: list[Message]) -> str:
    """Return the beginning of a prompt's key: 64 bits tell the prompts of a data set apart."""
    return prompt_key(messages)[:SHORT]


def prompt_keys(records: Iterable[dict]) -> frozenset[str]:
    """Return the short keys of the records' prompts."""
    return frozenset(short_key(record["prompt"]) for record in records)


def first_user_turn(messages: list[Message]) -> list[Message]:
    """Return the root of a conversation as a prompt: its first user turn, all of it without one."""
    return [next((m for m in messages if m["role"] == "user"), messages[0])]


def root_key(messages: list[Message]) -> str:
    """Return the identity of a conversation's root; a prompt of one user turn is its own root."""
    return prompt_key(first_user_turn(messages))


def fold_of(key: str, *, seed: int, fraction: float, folds: int = 1) -> int | None:
    """Return the held-out fold of what the key stands for, from 1; None for what always trains.

    Fold k has the keys with (k - 1) * fraction <= sha256(seed, key) / 2^256 < k * fraction. key: of
    a prompt (prompt_key), a root (root_key) or a cluster. The result depends on nothing else, and
    more folds change no earlier one.
    """
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    value = int.from_bytes(digest[:8], "big")
    return next((n for n in range(1, folds + 1) if value < n * fraction * 2**64), None)


def prompt_record(messages: list[Message]) -> dict:
    """Return the record {"id", "prompt", "meta"} of a prompt alone."""
    return {"id": digest_json([messages])[:16], "prompt": messages, "meta": {}}


def unique_prompts(records: Iterable[dict]) -> list[dict]:
    """Return one record {"id", "prompt", "meta"} per different prompt, in order of appearance."""
    seen: dict[str, list[Message]] = {}
    for record in records:
        seen.setdefault(prompt_key(record["prompt"]), record["prompt"])
    return [prompt_record(messages) for messages in seen.values()]


def to_line(record: dict) -> str:
    """Return a record as its line in a split has it: JSON with sorted keys, no NaN."""
    return _LINE.encode(record)


def save_split(path: Path, records: Iterable[dict]) -> None:
    """Write records as JSON Lines, UTF-8, keys sorted: equal records give equal bytes.

    The file is written by rename, since several runs may write and read the same one.
    """
    save_lines(path, (to_line(record) for record in records))


def save_lines(path: Path, lines: Iterable[str]) -> None:
    """Write the lines of a split, or of another file of rows, as they come."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (f"{line}\n" for line in lines))


def load_split(path: Path) -> SplitFile:
    """Return the canonical records of a split file, which are read as they are asked for."""
    return SplitFile(path)
