"""The report of a validation: JSON, a table, and an index page of Great Expectations' pages."""

import json
from html import escape
from pathlib import Path

from rlhf_core.config import Rules
from rlhf_core.data.annotators import agreement_of, alpha_rule, annotator_table
from rlhf_core.data.checks import (
    counts_as_dropped,
    longer_wins,
    report_entry,
    source_checks,
    source_frame,
    split_checks,
    split_frame,
)
from rlhf_core.data.expectations import evaluate
from rlhf_core.data.rows.split_rows import SplitRows
from rlhf_core.data.splitting.new_labels import NEW_HELDOUT_RULE, RELABELLED_RULE
from rlhf_core.data.table import Table
from rlhf_core.data.verdicts import annotator_agreement
from rlhf_core.digest import digest_file
from rlhf_core.rundir import write_atomically
from rlhf_core.stage_catalogue import NEW_HELDOUT, NEW_TRAIN

PAIRS, THUMBS = "comparisons_train", "feedback_train"
MOST_ANNOTATORS = 100  # rows of the page's table
Splits = dict[str, SplitRows]
COLUMNS = ("rule", "source", "severity", "passed", "found", "expected", "detail")
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2em;color:#222;background:#fff}"
    "table{border-collapse:collapse;margin:1em 0}"
    "td,th{border:1px solid #ccc;padding:.35em"
    " .7em;text-align:left;vertical-align:top}.error{background:#fbd5d5}"
    ".warning{background:#fdf0c8}"
)


def make_report(path: Path, tables: dict[str, Table], splits: Splits, rules: Rules) -> dict:
    """Check every rule, write Data Docs into `path`/data_docs, and return the report.

    The report: {"rules": [...], "annotators": [...], "rows": counts by source, "splits": rows and
    content digest, "great_expectations": summary}.
    """
    frames = {name: source_frame(table) for name, table in tables.items()}
    checks = [check for table in tables.values() for check in source_checks(table, rules)]
    for split, records in splits.items():
        if split == NEW_HELDOUT and not records:
            continue  # few new prompts: none of them is held out
        is_feedback = split.startswith("feedback_")
        frame = frames[f"split_{split}"] = split_frame(records, is_feedback=is_feedback)
        checks += split_checks(split, frame, rules)
    results, summary = evaluate(frames, checks, path / "data_docs")
    voted = _pairs(splits).voted()
    tokens = {entry.id: entry.tokens for entry in voted.entries}
    return {
        "rules": [
            report_entry(c, r, tables.get(c.source)) for c, r in zip(checks, results, strict=True)
        ]
        + alpha_rule(voted, rules, f"split_{PAIRS}"),
        "annotators": annotator_table(voted, tokens),
        "rows": _counts(tables),
        "splits": {
            split: {"rows": len(records), "digest": digest_file(path / "splits" / f"{split}.jsonl")}
            for split, records in splits.items()
        },
        "great_expectations": summary,
    }


def validation_metrics(tables: dict[str, Table], splits: Splits, report: dict) -> dict[str, float]:
    """Return the stage's metrics; a mean over nothing is left out."""
    pairs = _pairs(splits)
    voted = pairs.voted()
    failed = [item["severity"] for item in report["rules"] if not item["passed"]]
    metrics = {
        "data/rows": sum(len(table.entries) for table in tables.values()),
        "data/rows_kept": sum(len(table.kept) for table in tables.values()),
        "data/rows_truncated": _broken(tables, "truncated"),
        "data/rows_reserved": sum(_reserved(table) for table in tables.values()),
        "data/near_duplicates": _broken(tables, "near_duplicates"),
        "data/share_dropped": max(_share_dropped(table) for table in tables.values()),
        "data/errors": failed.count("error"),
        "data/warnings": failed.count("warning"),
        **{f"data/{split}": len(records) for split, records in splits.items()},
    }
    means = {
        "data/longer_wins": [
            longer for tokens in pairs.tokens() if (longer := longer_wins(tokens)) is not None
        ],
        "data/annotator_agreement": [
            share for record in voted if (share := annotator_agreement(record)) is not None
        ],
    }
    means |= _feedback_means(splits)
    if NEW_TRAIN in splits:
        metrics |= {
            "data/rows_relabelled": _broken(tables, RELABELLED_RULE),
            "data/rows_heldout_with_new": _broken(tables, NEW_HELDOUT_RULE),
        }
    if alpha := agreement_of(voted):
        metrics |= {
            "data/annotator_alpha": alpha.alpha,
            "data/annotator_alpha_lower": alpha.low,
            "data/annotator_alpha_upper": alpha.high,
        }
    return metrics | {name: sum(values) / len(values) for name, values in means.items() if values}


def _broken(tables: dict[str, Table], rule: str) -> int:
    """Return the number of rows that are quarantined under a rule, or noted by it."""
    return sum(len(table.broken(rule)) for table in tables.values())


