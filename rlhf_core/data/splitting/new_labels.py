"""Later labels beside the comparisons: their held-out prompts, and pairs that are labelled again.

The prompts of new pairs are mostly training prompts, because the policy's replies to these are
labelled. A hash of their own therefore chooses the held-out ones among them. It depends on nothing
but data.split_seed and the prompt (its first user turn where data.split_by is 'root' or 'cluster'),
so that a prompt stays on its side in every later round. A cluster grows with each round, and has no
side that stays: its training rows give way once one of its new pairs is held out.
"""

from collections.abc import Callable

from rlhf_core.config import Data
from rlhf_core.config.data.section import NEW_COMPARISONS
from rlhf_core.data.splits import HELDOUT_FOR, RESERVE, fold_of, is_new
from rlhf_core.data.splitting.groups import groups_of_any_size
from rlhf_core.data.table import Table, TableEntry
from rlhf_core.stage_catalogue import NEW_HELDOUT, NEW_TRAIN

# rules of rows that are right, and give way to new labels: no row is lost by them
NEW_HELDOUT_RULE, RELABELLED_RULE = GIVES_WAY = ("heldout_with_new", "relabelled")


def new_splits(data: Data) -> Callable[[TableEntry], str]:
    """Return the function that gives the split of a new pair.

    A prompt of a later held-out fold is in reserve, as in the other sources. Of the rest a share of
    data.heldout_fraction is held out, by prompt, or by root (data.split_by 'root' and 'cluster').
    """
    seed, fraction = data.split_seed, data.heldout_fraction

    def split_of(entry: TableEntry) -> str:
        key = entry.prompt_key if data.split_by == "prompt" else entry.root_key
        fold = fold_of(key, seed=seed, fraction=fraction, folds=data.heldout_folds)
        if fold is not None and fold > data.heldout_fold:
            return f"{NEW_COMPARISONS}_{RESERVE}"
        held_out = fold_of(f"new:{key}", seed=seed, fraction=fraction)
        return NEW_HELDOUT if held_out else NEW_TRAIN

    return split_of


def quarantine_heldout_with_new(tables: dict[str, Table], data: Data) -> dict[str, Table]:
    """Quarantine training rows of labels whose prompt is held out with the new comparisons.

    With data.split_by 'root' or 'cluster', those of the same conversation or cluster too.
    """
    heldout = [
        (f"{name} line {entry.line}", entry)
        for name, table in tables.items()
        for entry in (table.kept if is_new(name) else [])
        if entry.is_in("heldout")
    ]
    if not heldout:
        return tables
    training = [
        (name, i, entry)
        for name, table in tables.items()
        for i, entry in enumerate(table.entries)
        if NEW_COMPARISONS in HELDOUT_FOR[table.split_kind] and _trains(entry)
    ]
    entries = [entry for _, entry in heldout] + [entry for *_, entry in training]
    groups = groups_of_any_size(entries, data)
    by_prompt: dict[str, str] = {}
    by_group: dict[str, str] = {}
    for where, entry in heldout:
        by_prompt.setdefault(entry.prompt_key, where)
        by_group.setdefault(groups[entry.prompt_key], where)
    found: dict[str, dict[int, str]] = {name: {} for name in tables}
    for name, i, entry in training:
        key = entry.prompt_key
        if key in by_prompt:
            found[name][i] = f"the prompt is held out with {by_prompt[key]}"
        elif groups[key] in by_group:
            what = f"a prompt of its {data.split_by}"
            found[name][i] = f"{what} is held out with {by_group[groups[key]]}"
    return {name: table.quarantine(NEW_HELDOUT_RULE, found[name]) for name, table in tables.items()}


def quarantine_relabelled(tables: dict[str, Table]) -> dict[str, Table]:
    """Quarantine comparisons that a later file labels again, either way: the last label counts.

    The held-out set of data.comparisons stays as it is, because runs are compared on it.
    """
    names = [name for name in tables if name == "comparisons" or is_new(name)]
    if len(names) < 2 or not any(map(is_new, names)):
        return tables
    last: dict[bytes, tuple[int, bool, str]] = {}  # file, as its key says, where; by pair
    for number, name in enumerate(names):
        for entry in tables[name].kept if is_new(name) else []:
            if _is_used(name, entry):
                pair, forward = _pair_of(entry)
                last[pair] = (number, forward, f"{name} line {entry.line}")
    found: dict[str, dict[int, str]] = {name: {} for name in tables}
    for number, name in enumerate(names):
        for i, entry in enumerate(tables[name].entries):
            if not _is_used(name, entry):
                continue
            pair, forward = _pair_of(entry)
            latest, as_key, where = last.get(pair, (number, forward, ""))
            if latest > number:
                how = "the same way" if forward == as_key else "the other way"
                found[name][i] = f"labelled again in {where}, {how}"
    return {name: table.quarantine(RELABELLED_RULE, found[name]) for name, table in tables.items()}


def _trains(entry: TableEntry) -> bool:
    return entry.rule is None and entry.is_in("train")


def _is_used(name: str, entry: TableEntry) -> bool:
    return _trains(entry) or (is_new(name) and entry.rule is None and entry.is_in("heldout"))


def _pair_of(entry: TableEntry) -> tuple[bytes, bool]:
    """Return one key for both labels of a pair, and whether this label is the key's."""
    own, exchanged = entry.store.pair(entry.place)
    return min(own, exchanged), own <= exchanged
