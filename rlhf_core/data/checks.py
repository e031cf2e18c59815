"""The checks of each frame, and their results in words."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rlhf_core.config import Rules, Severity
from rlhf_core.data.columns import LABELLED
from rlhf_core.data.expectations import Expectation, ExpectationResult
from rlhf_core.data.rows.split_rows import SplitRows
from rlhf_core.data.rows.texts import ANSWERS
from rlhf_core.data.splitting.new_labels import GIVES_WAY
from rlhf_core.data.table import Table, TableEntry
from rlhf_core.stage_catalogue import NEW_HELDOUT, NEW_TRAIN

ROW_RULES = (
    "schema",
    "empty_text",
    "chosen_equals_rejected",
    "duplicates",
    "contradictions",
    "score_contradictions",
    "length",
    "truncated",
    "leakage",
    "near_duplicates",
    "special_tokens",
    "equal_scores",
    "unused_columns",
)
PAIR_RULES = ("chosen_equals_rejected", "score_contradictions", "equal_scores")
LEAK_RULES = ("leakage", "near_duplicates")  # of training rows
SHARE_RULES = ("schema", "empty_text", "share_dropped")
EXAMPLES = 5
ADVICE = {
    "rows_read": "Check the path and how the file was exported.",
    "schema": (
        "Correct the rows in quarantine.jsonl, or name the right columns with"
        " data.<source>.columns."
    ),
    "null_column": "Check the export, or name the right column with data.<source>.columns.",
    "empty_text": "Correct the rows in quarantine.jsonl or raise data.rules.max_share_dropped.",
    "chosen_equals_rejected": (
        "Remove the pairs in quarantine.jsonl or set data.rules.chosen_equals_rejected = 'warning'."
    ),
    "duplicates": "Remove the rows in quarantine.jsonl or set data.rules.duplicates = 'warning'.",
    "contradictions": (
        "Decide the rows in quarantine.jsonl or set data.rules.contradictions = 'warning'."
    ),
    "score_contradictions": (
        "Exchange chosen and rejected in these rows, or remove them, or set"
        " data.rules.score_contradictions = 'off' to trust the labels."
    ),
    "equal_scores": (
        "Remove the pairs that nobody preferred, or set data.rules.equal_scores = 'off'."
    ),
    "special_tokens": (
        "Remove these texts, often an end-of-text token at the end of every answer, or set"
        " data.rules.special_tokens = 'warning' to train on them as plain text."
    ),
    "end_of_turn": (
        "Write a token after an assistant's text in the chat template, such as {{ eos_token }}, or"
        " set data.rules.end_of_turn = 'off' if all dialogues have one answer."
    ),
    "unused_columns": (
        "Name the columns of the prompt with data.<source>.columns (system, history and input join"
        " it), list the others in data.<source>.ignore, or set data.rules.unused_columns = 'off'."
    ),
    "length": (
        "Raise data.max_prompt_tokens or data.max_response_tokens, or set data.overlong = 'drop' or"
        " 'truncate_left' (prompts only), and data.rules.length = 'warning'."
    ),
    "truncated": (
        "Raise data.max_prompt_tokens, set data.overlong = 'drop' to leave these rows out, or"
        " data.rules.truncated = 'warning'."
    ),
    "leakage": (
        "Take these prompts out of the training files, give held-out files for every source or for"
        " none (then all are split by the same hash), or set data.rules.leakage = 'warning' to"
        " train without these rows."
    ),
    "near_duplicates": (
        "See near_duplicates in report.json; take these prompts out of one side, or set"
        " data.split_by = 'cluster' without held-out files, or data.rules.near_duplicates ="
        " 'warning'."
    ),
    "share_dropped": (
        "See quarantine.jsonl for the reasons; correct the file or raise"
        " data.rules.max_share_dropped. For prompts that are too long there is data.overlong ="
        " 'truncate_left'."
    ),
    "min_rows": (
        "Add rows, or lower data.rules.min_demonstrations, min_comparisons, min_feedback or"
        " min_heldout. If large groups of rows stay together, see data.split_by."
    ),
    "longer_wins": (
        "Balance the lengths of chosen and rejected answers or raise data.rules.max_longer_wins."
    ),
    "label_share": (
        "Collect more replies of the rarer label, or lower data.rules.min_label_share: KTO and the"
        " reward model weigh the rarer label up."
    ),
    "annotator_alpha": (
        "Clarify the labelling or drop disputed pairs, or lower data.rules.min_annotator_alpha."
    ),
}


def counts_as_dropped(table: Table, entry: TableEntry) -> bool:
    """Return True if a row was lost: it is in quarantine.

    A repeated prompt in a list of prompts is not lost, because the first one is kept. Nor is a row
    that gives way to new labels.
    """
    if entry.rule in GIVES_WAY:
        return False
    return entry.rule is not None and not (table.kind == "prompts" and entry.rule == "duplicates")


def source_frame(table: Table) -> pd.DataFrame:
    """Return one row per row read.

    Columns: line, a flag per rule, token counts, and 1 for each text (null if blank or missing).
    """
    entries = table.entries
    columns: dict[str, np.ndarray] = {"line": np.array([entry.line for entry in entries])}
    for column in table.columns:
        is_there = [entry.store.has_text(entry.place, column) for entry in entries]
        columns[f"text_{column}"] = np.where(is_there, 1.0, np.nan)
    for rule in ROW_RULES:
        columns[rule] = np.array([entry.breaks(rule) for entry in entries], bool)
    dropped = [counts_as_dropped(table, entry) for entry in entries]
    columns["share_dropped"] = np.array(dropped, bool)
    for column in ("prompt", *ANSWERS):
        counts = [entry.tokens.get(column) for entry in entries]
        columns[f"{column}_tokens"] = np.array(counts, float)
    return pd.DataFrame(columns)


def split_frame(records: SplitRows, *, is_feedback: bool = False) -> pd.DataFrame:
    """Return one row per record of a split.

    `longer_wins` (a tie is 0.5) is null unless the record is a comparison, or feedback with thumbs
    up. `is_up`: 1 for thumbs up, 0 for thumbs down, null for other records.
    """
    wins = np.array([longer_wins(tokens) for tokens in records.tokens()], float)
    up = np.array([record.get("label") for record in records] if is_feedback else [], float)
    if is_feedback:
        wins = longer_than_down(up, [tokens["response"] for tokens in records.tokens()])
    columns = {"line": np.arange(1, len(wins) + 1), "longer_wins": wins}
    return pd.DataFrame(columns | ({"is_up": up} if is_feedback else {}))


def longer_than_down(up_N: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """Return the share of thumbs-down replies that have fewer tokens than each reply, (N,).

    An equal number counts half. NaN for a thumbs-down reply, and where there is none of them. The
    mean is the probability that a thumbs-up reply is the longer one.
    """
    tokens_N = np.array(tokens, float)
    down = np.sort(tokens_N[up_N == 0])
    if not len(down):
        return np.full(len(tokens_N), np.nan)
    fewer = np.searchsorted(down, tokens_N, "left") + np.searchsorted(down, tokens_N, "right")
    return np.where(up_N == 1, fewer / (2 * len(down)), np.nan)


def longer_wins(tokens: Mapping[str, int]) -> float | None:
    """Return 1 if the chosen answer has more tokens than the rejected one, 0 if fewer, else 0.5.

    None without token counts of a pair.
    """
    if "chosen" not in tokens:
        return None
    return 0.5 + 0.5 * (
        (tokens["chosen"] > tokens["rejected"]) - (tokens["chosen"] < tokens["rejected"])
    )


def source_checks(table: Table, rules: Rules) -> list[Expectation]:
    """Return the checks of a source's frame; a row rule without its own severity is an error."""
    checks = [Expectation("rows_read", table.name, "error", "rows", low=1)]
    checks += [
        Expectation("null_column", table.name, "error", "present", f"text_{c}")
        for c in table.columns
    ]
    for rule in (*ROW_RULES, "share_dropped"):
        if rule in PAIR_RULES and table.kind != "comparisons":
            continue
        if rule == "contradictions" and table.kind not in LABELLED:
            continue
        if rule in LEAK_RULES and table.name.endswith("_heldout"):
            continue
        if rule == "truncated" and not table.broken(rule):
            continue  # only data.overlong = "truncate_left" shortens prompts
        high = rules.max_share_dropped if rule in SHARE_RULES else 0.0
        severity: Severity = "error" if rule == "schema" else getattr(rules, rule)
        checks.append(Expectation(rule, table.name, severity, "flag", rule, high=high))
    return [check for check in checks if check.severity != "off"]


