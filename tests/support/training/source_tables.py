"""Small sources of rows, as the validate stage has them after reading."""

from rlhf_core.config import Data
from rlhf_core.data.columns import RowKind
from rlhf_core.data.rows.store import MemoryStore
from rlhf_core.data.splits import is_new
from rlhf_core.data.table import Table, TableEntry
from rlhf_core.data.tool_use import Message


def user(text: str) -> list[Message]:
    """Return a prompt of one user turn."""
    return [{"role": "user", "content": text}]


def dialogue(*turns: str) -> list[Message]:
    """Return a prompt of several turns, the user's first."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]


def entry(line: int, prompt: str | list[Message], **texts: str) -> TableEntry:
    """Return a kept row."""
    messages = user(prompt) if isinstance(prompt, str) else prompt
    record = {"id": f"{prompt}|{texts}", "prompt": messages, **texts, "meta": {}}
    return TableEntry(line, MemoryStore(lambda: {"prompt": prompt, **texts}, record))


def pair(line: int, prompt: str | list[Message], chosen: str, rejected: str) -> TableEntry:
    """Return a kept comparison."""
    return entry(line, prompt, chosen=chosen, rejected=rejected)


def table(name: str, entries: list[TableEntry]) -> Table:
    """Return a source of these rows."""
    kinds: dict[str, RowKind] = {
        "demonstrations": "demonstrations",
        "comparisons": "comparisons",
        "prompts": "prompts",
    }
    kind = "comparisons" if is_new(name) else kinds[name.removesuffix("_heldout")]
    return Table(name, kind, f"{name}.jsonl", ("prompt",), list(entries))


def data(**values: object) -> Data:
    """Return the data section with these values."""
    return Data.model_validate({"demonstrations": "d", "comparisons": "c", **values})
