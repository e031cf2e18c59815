"""The rules about single rows: each finds rows and says why. Pure functions over tables; a row
breaks one rule, the first.
"""

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from rlhf_core.config import Data, Rules
from rlhf_core.data.render import count_tokens, prompt_text
from rlhf_core.data.splits import is_heldout, prompt_key
from rlhf_core.data.table import Table, TableEntry
from rlhf_core.errors import BadInput

ANSWERS = ("response", "chosen", "rejected")
HELDOUT_FOR = {
    "demonstrations": ("demonstrations", "comparisons", "prompts"),
    "comparisons": ("comparisons", "prompts"),
    "prompts": ("comparisons", "prompts"),
}
"""Whose held-out prompts may not be in the training rows of a kind: those its model is measured on."""


def apply_row_rules(table: Table, data: Data, tokenizer: PreTrainedTokenizerBase) -> Table:
    """Quarantine rows whose template fails, equal pairs, repeats, contradictions and overlong rows,
    in this order.
    """
    rules = data.rules
    table = with_token_counts(table, tokenizer)
    if table.kind == "comparisons" and rules.chosen_equals_rejected != "off":
        table = table.quarantine("chosen_equals_rejected", equal_pairs(table))
    if rules.duplicates != "off":
        table = table.quarantine("duplicates", duplicates(table))
    if table.kind == "comparisons" and rules.contradictions != "off":
        table = table.quarantine("contradictions", contradictions(table))
    if rules.length != "off":
        table = table.quarantine(
            "length", too_long(table, data.max_prompt_tokens, data.max_response_tokens)
        )
    return table


def with_token_counts(table: Table, tokenizer: PreTrainedTokenizerBase) -> Table:
    """Count tokens: prompts with the chat template, answers with EOS. Prompts the template refuses
    break 'schema'.
    """
    texts, refused = {}, {}
    for i, entry in enumerate(table.entries):
        if entry.rule is None:
            try:
                texts[i] = prompt_text(tokenizer, entry.record["prompt"])
            except BadInput as error:
                refused[i] = str(error)
    table = table.quarantine("schema", refused)
    tokens: dict[int, dict[str, int]] = {i: {} for i in texts}
    _count(tokenizer, tokens, "prompt", texts, extra=0)
    for column in ANSWERS:
        answers = {
            i: table.entries[i].record[column] for i in texts if column in table.entries[i].record
        }
        _count(tokenizer, tokens, column, answers, extra=1)  # EOS
    return table.with_entries(
        replace(entry, tokens=tokens.get(i, {})) for i, entry in enumerate(table.entries)
    )


def _count(
    tokenizer, tokens: dict[int, dict[str, int]], column: str, texts: dict[int, str], *, extra: int
) -> None:
    for i, count in zip(texts, count_tokens(tokenizer, texts.values()), strict=True):
        tokens[i][column] = count + extra


def _kept(table: Table) -> list[tuple[int, TableEntry]]:
    return [(i, entry) for i, entry in enumerate(table.entries) if entry.rule is None]


def equal_pairs(table: Table) -> dict[int, str]:
    """Pairs whose answers are the same text, white space at the ends aside."""
    return {
        i: "chosen and rejected are the same text"
        for i, entry in _kept(table)
        if entry.record["chosen"].strip() == entry.record["rejected"].strip()
    }


def duplicates(table: Table) -> dict[int, str]:
    """Rows whose texts stood in the file before."""
    first: dict[str, int] = {}
    found = {}
    for i, entry in _kept(table):
        line = first.setdefault(entry.record["id"], entry.line)
        if line != entry.line:
            found[i] = f"the same texts as line {line}"
    return found


def contradictions(table: Table) -> dict[int, str]:
    """Pairs that are also there with chosen and rejected exchanged; both are found."""
    lines = {_pair(entry.record, "chosen", "rejected"): entry.line for _, entry in _kept(table)}
    found = {}
    for i, entry in _kept(table):
        line = lines.get(_pair(entry.record, "rejected", "chosen"))
        if line is not None and line != entry.line:
            found[i] = f"the same pair as line {line}, labelled the other way"
    return found


def _pair(record: dict, first: str, second: str) -> tuple[str, str, str]:
    return prompt_key(record["prompt"]), record[first].strip(), record[second].strip()


def too_long(table: Table, max_prompt: int, max_response: int) -> dict[int, str]:
    """Rows over a limit in tokens."""
    found = {}
    for i, entry in _kept(table):
        for column, tokens in entry.tokens.items():
            limit, name = (
                (max_prompt, "max_prompt_tokens")
                if column == "prompt"
                else (max_response, "max_response_tokens")
            )
            if tokens > limit:
                found.setdefault(i, f"{column} has {tokens} tokens; {name} is {limit}")
    return found


def assign_splits(tables: dict[str, Table], data: Data, seed: int) -> dict[str, Table]:
    """Put every kept row into a split: by its file when the user gave a held-out one, else by hash
    of its prompt.
    """

    def split_of(entry: TableEntry, kind: str) -> str:
        side = is_heldout(entry.record["prompt"], seed=seed, fraction=data.heldout_fraction)
        return f"{kind}_{'heldout' if side else 'train'}"

    assigned = {}
    for name, table in tables.items():
        if name.endswith("_heldout"):
            assigned[name] = table.assigned(lambda _, name=name: name)
        elif f"{name}_heldout" in tables:
            assigned[name] = table.assigned(lambda _, name=name: f"{name}_train")
        else:
            assigned[name] = table.assigned(lambda entry, name=name: split_of(entry, name))
    return assigned


def quarantine_leaks(tables: dict[str, Table], rules: Rules) -> dict[str, Table]:
    """Quarantine training rows whose prompt is in a held-out split; for rows split by hash there
    are none.
    """
    if rules.leakage == "off":
        return tables
    heldout: dict[str, dict[str, str]] = {kind: {} for kind in HELDOUT_FOR}
    for table in tables.values():
        for entry in table.kept:
            if entry.split.endswith("_heldout"):
                where = f"{table.name} line {entry.line}"
                heldout[table.kind].setdefault(prompt_key(entry.record["prompt"]), where)
    return {
        name: table.quarantine("leakage", _leaks(table, heldout)) for name, table in tables.items()
    }


def _leaks(table: Table, heldout: dict[str, dict[str, str]]) -> dict[int, str]:
    found = {}
    for i, entry in _kept(table):
        if not entry.split.endswith("_train"):
            continue
        key = prompt_key(entry.record["prompt"])
        where = next(
            (heldout[kind][key] for kind in HELDOUT_FOR[table.kind] if key in heldout[kind]), None
        )
        if where:
            found[i] = f"the prompt is held out in {where}"
    return found


def records_of(tables: dict[str, Table], split: str) -> list[dict]:
    """The kept records of a split, in the order of sources and rows."""
    return [
        entry.record for table in tables.values() for entry in table.kept if entry.split == split
    ]
