"""The rules about single rows: each returns the rows that break it, with the reason.

They are pure functions over tables. A row is quarantined by one rule at most, the first. Notes are
findings about rows that are kept.
"""

import sys
from collections.abc import Iterator
from functools import partial

from transformers import PreTrainedTokenizerBase

from rlhf_core.config import Data
from rlhf_core.data.columns import LABELLED
from rlhf_core.data.rows.split_rows import SplitRows
from rlhf_core.data.rows.texts import read_texts
from rlhf_core.data.splits import RESERVE, fold_of, is_new
from rlhf_core.data.splitting.groups import group_keys
from rlhf_core.data.splitting.new_labels import new_splits
from rlhf_core.data.table import Table, TableEntry


def apply_row_rules(table: Table, data: Data, tokenizer: PreTrainedTokenizerBase) -> Table:
    """Quarantine rows that the row rules refuse.

    In this order: rows that the chat template refuses, equal pairs, repeats, contradictions,
    scores against the label and overlong rows. With overlong = 'truncate_left' long prompts are
    shortened before. Shortened prompts, texts that spell special tokens and equal scores are noted.
    """
    rules = data.checked_rules
    table, texts = read_texts(table, data, tokenizer)
    table = table.quarantine("schema", texts.refused).note("special_tokens", texts.spelled)
    if rules.chosen_equals_rejected != "off":
        table = table.quarantine("chosen_equals_rejected", texts.equal)
    if rules.duplicates != "off":
        table = table.quarantine("duplicates", duplicates(table))
    if table.kind in LABELLED and rules.contradictions != "off":
        table = table.quarantine("contradictions", contradictions(table))
    if table.kind == "comparisons":
        if rules.score_contradictions != "off":
            found = {i: e.store.score_contradiction(e.place) for i, e in _kept(table)}
            table = table.quarantine("score_contradictions", _reasons(found))
        ties = {i: e.store.score_tie(e.place) for i, e in _kept(table)}
        table = table.note("equal_scores", _reasons(ties))
    if rules.length != "off":
        table = table.quarantine(
            "length", too_long(table, data.max_prompt_tokens, data.max_response_tokens)
        )
    return table


def _reasons(found: dict[int, str | None]) -> dict[int, str]:
    return {i: reason for i, reason in found.items() if reason is not None}


def _kept(table: Table) -> Iterator[tuple[int, TableEntry]]:
    return ((i, entry) for i, entry in enumerate(table.entries) if entry.rule is None)


def duplicates(table: Table) -> dict[int, str]:
    """Return the rows whose texts occurred earlier in the file."""
    first: dict[str, int] = {}
    found = {}
    for i, entry in _kept(table):
        line = first.setdefault(entry.id, entry.line)
        if line != entry.line:
            found[i] = f"the same texts as line {line}"
    return found


def contradictions(table: Table) -> dict[int, str]:
    """Return all rows of each pair, or of each reply, that is labelled both ways."""
    what = "pair" if table.kind == "comparisons" else "reply"
    pairs = {i: entry.store.pair(entry.place) for i, entry in _kept(table)}
    lines = {pair: table.entries[i].line for i, (pair, _) in pairs.items()}
    found = {}
    for i, (_, exchanged) in pairs.items():
        line = lines.get(exchanged)
        if line is not None and line != table.entries[i].line:
            found[i] = f"the same {what} as line {line}, labelled the other way"
    return found


def too_long(table: Table, max_prompt: int, max_response: int) -> dict[int, str]:
    """Return the rows over a limit in tokens."""
    found: dict[int, str] = {}
    for i, entry in _kept(table):
        for column, tokens in entry.tokens.items():
            limit, name = max_response, "max_response_tokens"
            if column == "prompt":
                limit, name = max_prompt, "max_prompt_tokens"
            if tokens > limit:
                found.setdefault(i, f"{column} has {tokens} tokens; {name} is {limit}")
    return found


def assign_splits(tables: dict[str, Table], data: Data) -> dict[str, Table]:
    """Return the tables with every kept row in a split.

    By its file if the user gave a held-out one, else by hash of its group (data.split_by). Folds
    before data.heldout_fold are training data by now. Those after it are kept in reserve, whichever
    file a row is of: '<source>_reserve' is no split of a stage. New comparisons are split by a hash
    of their own (new_labels.py). Raises BadInput for groups that cannot be split.
    """
    by_hash = [
        name
        for name in tables
        if not (name.endswith("_heldout") or f"{name}_heldout" in tables or is_new(name))
    ]
    of_new = new_splits(data)
    groups = group_keys([entry for name in by_hash for entry in tables[name].kept], data)

    def split_of(name: str, entry: TableEntry) -> str:
        if name.endswith("_heldout"):
            return name
        if is_new(name):
            return of_new(entry)
        key = entry.prompt_key
        own = key if data.split_by == "prompt" else entry.root_key
        fold = fold_of(
            groups.get(key, own),
            seed=data.split_seed,
            fraction=data.heldout_fraction,
            folds=data.heldout_folds,
        )
        if fold is not None and fold > data.heldout_fold:
            return sys.intern(f"{name}_{RESERVE}")
        is_heldout = fold == data.heldout_fold and name in by_hash
        return sys.intern(f"{name}_{'heldout' if is_heldout else 'train'}")

    return {name: table.assigned(partial(split_of, name)) for name, table in tables.items()}


def records_of(tables: dict[str, Table], split: str) -> SplitRows:
    """Return the kept records of a split, in the order of sources and rows."""
    return SplitRows(
        [entry for table in tables.values() for entry in table.kept if entry.split == split]
    )