def split_checks(split: str, frame: pd.DataFrame, rules: Rules) -> list[Expectation]:
    """Return the checks of a split's frame.

    The frame is called "split_<name>" because a source may have the same name.
    """
    name = f"split_{split}"
    least = {
        "demonstrations_train": rules.min_demonstrations,
        "comparisons_train": rules.min_comparisons,
        "feedback_train": rules.min_feedback,
        "prompts_train": 1,
        NEW_TRAIN: 1,
        NEW_HELDOUT: 1,
    }
    checks = [
        Expectation("min_rows", name, "error", "rows", low=least.get(split, rules.min_heldout))
    ]
    if split.startswith("feedback_"):
        low, high = rules.min_label_share, 1 - rules.min_label_share
        rule, severity = "label_share", rules.label_share
        checks.append(Expectation(rule, name, severity, "mean", "is_up", low=low, high=high))
    if split in ("comparisons_train", "feedback_train", NEW_TRAIN):
        rule, high = "longer_wins", rules.max_longer_wins
        checks.append(Expectation(rule, name, rules.longer_wins, "mean", "longer_wins", high=high))
    return [check for check in checks if check.severity != "off"]


def report_entry(check: Expectation, result: ExpectationResult, table: Table | None) -> dict:
    """Return one entry of the report.

    Its keys: "rule", "source", "severity", "passed", "found", "expected", "detail".
    """
    return {
        "rule": check.rule,
        "source": check.source,
        "severity": check.severity,
        "passed": result.passed,
        "found": result.found,
        "expected": _expected(check),
        "detail": _detail(check, result, table),
    }


