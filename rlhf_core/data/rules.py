"""The rules about single rows: each returns the rows that break it, with the reason.

They are pure functions over tables. A row is quarantined by one rule at most, the first. Notes are
findings about rows that are kept.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from transformers import PreTrainedTokenizerBase

from rlhf_core.config import Data
from rlhf_core.data.chat_template import prompt_text
from rlhf_core.data.render import count_tokens, render_prompt, render_responses
from rlhf_core.data.special_tokens import special_texts, texts_in
from rlhf_core.data.splits import RESERVE, fold_of, prompt_key, root_key
from rlhf_core.data.splitting.groups import group_keys
from rlhf_core.data.table import Table, TableEntry
from rlhf_core.data.truncation import truncate_prompts
from rlhf_core.data.verdicts import score_contradiction, score_tie
from rlhf_core.errors import BadInput

ANSWERS = ("response", "chosen", "rejected")


def apply_row_rules(table: Table, data: Data, tokenizer: PreTrainedTokenizerBase) -> Table:
    """Quarantine rows that the row rules refuse.

    In this order: rows that the chat template refuses, equal pairs, repeats, contradictions,
    scores against the label and overlong rows. With overlong = 'truncate_left' long prompts are
    shortened before. Shortened prompts, texts that spell special tokens and equal scores are noted.
    """
    rules = data.checked_rules
    table = with_token_counts(table, tokenizer)
    if data.overlong == "truncate_left":
        table = truncate_prompts(table, data.max_prompt_tokens, tokenizer)
    table = table.note("special_tokens", spelled_tokens(table, tokenizer))
    if table.kind == "comparisons" and rules.chosen_equals_rejected != "off":
        table = table.quarantine("chosen_equals_rejected", equal_pairs(table))
    if rules.duplicates != "off":
        table = table.quarantine("duplicates", duplicates(table))
    if table.kind == "comparisons" and rules.contradictions != "off":
        table = table.quarantine("contradictions", contradictions(table))
    if table.kind == "comparisons":
        if rules.score_contradictions != "off":
            table = table.quarantine("score_contradictions", _by_row(table, score_contradiction))
        table = table.note("equal_scores", _by_row(table, score_tie))
    if rules.length != "off":
        table = table.quarantine(
            "length", too_long(table, data.max_prompt_tokens, data.max_response_tokens)
        )
    return table


def with_token_counts(table: Table, tokenizer: PreTrainedTokenizerBase) -> Table:
    """Return the table with token counts: prompts with the chat template, answers with EOS.

    Prompts that the template refuses break 'schema'.
    """
    texts: dict[int, str] = {}
    refused: dict[int, str] = {}
    for i, entry in _kept(table):
        try:
            texts[i] = prompt_text(tokenizer, entry.canonical["prompt"])
        except BadInput as error:
            refused[i] = str(error)
    table = table.quarantine("schema", refused)
    records = {i: table.entries[i].canonical for i in texts}
    tokens = {i: {"prompt": count} for i, count in _prompt_counts(tokenizer, records, texts)}
    for column in ANSWERS:
        answers = {i: record[column] for i, record in records.items() if column in record}
        rendered = render_responses(tokenizer, answers.values())
        for i, ids in zip(answers, rendered, strict=True):
            tokens[i][column] = len(ids)
    return table.with_entries(
        replace(entry, tokens=tokens.get(i, {})) for i, entry in enumerate(table.entries)
    )


def _prompt_counts(
    tokenizer: PreTrainedTokenizerBase, records: dict[int, dict], texts: dict[int, str]
) -> Iterator[tuple[int, int]]:
    """Yield number and tokens of each prompt; texts: the prompts as the template has them."""
    whole = {i: text for i, text in texts.items() if _is_encoded_whole(tokenizer, records[i])}
    yield from zip(whole, count_tokens(tokenizer, whole.values()), strict=True)
    for i in texts.keys() - whole.keys():
        yield i, len(render_prompt(tokenizer, records[i]["prompt"]))


def _is_encoded_whole(tokenizer: PreTrainedTokenizerBase, record: dict) -> bool:
    """Return True for a prompt without answers and without a text that spells a special token."""
    answered = any(message["role"] == "assistant" for message in record["prompt"])
    return not answered and not special_texts(tokenizer, _texts(record))


def _texts(record: dict) -> list[str]:
    return [
        *texts_in(record["prompt"]),
        *(record[column] for column in ANSWERS if column in record),
    ]


def spelled_tokens(table: Table, tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return the rows with a text that spells one of the tokenizer's special tokens."""
    return {
        i: f"the text {', '.join(map(repr, found))} is a special token of the tokenizer"
        for i, entry in _kept(table)
        if (found := special_texts(tokenizer, _texts(entry.canonical)))
    }


