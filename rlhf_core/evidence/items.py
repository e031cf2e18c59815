"""Evidence per item of the stages reward, dpo and evaluate: items.parquet in the run directory.

One row per held-out item. Columns:

evaluate  prompt_id, prompt; policy_kl (nats);
          for each NAME in policy, sft, champion, best_of_n (when present): NAME_reply, NAME_score,
          NAME_tokens, NAME_ended, NAME_repetition;
          NAME_independent (with an independent scorer);
          NAME_score_2, ... (with further reward models);
          policy_by_champions_reward, champion_by_champions_reward (with a champion that was trained
          with another reward model: the scores by that one);
          NAME_member_1, ... (when the reward model is an ensemble);
          judge_vs_sft, judge_vs_champion (with a judge: 1 policy better, 0.5 tie, 0 worse, null not
          judged), each with judge_vs_NAME_policy_first and judge_vs_NAME_policy_second (the same by
          order), and with reasons judge_vs_NAME_policy_first_reason, ..._second_reason;
          with benchmarks, further rows, one per item of each: benchmark (its name; null: the row is
          a held-out prompt), prompt_id (leaf task / number of the item / digest of the item),
          prompt, target, and for each NAME in policy, sft, champion: NAME_reply and
          NAME_benchmark_METRIC
reward    pair_id, prompt_id (the same for pairs that share a prompt), prompt, chosen, rejected,
          chosen_score, rejected_score, chosen_tokens, rejected_tokens;
          agreement (share of votes with the majority, where there are votes);
          data.COLUMN for every further column of the comparisons;
          chosen_member_1, rejected_member_1, ... (of an ensemble)
dpo       the same as reward; the score is the implicit reward, beta (logpi - logpi_sft)
kto       reply_id, prompt_id, prompt, reply, up (the label is thumbs up), score (the implicit
          reward), tokens, data.COLUMN; of feedback, then of comparisons, chosen before rejected.
          The reward stage writes the same of its feedback in labels.parquet
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rlhf_core.benchmarks.names import COLUMN
from rlhf_core.digest import digest_json

ITEMS, LABEL_ITEMS = "items.parquet", "labels.parquet"
BENCHMARK, TARGET = "benchmark", "target"  # columns of benchmarks: the name, the expected answer
OF_DATA = "data."  # begins the name of a column that the user's file brought
LONGEST_VALUE = 200  # characters of such a column's text: slices need names, not documents
Columns = dict[str, list]


def item_id(*texts: str) -> str:
    """Return the identity of an item between runs.

    It is the first 16 hex digits of sha256 over the texts' UTF-8, one after the other.
    """
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def prompt_id(messages: list[dict[str, Any]], *answers: str) -> str:
    """Return the identity of a prompt, or of a prompt with its answers.

    It covers roles and texts and not how a model's template renders them, so that runs with
    different base models, or on different days, pair.
    """
    return item_id(digest_json([_identity(message) for message in messages]), *answers)


def _identity(message: dict[str, Any]) -> list[Any]:
    """Return role and content of a message, and what else a template reads of it."""
    rest = {key: value for key, value in message.items() if key not in ("role", "content")}
    return [message["role"], message["content"], *([rest] if rest else [])]


def last_user_turn(messages: list[dict[str, str]]) -> str:
    """Return the text that a reply answers: the last user message, or else the last message."""
    return next(
        (m["content"] for m in reversed(messages) if m["role"] == "user"), messages[-1]["content"]
    )


def data_columns(rows: list[dict]) -> Columns:
    """Return every column of `meta` as data.COLUMN.

    float64 where all its values are numbers, else text; null where absent.
    """
    names = dict.fromkeys(name for row in rows for name in row.get("meta", {}))
    return {
        f"{OF_DATA}{name}": _of_one_type([row.get("meta", {}).get(name) for row in rows])
        for name in names
    }


def _of_one_type(values: list) -> list:
    present = [value for value in values if value is not None]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        return [None if value is None else float(value) for value in values]
    texts = [
        value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for value in values
    ]
    return [None if text is None else text[:LONGEST_VALUE] for text in texts]


def write_items(folder: Path, columns: Columns) -> dict[str, str]:
    """Write items.parquet, and return its entry in the stage's files.

    Raises ArrowInvalid for columns of unequal length.
    """
    pq.write_table(pa.table(columns), folder / ITEMS)
    return {"items": ITEMS}


def write_label_items(folder: Path, columns: Columns) -> dict[str, str]:
    """Write labels.parquet, and return its entry in the stage's files."""
    pq.write_table(pa.table(columns), folder / LABEL_ITEMS)
    return {"label_items": LABEL_ITEMS}


def with_benchmarks(prompts: Columns, benchmarks: dict[str, Columns]) -> Columns:
    """Return the columns of held-out prompts and of the benchmarks' items below each other.

    benchmarks: the columns of each benchmark's items, by its name. A column that one kind of rows
    does not have is null there.
    """
    if not benchmarks:
        return prompts
    parts = [prompts, *benchmarks.values()]
    sizes = [len(part["prompt_id"]) for part in parts]
    owners = [None, *benchmarks]
    columns: Columns = {
        BENCHMARK: [o for o, n in zip(owners, sizes, strict=True) for _ in range(n)]
    }
    for name in dict.fromkeys(name for part in parts for name in part):
        columns[name] = [
            value
            for part, n in zip(parts, sizes, strict=True)
            for value in part.get(name, [None] * n)
        ]
    return columns


def read_columns(path: Path, names: list[str] | None, benchmark: str | None = None) -> pa.Table:
    """Return columns of an items.parquet, all without `names`.

    The rows are those of the held-out pairs or prompts, or of one benchmark.
    """
    if BENCHMARK not in pq.read_schema(path).names:
        table = pq.read_table(path, columns=names)
        return table if benchmark is None else table.slice(0, 0)
    table = pq.read_table(path, columns=None if names is None else [*names, BENCHMARK])
    owner = table[BENCHMARK]
    rows = pc.is_null(owner) if benchmark is None else pc.equal(owner, benchmark)
    return table.filter(rows).drop_columns([BENCHMARK])


def read_items(path: Path) -> Columns:
    """Return the columns of an items.parquet, of the held-out pairs or prompts."""
    names = [name for name in pq.read_schema(path).names if not _is_of_benchmark(name)]
    return read_columns(path, names).to_pydict()


def read_benchmarks(path: Path) -> dict[str, Columns]:
    """Return the columns of each benchmark's items in an items.parquet, by the benchmark's name."""
    if BENCHMARK not in pq.read_schema(path).names:
        return {}
    owners = pq.read_table(path, columns=[BENCHMARK])[BENCHMARK].to_pylist()
    found = {}
    for name in dict.fromkeys(owner for owner in owners if owner is not None):
        columns = read_columns(path, None, name).to_pydict()
        found[name] = {
            column: values
            for column, values in columns.items()
            if any(value is not None for value in values)
        }
    return found


def _is_of_benchmark(column: str) -> bool:
    return column in (BENCHMARK, TARGET) or f"_{COLUMN}" in column