def _expected(check: Expectation) -> str:
    if check.kind == "rows":
        return f"at least {check.low:g} {'row' if check.low == 1 else 'rows'}"
    if check.kind == "flag":
        return f"at most a share of {check.high:g}" if check.high else "no row"
    if check.kind == "present":
        return f"some text in {check.column.removeprefix('text_')}"
    if check.low is not None and check.high is not None:
        return f"from {check.low:g} to {check.high:g}"
    return f"at most {check.high:g}" if check.low is None else f"at least {check.low:g}"


def _detail(check: Expectation, result: ExpectationResult, table: Table | None) -> str:
    if result.found is None:
        return "could not be evaluated, so it did not pass"
    if check.kind == "present":
        column = check.column.removeprefix("text_")
        return f"{column} is null or blank in a share of {result.found:.3g} of the rows"
    if check.kind != "flag" or table is None:
        return f"over {result.evaluated} rows"
    if check.rule == "share_dropped":
        broken = [entry for entry in table.entries if counts_as_dropped(table, entry)]
    else:
        broken = table.broken(check.rule)
    if not broken:
        return f"0 of {result.evaluated} rows"
    lines = ", ".join(str(entry.line) for entry in broken[:EXAMPLES])
    reason = broken[0].notes.get(check.rule, broken[0].reason)
    return f"{len(broken)} of {result.evaluated} rows, first on line {lines}; e.g. {reason}"


def failure_message(failed: list[dict], report: str) -> str:
    """Return the text of a refusal: every failed rule with found, expected and what to do."""
    lines = []
    for item in failed:
        found = "nothing that can be evaluated" if item["found"] is None else f"{item['found']:.4g}"
        lines.append(
            f"{item['source']}: {item['rule']}: found {found} ({item['detail']}), expected"
            f" {item['expected']}. {ADVICE[item['rule']]}"
        )
    return (
        f"{len(failed)} data rule(s) failed:\n  "
        + "\n  ".join(lines)
        + f"\nEverything found is in {report}."
    )
