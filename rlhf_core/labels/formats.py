"""Votes that people gave elsewhere: Label Studio's Pairwise export, CSV, JSON Lines.

A row of CSV or JSON Lines is one vote: {"prompt", "reply_a", "reply_b", "annotator", "choice"}, and
"strength", "comment", "at" (seconds since the epoch), "first" and "gold" where they are known.
"""

import csv
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_core.data.sources.text_files import loads
from rlhf_core.data.transcripts import Messages, RejectedRow, read_messages
from rlhf_core.errors import BadInput
from rlhf_core.labels.label_studio import tasks_of, votes_of_task
from rlhf_core.labels.votes import STRENGTHS, Choice, LabelPair, Vote, mirrored, pair_id_of

# what a choice is called elsewhere, in small letters with underscores
WORDS: dict[str, Choice] = {
    "a": "a",
    "b": "b",
    "left": "a",
    "right": "b",
    "better": "a",
    "worse": "b",
    "a_is_better": "a",
    "b_is_better": "b",
    "same": "same",
    "tie": "same",
    "equal": "same",
    "both_bad": "both_bad",
    "neither": "both_bad",
    "cannot_judge": "cannot_judge",
    "can't_judge": "cannot_judge",
    "skip": "cannot_judge",
}
TEXTS = ("prompt", "reply_a", "reply_b")
COLUMNS = (*TEXTS, "annotator", "choice", "strength", "comment", "at", "first", "gold")
_CHOICES = "expected a, b, same, both_bad or cannot_judge"
_EXPECTED = (
    "a vote a row with prompt, reply_a, reply_b, annotator and choice (a, b, same, both_bad or"
    " cannot_judge)"
)
_ORDERS = ("a", "b")


@dataclass(frozen=True)
class ImportedVotes:
    """The pairs of a file and the votes on them, each pair once whatever the order of replies."""

    pairs: list[LabelPair]
    votes: list[Vote]


def read_votes(file: Path, columns: Mapping[str, str] | None = None) -> ImportedVotes:
    """Return the votes in a file; its ending says how it is written.

    .json: Label Studio's export. .csv: a header and a vote per line. .jsonl: a vote per line.
    columns: the file's own names of the columns, by the names here. A second vote of a person on
    the same pair replaces the first; a name is the same in capitals, and spelled as it came first.
    A pair is a gold item where one of its rows says so. Raises BadInput naming the file and line.
    """
    readers: dict[str, Callable[[Path], Iterator[tuple[str, dict]]]] = {
        ".json": _label_studio,
        ".csv": _csv,
        ".jsonl": _jsonl,
    }
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise BadInput(
            f"{file} ends in {file.suffix or 'nothing'!r}; expected .json (Label Studio's export),"
            " .csv or .jsonl (a vote per line)."
        )
    if not file.is_file():
        raise BadInput(f"{file} is no file; expected the votes to import. Correct the path.")
    mapping = _mapping(columns or {})
    pairs: dict[str, LabelPair] = {}
    votes: dict[tuple[str, str], Vote] = {}
    names: dict[str, str] = {}
    try:
        for where, row in reader(file):
            pair, vote = _read(where, {mapping.get(key, key): value for key, value in row.items()})
            pairs[pair.pair_id] = _merged(where, pairs.get(pair.pair_id, pair), pair)
            name = names.setdefault(vote.annotator.lower(), vote.annotator)
            votes[vote.pair_id, name] = replace(vote, annotator=name)
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not UTF-8 text ({error.reason}); save it as UTF-8.") from None
    if not votes:
        raise BadInput(f"{file} holds no votes; expected {_EXPECTED}.")
    return ImportedVotes(list(pairs.values()), list(votes.values()))


def _merged(where: str, known: LabelPair, pair: LabelPair) -> LabelPair:
    """Return the same pair of two rows: a gold item where one of them is."""
    if known.gold and pair.gold and known.gold != pair.gold:
        raise BadInput(
            f"{where}: gold is another answer than in an earlier row of the same pair; expected one"
            " right answer. Correct one of them."
        )
    return known if known.gold else pair if pair.gold else known


def _mapping(columns: Mapping[str, str]) -> dict[str, str]:
    if unknown := sorted(set(columns) - set(COLUMNS)):
        raise BadInput(
            f"--column names {', '.join(unknown)}; expected names of {', '.join(COLUMNS)}, as"
            " --column reply_a=answer1."
        )
    return {theirs: ours for ours, theirs in columns.items()}


