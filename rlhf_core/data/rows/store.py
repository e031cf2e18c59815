"""The rows of a source with their canonical records, on disk as Arrow, and a few keys of each.

A record is the JSON text that its line in a split has. The keys answer what rules ask of all rows
(is it a repeat, which prompt has it) without a look at the text: 100 bytes per row in memory.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from datasets import Dataset

from rlhf_core.data.splits import prompt_key, root_key, to_line
from rlhf_core.data.verdicts import named_votes, score_contradiction, score_tie

BATCH = 1000  # rows that are looked at together
_KEY = 32  # bytes of a prompt's or root's key
_PAIR = 16  # bytes of a pair's key
PairKeys = tuple[bytes, bytes]  # keys of a row as it is, and as it is labelled the other way


class Store(Protocol):
    """The content of rows, by their place in the store."""

    def row(self, place: int) -> dict:
        """Return the row as it was read, with canonical column names."""

    def line(self, place: int) -> str | None:
        """Return the record as a line of a split; None without a record."""

    def record(self, place: int) -> dict | None:
        """Return the canonical record; None for a row that has no known format."""

    def id(self, place: int) -> str:
        """Return the record's id."""

    def prompt_key(self, place: int) -> str:
        """Return the identity of the record's prompt (see splits.prompt_key)."""

    def root_key(self, place: int) -> str:
        """Return the identity of the conversation's root (see splits.root_key)."""

    def pair(self, place: int) -> PairKeys:
        """Return the keys of a comparison, or of feedback, and of its contradiction."""

    def has_text(self, place: int, column: str) -> bool:
        """Return True if the row's column is neither missing, null nor blank."""

    def has_votes(self, place: int) -> bool:
        """Return True if the record has votes, with or without names."""

    def score_contradiction(self, place: int) -> str | None:
        """Return why the row's own numbers prefer the rejected answer; None if they do not."""

    def score_tie(self, place: int) -> str | None:
        """Return that the row's scores are equal; None if they are not."""


class MemoryStore:
    """One row, and its record in memory as a line. row: reads the row."""

    def __init__(self, row: Callable[[], dict], record: dict | None) -> None:
        self._row = row
        self._line = None if record is None else to_line(record)

    def row(self, place: int) -> dict:
        """Return the row as it was read."""
        return self._row()

    def line(self, place: int) -> str | None:
        """Return the record as a line of a split."""
        return self._line

    def record(self, place: int) -> dict | None:
        """Return the canonical record."""
        return None if self._line is None else json.loads(self._line)

    def id(self, place: int) -> str:
        """Return the record's id."""
        return self._canonical()["id"]

    def prompt_key(self, place: int) -> str:
        """Return the identity of the record's prompt."""
        return prompt_key(self._canonical()["prompt"])

    def root_key(self, place: int) -> str:
        """Return the identity of the conversation's root."""
        return root_key(self._canonical()["prompt"])

    def pair(self, place: int) -> PairKeys:
        """Return the keys of a comparison's texts."""
        record = self._canonical()
        return pair_of(record, bytes.fromhex(prompt_key(record["prompt"])))

    def has_text(self, place: int, column: str) -> bool:
        """Return True if the row's column is neither missing, null nor blank."""
        return has_text(self._row().get(column))

    def has_votes(self, place: int) -> bool:
        """Return True if the record has votes, with or without names."""
        return has_votes(self._canonical())

    def score_contradiction(self, place: int) -> str | None:
        """Return why the row's own numbers prefer the rejected answer."""
        return score_contradiction(self._row())

    def score_tie(self, place: int) -> str | None:
        """Return that the row's scores are equal."""
        return score_tie(self._row())

    def _canonical(self) -> dict:
        assert self._line is not None, "the row has no record"
        return json.loads(self._line)


class ArrowStore:
    """The rows of one source. Made by StoreWriter."""

    def __init__(self, lines: Dataset, row: Callable[[int], dict], writer: "StoreWriter") -> None:
        self._lines, self._row = lines.data.column("record"), row
        self._ids_N = np.frombuffer(writer.ids, np.uint64)
        self._prompts = writer.prompts
        self._roots, self._pairs = writer.roots, writer.pairs
        self._texts, self._votes = writer.texts, writer.votes
        self._contradictions, self._ties = writer.contradictions, writer.ties

    def row(self, place: int) -> dict:
        """Return the row as it was read."""
        return self._row(place)

    def line(self, place: int) -> str | None:
        """Return the record as a line of a split."""
        return self._lines[place].as_py()

    def record(self, place: int) -> dict | None:
        """Return the canonical record."""
        line = self._lines[place].as_py()
        return None if line is None else json.loads(line)

    def id(self, place: int) -> str:
        """Return the record's id."""
        return f"{self._ids_N[place]:016x}"

    def prompt_key(self, place: int) -> str:
        """Return the identity of the record's prompt."""
        return self._prompts[place * _KEY : (place + 1) * _KEY].hex()

    def root_key(self, place: int) -> str:
        """Return the identity of the conversation's root."""
        return self._roots.get(place) or self.prompt_key(place)

    def pair(self, place: int) -> PairKeys:
        """Return the keys of a comparison's texts."""
        at = 2 * _PAIR * place
        found = bytes(self._pairs[at : at + 2 * _PAIR])
        return found[:_PAIR], found[_PAIR:]

    def has_text(self, place: int, column: str) -> bool:
        """Return True if the row's column is neither missing, null nor blank."""
        return bool(self._texts[column][place])

    def has_votes(self, place: int) -> bool:
        """Return True if the record has votes, with or without names."""
        return bool(self._votes[place])

    def score_contradiction(self, place: int) -> str | None:
        """Return why the row's own numbers prefer the rejected answer."""
        return self._contradictions.get(place)

    def score_tie(self, place: int) -> str | None:
        """Return that the row's scores are equal."""
        return self._ties.get(place)


