"""The rules about held-out prompts in training rows: the same prompt, and a near duplicate."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Literal

from rlhf_core.config import Data, Rules
from rlhf_core.config.data.section import NEW_COMPARISONS
from rlhf_core.data.rows.store import BATCH
from rlhf_core.data.splits import HELDOUT_FOR
from rlhf_core.data.splitting.groups import texts_of
from rlhf_core.data.splitting.near_duplicates import ReferenceTexts
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
    """Quarantine training rows, and new comparisons, whose prompt is in a held-out split.

    Rows that were split by hash have no such prompt, new comparisons may have one. Their own
    held-out prompts leave other rows out: see new_labels.py.
    """
    if rules.leakage == "off":
        return tables
    heldout: dict[str, dict[str, str]] = {kind: {} for kind in HELDOUT_FOR}
    for table in tables.values():
        for entry in table.kept:
            if entry.is_in("heldout") and table.split_kind != NEW_COMPARISONS:
                where = f"{table.name} line {entry.line}"
                heldout[table.kind].setdefault(entry.prompt_key, where)
    return {
        name: table.quarantine("leakage", _leaks(table, heldout)) for name, table in tables.items()
    }


def _leaks(table: Table, heldout: dict[str, dict[str, str]]) -> dict[int, str]:
    found = {}
    kinds, is_new = HELDOUT_FOR[table.split_kind], table.split_kind == NEW_COMPARISONS
    for i, entry in enumerate(table.entries):
        measures = is_new and entry.is_in("heldout")
        if entry.rule is not None or not (entry.is_in("train") or measures):
            continue
        key = entry.prompt_key
        where = next((heldout[kind][key] for kind in kinds if key in heldout[kind]), None)
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
    heldout = _rows_by_text(tables)
    references = ReferenceTexts(heldout, data.near_duplicate_similarity)
    places = list(heldout.values())
    found: dict[str, dict[int, NearDuplicate]] = {name: {} for name in tables}
    for text, rows, matches in _matches(tables, references):
        for name, place in rows:
            wanted = HELDOUT_FOR[tables[name].split_kind]
            near = (
                (at, j, similarity)
                for j, similarity in matches
                for at in places[j]
                if tables[at[0]].split_kind in wanted
            )
            if place not in found[name] and (match := next(near, None)):
                (source, heldout_place), j, similarity = match
                found[name][place] = NearDuplicate(
                    name,
                    tables[name].entries[place].line,
                    source,
                    tables[source].entries[heldout_place].line,
                    similarity,
                    text[:_SHOWN],
                    references.texts[j][:_SHOWN],
                )
    noted = {
        name: table.note("near_duplicates", {i: one.reason for i, one in found[name].items()})
        for name, table in tables.items()
    }
    return noted, [one for rows in found.values() for one in list(rows.values())[:EXAMPLES]]


_Row = tuple[str, int]  # source, position


def _texts(
    tables: dict[str, Table], side: Literal["train", "heldout"]
) -> Iterator[tuple[_Row, str]]:
    """Yield each text of the prompts of one side's kept rows."""
    for name, table in tables.items():
        for place, entry in enumerate(table.entries):
            if entry.rule is None and entry.is_in(side):
                for text in texts_of(entry.canonical["prompt"]):
                    yield (name, place), text


def _rows_by_text(tables: dict[str, Table]) -> dict[str, list[_Row]]:
    """Return the held-out rows by each text of their prompts."""
    found: dict[str, list[_Row]] = {}
    for row, text in _texts(tables, "heldout"):
        found.setdefault(text, []).append(row)
    return found


def _matches(
    tables: dict[str, Table], references: ReferenceTexts
) -> Iterator[tuple[str, list[_Row], list[tuple[int, float]]]]:
    """Yield each training text that has near duplicates, in order of appearance.

    With it come its rows, and its near duplicates among the references with their similarity. Of
    the other texts only digests are kept in memory.
    """
    if not references.texts:
        return
    near: dict[str, tuple[list[_Row], list[tuple[int, float]]]] = {}
    far: set[bytes] = set()
    texts = _texts(tables, "train")
    while batch := list(islice(texts, BATCH)):
        rows: dict[str, list[_Row]] = {}
        for row, text in batch:
            if text in near:
                near[text][0].append(row)
            elif _digest(text) not in far:
                rows.setdefault(text, []).append(row)
        new = list(rows)
        matched: dict[str, list[tuple[int, float]]] = {}
        for i, j, similarity in references.near(new):
            matched.setdefault(new[i], []).append((j, similarity))
        near |= {text: (rows[text], matches) for text, matches in matched.items()}
        far |= {_digest(text) for text in new if text not in matched}
    yield from ((text, *found) for text, found in near.items())


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
