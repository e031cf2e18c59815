"""The rules about held-out prompts in training rows: the same prompt, and a near duplicate."""

from dataclasses import dataclass
from typing import Literal

from rlhf_core.config import Data, Rules
from rlhf_core.data.splits import HELDOUT_FOR, prompt_key
from rlhf_core.data.splitting.groups import texts_of
from rlhf_core.data.splitting.near_duplicates import near_duplicates
from rlhf_core.data.table import Table

EXAMPLES = 20  # of near duplicates in the report, per source
_SHOWN = 200  # letters of a text in an example


@dataclass(frozen=True)
class NearDuplicate:
    """A training row whose prompt, or its first user turn, nearly repeats a held-out one.

    similarity: the Jaccard similarity of their runs of three words.
    """

    source: str
    line: int
    heldout_source: str
    heldout_line: int
    similarity: float
    text: str
    heldout_text: str

    @property
    def reason(self) -> str:
        """The finding in words."""
        return (
            f"{self.text[:80]!r} is nearly {self.heldout_text[:80]!r} of {self.heldout_source} line"
            f" {self.heldout_line} (similarity {self.similarity:.2f})"
        )


def quarantine_leaks(tables: dict[str, Table], rules: Rules) -> dict[str, Table]:
    """Quarantine training rows whose prompt is in a held-out split.

    Rows that were split by hash have no such prompt.
    """
    if rules.leakage == "off":
        return tables
    heldout: dict[str, dict[str, str]] = {kind: {} for kind in HELDOUT_FOR}
    for table in tables.values():
        for entry in table.kept:
            if entry.is_in("heldout"):
                where = f"{table.name} line {entry.line}"
                heldout[table.kind].setdefault(prompt_key(entry.canonical["prompt"]), where)
    return {
        name: table.quarantine("leakage", _leaks(table, heldout)) for name, table in tables.items()
    }


def _leaks(table: Table, heldout: dict[str, dict[str, str]]) -> dict[int, str]:
    found = {}
    for i, entry in enumerate(table.entries):
        if entry.rule is not None or not entry.is_in("train"):
            continue
        key = prompt_key(entry.canonical["prompt"])
        where = next(
            (heldout[kind][key] for kind in HELDOUT_FOR[table.kind] if key in heldout[kind]), None
        )
        if where:
            found[i] = f"the prompt is held out in {where}"
    return found


def note_near_duplicates(
    tables: dict[str, Table], data: Data
) -> tuple[dict[str, Table], list[NearDuplicate]]:
    """Note training rows whose prompt is a near duplicate of a held-out one, and return examples.

    A row is noted once. Two prompts are near duplicates if their texts or their first user turns
    are. Which held-out prompts count for which rows: HELDOUT_FOR.
    """
    if data.rules.near_duplicates == "off":
        return tables, []
    heldout = _rows_by_text(tables, "heldout")
    train = _rows_by_text(tables, "train")
    texts, references = list(train), list(heldout)
    found: dict[str, dict[int, NearDuplicate]] = {name: {} for name in tables}
    for i, j, similarity in near_duplicates(texts, references, data.near_duplicate_similarity):
        for name, place in train[texts[i]]:
            wanted = HELDOUT_FOR[tables[name].kind]
            match = next(
                (at for at in heldout[references[j]] if tables[at[0]].kind in wanted), None
            )
            if match and place not in found[name]:
                found[name][place] = NearDuplicate(
                    name,
                    tables[name].entries[place].line,
                    match[0],
                    tables[match[0]].entries[match[1]].line,
                    similarity,
                    texts[i][:_SHOWN],
                    references[j][:_SHOWN],
                )
    noted = {
        name: table.note("near_duplicates", {i: one.reason for i, one in found[name].items()})
        for name, table in tables.items()
    }
    return noted, [one for rows in found.values() for one in list(rows.values())[:EXAMPLES]]


def _rows_by_text(
    tables: dict[str, Table], side: Literal["train", "heldout"]
) -> dict[str, list[tuple[str, int]]]:
    """Return the sources and positions of one side's kept rows, by each text of their prompts."""
    found: dict[str, list[tuple[str, int]]] = {}
    for name, table in tables.items():
        for place, entry in enumerate(table.entries):
            if entry.rule is None and entry.is_in(side):
                for text in texts_of(entry.canonical["prompt"]):
                    found.setdefault(text, []).append((name, place))
    return found