class StoreWriter:
    """Writes the records of a source, batch by batch, and collects their keys.

    columns: those whose texts are counted. pairs: rows are labelled, so that one may contradict
    another. file: an Arrow file to write and to read by memory map;
    None: in memory.
    """

    def __init__(self, columns: Iterable[str], *, pairs: bool, file: Path | None) -> None:
        self.ids, self.prompts = array("Q"), bytearray()
        self.roots: dict[int, str] = {}
        self.pairs, self.votes = bytearray(), bytearray()
        self.texts = {column: bytearray() for column in columns}
        self.contradictions: dict[int, str] = {}
        self.ties: dict[int, str] = {}
        self._has_pairs = pairs
        self._batch: list[str | None] = []
        self._file = ArrowFile(pa.schema([("record", pa.string())]), file)

    def add(self, row: dict, record: dict | None) -> None:
        """Add a row with canonical column names, and its record if it has one."""
        place = len(self.ids)
        for column, flags in self.texts.items():
            flags.append(has_text(row.get(column)))
        self._batch.append(None if record is None else to_line(record))
        if record is None:
            self.ids.append(0)
            self.votes.append(False)
            self.prompts += bytes(_KEY)
            self.pairs += bytes(2 * _PAIR * self._has_pairs)
            return
        self.ids.append(int(record["id"], 16))
        self.votes.append(has_votes(record))
        messages = record["prompt"]
        key = prompt_key(messages)
        if len(messages) > 1 and (root := root_key(messages)) != key:
            self.roots[place] = root
        self.prompts += bytes.fromhex(key)
        if self._has_pairs:
            for pair in pair_of(record, bytes.fromhex(key)):
                self.pairs += pair
        if "chosen" in record:
            if reason := score_contradiction(row):
                self.contradictions[place] = reason
            if tie := score_tie(row):
                self.ties[place] = tie

    def end_batch(self) -> None:
        """Write what was added since the last batch."""
        self._file.write([self._batch])
        self._batch = []

    def finish(self, row: Callable[[int], dict]) -> ArrowStore:
        """Return the store. row: reads a row by its place."""
        return ArrowStore(self._file.finish(), row, self)


class ArrowFile:
    """An Arrow stream that is written in batches and then read as a data set.

    path None: in memory; a file is read by memory map.
    """

    def __init__(self, schema: pa.Schema, path: Path | None) -> None:
        self._schema, self._path = schema, path
        self._sink = pa.BufferOutputStream() if path is None else pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._sink, schema)

    def write(self, columns: list[list]) -> None:
        """Write a batch; columns: its values in the order of the schema."""
        arrays = [
            pa.array(values, kind) for values, kind in zip(columns, self._schema.types, strict=True)
        ]
        self._stream.write_batch(pa.record_batch(arrays, schema=self._schema))

    def finish(self) -> Dataset:
        """Return all that was written."""
        self._stream.close()
        if self._path is None:
            return Dataset.from_buffer(self._sink.getvalue())
        self._sink.close()
        return Dataset.from_file(str(self._path))


def pair_of(record: dict, prompt: bytes) -> PairKeys:
    """Return the keys of a labelled row as it is, and as it is labelled the other way.

    The other way a comparison has its answers exchanged, and feedback the other label. White space
    at the ends of the answers does not count. prompt: its prompt's key.
    """
    if "label" in record:
        reply = _key_of(record["response"].strip().encode())
        labels = (b"\1", b"\0") if record["label"] else (b"\0", b"\1")
        return _key_of(prompt + reply + labels[0]), _key_of(prompt + reply + labels[1])
    chosen, rejected = (_key_of(record[a].strip().encode()) for a in ("chosen", "rejected"))
    return _key_of(prompt + chosen + rejected), _key_of(prompt + rejected + chosen)


def _key_of(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_PAIR).digest()


def has_text(value: object) -> bool:
    """Return True for a value that is neither null nor blank."""
    return bool(value.strip()) if isinstance(value, str) else value is not None


def has_votes(record: dict) -> bool:
    """Return True if a record has votes, with or without names."""
    return record.get("votes_for") is not None or bool(named_votes(record["meta"]))