def _by_row(table: Table, finding: Callable[[dict], str | None]) -> dict[int, str]:
    found = {i: finding(entry.row) for i, entry in _kept(table)}
    return {i: reason for i, reason in found.items() if reason is not None}


def _kept(table: Table) -> list[tuple[int, TableEntry]]:
    return [(i, entry) for i, entry in enumerate(table.entries) if entry.rule is None]


def equal_pairs(table: Table) -> dict[int, str]:
    """Return the pairs whose answers are the same text, white space at the ends aside."""
    return {
        i: "chosen and rejected are the same text"
        for i, entry in _kept(table)
        if entry.canonical["chosen"].strip() == entry.canonical["rejected"].strip()
    }


def duplicates(table: Table) -> dict[int, str]:
    """Return the rows whose texts occurred earlier in the file."""
    first: dict[str, int] = {}
    found = {}
    for i, entry in _kept(table):
        line = first.setdefault(entry.canonical["id"], entry.line)
        if line != entry.line:
            found[i] = f"the same texts as line {line}"
    return found


def contradictions(table: Table) -> dict[int, str]:
    """Return both rows of every pair that also occurs with chosen and rejected exchanged."""
    lines = {_pair(entry.canonical, "chosen", "rejected"): entry.line for _, entry in _kept(table)}
    found = {}
    for i, entry in _kept(table):
        line = lines.get(_pair(entry.canonical, "rejected", "chosen"))
        if line is not None and line != entry.line:
            found[i] = f"the same pair as line {line}, labelled the other way"
    return found


def _pair(record: dict, first: str, second: str) -> tuple[str, str, str]:
    return prompt_key(record["prompt"]), record[first].strip(), record[second].strip()


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
    file a row is of: '<source>_reserve' is no split of a stage. Raises BadInput for groups that
    cannot be split.
    """
    by_hash = [
        name for name in tables if not name.endswith("_heldout") and f"{name}_heldout" not in tables
    ]
    groups = group_keys([entry for name in by_hash for entry in tables[name].kept], data)

    def split_of(name: str, entry: TableEntry) -> str:
        if name.endswith("_heldout"):
            return name
        prompt = entry.canonical["prompt"]
        key = prompt_key(prompt)
        own = key if data.split_by == "prompt" else entry.root or root_key(prompt)
        fold = fold_of(
            groups.get(key, own),
            seed=data.split_seed,
            fraction=data.heldout_fraction,
            folds=data.heldout_folds,
        )
        if fold is not None and fold > data.heldout_fold:
            return f"{name}_{RESERVE}"
        return f"{name}_{'heldout' if fold == data.heldout_fold and name in by_hash else 'train'}"

    return {name: table.assigned(partial(split_of, name)) for name, table in tables.items()}


def records_of(tables: dict[str, Table], split: str) -> list[dict]:
    """Return the kept records of a split, in the order of sources and rows."""
    return [
        entry.canonical for table in tables.values() for entry in table.kept if entry.split == split
    ]
