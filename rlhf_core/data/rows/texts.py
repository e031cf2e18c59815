"""The pass over the texts of a source, in batches: token counts, and what a row's texts break."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from rlhf_core.config import Data
from rlhf_core.data.chat_template import prompt_text
from rlhf_core.data.render import count_tokens, render_prompt, render_responses
from rlhf_core.data.rows.store import BATCH
from rlhf_core.data.special_tokens import special_texts, texts_in
from rlhf_core.data.table import Table
from rlhf_core.data.truncation import truncated
from rlhf_core.errors import BadInput

ANSWERS = ("response", "chosen", "rejected")
Reasons = dict[int, str]  # by position in a table's entries


@dataclass
class TextFindings:
    """The faults in the texts of kept rows, by position in the table.

    refused: by the chat template. spelled: texts that are special tokens. equal: pairs of equal
    answers, white space at the ends aside.
    """

    refused: Reasons = field(default_factory=dict)
    spelled: Reasons = field(default_factory=dict)
    equal: Reasons = field(default_factory=dict)


@dataclass
class _Batch:
    """Some kept rows by position.

    texts: prompts as the template writes them. spelled: special tokens that the texts spell.
    """

    records: dict[int, dict] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    spelled: dict[int, list[str]] = field(default_factory=dict)


def read_texts(
    table: Table, data: Data, tokenizer: PreTrainedTokenizerBase
) -> tuple[Table, TextFindings]:
    """Return the table with token counts, and what the texts of kept rows break.

    Prompts are counted with the chat template, answers with EOS. With overlong = 'truncate_left'
    prompts over the limit are shortened. One batch is encoded in a thread while the next one is
    read; only the thread uses the tokenizer's encoder, which allows one caller at a time.
    """
    found, entries = TextFindings(), list(table.entries)

    def encode(batch: _Batch) -> None:
        for i, tokens in _token_counts(batch, tokenizer).items():
            entry = replace(entries[i], tokens=tokens)
            if data.overlong == "truncate_left" and tokens["prompt"] > data.max_prompt_tokens:
                entry = truncated(entry, data.max_prompt_tokens, tokenizer)
                batch.spelled[i] = special_texts(tokenizer, _texts(entry.canonical))
            entries[i] = entry
            if spelled := batch.spelled[i]:
                named = ", ".join(map(repr, spelled))
                found.spelled[i] = f"the text {named} is a special token of the tokenizer"

    with ThreadPoolExecutor(max_workers=1) as pool:
        running: Future[None] | None = None
        for batch in _batches(table, tokenizer, found):
            if running is not None:
                running.result()
            running = pool.submit(encode, batch)
        if running is not None:
            running.result()
    return table.with_entries(entries), found


def _batches(
    table: Table, tokenizer: PreTrainedTokenizerBase, found: TextFindings
) -> Iterator[_Batch]:
    """Yield the kept rows whose prompts the template takes; note the others, and equal answers."""
    batch = _Batch()
    for i, entry in enumerate(table.entries):
        if entry.rule is not None:
            continue
        record = entry.canonical
        try:
            batch.texts[i] = prompt_text(tokenizer, record["prompt"])
        except BadInput as error:
            found.refused[i] = str(error)
            continue
        batch.records[i] = record
        batch.spelled[i] = special_texts(tokenizer, _texts(record))
        if "chosen" in record and record["chosen"].strip() == record["rejected"].strip():
            found.equal[i] = "chosen and rejected are the same text"
        if len(batch.records) == BATCH:
            yield batch
            batch = _Batch()
    if batch.records:
        yield batch


def _token_counts(batch: _Batch, tokenizer: PreTrainedTokenizerBase) -> dict[int, dict[str, int]]:
    """Return the tokens of each row by column: its prompt, then its answers."""
    whole = {i: text for i, text in batch.texts.items() if _is_encoded_whole(batch, i)}
    prompts = dict(zip(whole, count_tokens(tokenizer, whole.values()), strict=True))
    tokens = {}
    for i, record in batch.records.items():
        count = prompts[i] if i in prompts else len(render_prompt(tokenizer, record["prompt"]))
        tokens[i] = {"prompt": count}
    for column in ANSWERS:
        answers = {i: record[column] for i, record in batch.records.items() if column in record}
        for i, ids in zip(answers, render_responses(tokenizer, answers.values()), strict=True):
            tokens[i][column] = len(ids)
    return tokens


def _is_encoded_whole(batch: _Batch, i: int) -> bool:
    """Return True for a prompt without answers in a row that spells no special token."""
    messages = batch.records[i]["prompt"]
    return not batch.spelled[i] and all(m["role"] != "assistant" for m in messages)


def _texts(record: dict) -> list[str]:
    return [
        *texts_in(record["prompt"]),
        *(record[column] for column in ANSWERS if column in record),
    ]