def _pairs(splits: Splits) -> SplitRows:
    """Return the training comparisons, the new ones last; none of them may be there."""
    return SplitRows(
        [entry for name in (PAIRS, NEW_TRAIN) if name in splits for entry in splits[name].entries]
    )


def _feedback_means(splits: Splits) -> dict[str, list[float]]:
    """Return the values of the training feedback whose means are metrics."""
    frame = split_frame(splits.get(THUMBS, SplitRows([])), is_feedback=True)
    longer = frame["longer_wins"].dropna().tolist()
    return {"data/up_share": frame["is_up"].tolist(), "data/longer_up": longer}


def _reserved(table: Table) -> int:
    """Return the number of rows that are set aside for later held-out folds."""
    return sum(entry.is_in("reserve") for entry in table.kept)


def _share_dropped(table: Table) -> float:
    return sum(counts_as_dropped(table, entry) for entry in table.entries) / len(table.entries)


def _counts(tables: dict[str, Table]) -> dict[str, dict]:
    """Return the counts of rows by source; 'reserved' where there is a reserve."""
    reserved = {name: {"reserved": _reserved(table)} for name, table in tables.items()}
    has_reserve = any(one["reserved"] for one in reserved.values())
    return {
        name: _counts_of(table) | (reserved[name] if has_reserve else {})
        for name, table in tables.items()
    }


def _counts_of(table: Table) -> dict:
    by_rule: dict[str, int] = {}
    for entry in table.entries:
        if entry.rule:
            by_rule[entry.rule] = by_rule.get(entry.rule, 0) + 1
    read, kept = len(table.entries), len(table.kept)
    return {
        "file": table.file,
        "read": read,
        "kept": kept,
        "quarantined": read - kept,
        "by_rule": by_rule,
    }


def write_report(path: Path, report: dict) -> None:
    """Write report.json, report.table.json and data_docs/index.html into `path`.

    The table is {"columns", "data"}.
    """
    rows = [[_cell(item[column]) for column in COLUMNS] for item in report["rules"]]
    write_atomically(path / "report.json", json.dumps(report, indent=2, ensure_ascii=False))
    write_atomically(
        path / "report.table.json",
        json.dumps({"columns": COLUMNS, "data": rows}, ensure_ascii=False),
    )
    write_atomically(path / "data_docs" / "index.html", _page(path / "data_docs", report))


def _cell(value: object) -> object:
    if value is None:
        return ""
    return (
        f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else value
    )


def _page(docs: Path, report: dict) -> str:
    """Return one HTML page without a script or a remote part."""
    failed = [item for item in report["rules"] if not item["passed"]]
    errors = sum(item["severity"] == "error" for item in failed)
    links = sorted(
        page.relative_to(docs).as_posix() for page in (docs / "validations").rglob("*.html")
    )
    rules = [
        ({c: _cell(item[c]) for c in COLUMNS}, "" if item["passed"] else item["severity"])
        for item in report["rules"]
    ]
    rows = [({"source": name, **count}, "") for name, count in report["rows"].items()]
    splits = [({"split": name, **item}, "") for name, item in report["splits"].items()]
    items = "".join(
        f'<li><a href="{escape(link)}">{escape(link.split("/")[1])}</a></li>' for link in links
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Data'
        f" validation</title><style>{_STYLE}</style>"
        f"</head><body><h1>Data validation: {'refused' if errors else 'passed'}</h1>"
        f"<p>{len(report['rules'])} rules judged, {errors} errors, {len(failed) - errors}"
        " warnings.</p>"
        f"<h2>Rules</h2>{_html_table(rules)}<h2>Rows</h2>{_html_table(rows)}"
        f"<h2>Splits</h2>{_html_table(splits)}{_near_duplicates(report)}{_annotators(report)}"
        f"<h2>Great Expectations, one page a suite</h2><ul>{items}</ul></body></html>\n"
    )


def _near_duplicates(report: dict) -> str:
    rows = [({**item}, "") for item in report.get("near_duplicates", [])]
    if not rows:
        return ""
    return f"<h2>Near duplicates of held-out prompts, examples</h2>{_html_table(rows)}"


def _annotators(report: dict) -> str:
    rows = report["annotators"][:MOST_ANNOTATORS]
    if not rows:
        return ""
    cells = [({name: _cell(value) for name, value in row.items()}, "") for row in rows]
    note = (
        "with_others: share of votes with the majority of the others on the same pair, and its"
        " 95% interval. prefers_longer: share of votes for the longer answer."
    )
    shown = f"{len(rows)} of {len(report['annotators'])} annotators."
    return f"<h2>Annotators</h2><p>{shown} {note}</p>{_html_table(cells)}"


def _html_table(rows: list[tuple[dict, str]]) -> str:
    head = "".join(f"<th>{escape(str(column))}</th>" for column in rows[0][0])
    body = "".join(
        f'<tr class="{style}">'
        + "".join(f"<td>{escape(str(value))}</td>" for value in row.values())
        + "</tr>"
        for row, style in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