def _csv(file: Path) -> Iterator[tuple[str, dict]]:
    csv.field_size_limit(sys.maxsize)  # the library's own limit, 128 KiB, is less than a text has
    with file.open(encoding="utf-8-sig", newline="") as lines:
        # else a quote that is not closed would make the rest of the file one comment
        reader = csv.DictReader(lines, strict=True)
        try:
            for row in reader:
                where = f"{file} line {reader.line_num}"
                if None in row or None in row.values():
                    raise BadInput(
                        f"{where} has another number of cells than the header has columns; put"
                        " texts with commas or line breaks in quotes."
                    )
                yield where, {key: value for key, value in row.items() if value != ""}
        except csv.Error as error:
            raise BadInput(
                f"{file} line {reader.reader.line_num} is not CSV ({error}); expected {_EXPECTED}."
            ) from None


def _jsonl(file: Path) -> Iterator[tuple[str, dict]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file} line {number}"
            try:
                row = loads(line)
            except ValueError as error:
                raise BadInput(f"{where} is no JSON ({error}); expected {_EXPECTED}.") from None
            if not isinstance(row, dict):
                raise BadInput(f"{where} is {line.strip()!r:.60}; expected {_EXPECTED}.")
            yield where, row


def _label_studio(file: Path) -> Iterator[tuple[str, dict]]:
    for number, task in tasks_of(file):
        where = f"{file} task {number}"
        for vote in votes_of_task(where, task):
            yield where, vote


def _read(where: str, row: dict) -> tuple[LabelPair, Vote]:
    """Return the pair and the vote of a row, the replies in alphabetical order."""
    missing = [name for name in (*TEXTS, "annotator", "choice") if row.get(name) in (None, "")]
    if missing:
        raise BadInput(
            f"{where} has no {' and no '.join(missing)}, only {', '.join(map(str, row))}; expected"
            f" {_EXPECTED}. Say which column is which with --column NAME=COLUMN."
        )
    choice = _choice(where, "choice", row["choice"])
    gold = _choice(where, "gold", row["gold"]) if row.get("gold") not in (None, "") else None
    reply_a, reply_b = (_reply(where, name, row[name]) for name in ("reply_a", "reply_b"))
    if reply_a == reply_b:
        raise BadInput(f"{where}: both replies are {reply_a!r:.60}; expected different ones.")
    first = row.get("first")
    if first is not None and first not in _ORDERS:
        raise BadInput(f"{where}: first is {first!r:.40}; expected a or b, the reply shown first.")
    if swapped := reply_a > reply_b:
        reply_a, reply_b, choice = reply_b, reply_a, mirrored(choice)
        first = {"a": "b", "b": "a"}.get(first) if first else None
        gold = mirrored(gold) if gold else None
    prompt = _prompt(where, row["prompt"])
    pair = LabelPair(
        pair_id=pair_id_of(prompt, reply_a, reply_b),
        prompt=prompt,
        reply_a=reply_a,
        reply_b=reply_b,
        source=str(row.get("source") or "import"),
        gold=gold,
        facts={"swapped": swapped},
    )
    return pair, Vote(
        pair_id=pair.pair_id,
        annotator=str(row["annotator"]).strip(),
        choice=choice,
        strength=_strength(where, row.get("strength")),
        comment=str(row.get("comment") or ""),
        at=_number(where, "at", row.get("at")),
        first=first,
    )


def _choice(where: str, name: str, value: object) -> Choice:
    choice = WORDS.get("_".join(str(value).strip().lower().replace("-", " ").split()))
    if choice is None:
        raise BadInput(f"{where}: {name} is {value!r:.40}; {_CHOICES}.")
    return choice


def _reply(where: str, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{where}: {name} is {value!r:.60}; expected the text of a reply.")
    return value


def _prompt(where: str, value: object) -> Messages:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    try:
        return read_messages(value, "prompt", open_end=True)
    except RejectedRow as error:
        raise BadInput(f"{where}: {error}; expected a text, or messages.") from None


def _strength(where: str, value: object) -> float | None:
    word = str(value).strip().lower()
    return STRENGTHS[word] if word in STRENGTHS else _number(where, "strength", value)


def _number(where: str, name: str, value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise BadInput(f"{where}: {name} is {value!r:.40}; expected a number of 0 or more.")
    return number
