"""The results of the rules, by Great Expectations. Only this file imports it.

Great Expectations fails open: an empty frame, an empty suite and a column of nulls all succeed. A
check here passes only if it succeeded *and* was evaluated on every row, without an exception.
"""

import math
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, SupportsFloat

import pandas as pd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations of marshmallow and pandas
    import great_expectations as gx
    import great_expectations.expectations as gxe

from rlhf_core.config import Severity

_REMOTE = re.compile(
    r"<script\b[^>]*\bsrc=[\"']https?:[^>]*>.*?</script>"
    r"|<(?:link|img)\b[^>]*\b(?:href|src)=[\"']https?:[^>]*>",
    re.S,
)
_STYLE = (
    "<style>body{font:14px/1.4 sans-serif;margin:1.5em;color:#222;background:#fff}"
    "table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.3em .6em;text-align:left}"
    "button,nav,.modal,footer{display:none!important}</style>"
)


@dataclass(frozen=True)
class Expectation:
    """One rule on one source's frame.

    kind 'rows': at least `low` rows. 'flag': at most a share `high` of the rows has True in
    `column`. 'present': some value in `column` is not null. 'mean': low <= mean of `column` <=
    high, without nulls.
    """

    rule: str
    source: str
    severity: Severity
    kind: Literal["rows", "flag", "present", "mean"]
    column: str = ""  # none for kind 'rows'
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ExpectationResult:
    """The result of a check.

    found: rows, share of flagged rows, share of nulls or mean; None if it could not be evaluated.
    evaluated: rows that were looked at.
    """

    passed: bool
    found: float | None
    evaluated: int


def evaluate(
    frames: dict[str, pd.DataFrame], checks: list[Expectation], docs: Path
) -> tuple[list[ExpectationResult], dict]:
    """Return the results in the order of `checks`, and a summary.

    Writes Data Docs (HTML without remote parts) into `docs`.
    """
    shutil.rmtree(docs, ignore_errors=True)  # pages of an earlier try that did not finish
    context = _context(docs)
    results: dict[int, ExpectationResult] = {}
    summary = {}
    for name, frame in frames.items():
        numbered = [(i, check) for i, check in enumerate(checks) if check.source == name]
        assert numbered, f"no check looks at {name}: an empty suite would succeed"
        outcome = _run_suite(context, name, frame, numbered)
        summary[name] = {
            "success": bool(outcome.success),
            **{k: plain_number(v) for k, v in outcome.statistics.items()},
        }
        for result in outcome.results:
            i = result.expectation_config.meta["check"]
            results[i] = _checked(checks[i], result, frame)
    missing = [check for i, check in enumerate(checks) if i not in results]
    assert not missing, f"not evaluated: {missing}"
    context.build_data_docs(site_names=["docs"])
    _make_local(docs)
    return [results[i] for i in range(len(checks))], {"version": gx.__version__, "suites": summary}


def plain_number(value: SupportsFloat | None) -> float | int | None:
    """Return a Python number; None for null, NaN and infinities."""
    if value is None or not math.isfinite(value):
        return None
    number = float(value)
    return int(number) if number.is_integer() else number


def _context(docs: Path) -> Any:
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    for site in context.get_site_names():
        context.delete_data_docs_site(site)
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": store,
        "site_index_builder": index,
    }
    context.add_data_docs_site(site_name="docs", site_config=site)
    return context


def _run_suite(
    context: Any, name: str, frame: pd.DataFrame, numbered: list[tuple[int, Expectation]]
) -> Any:
    suite = context.suites.add(gx.ExpectationSuite(name=name))
    for i, check in numbered:
        suite.add_expectation(_expectation(check, meta={"check": i, "rule": check.rule}))
    batch = (
        context.data_sources.add_pandas(name)
        .add_dataframe_asset(name)
        .add_batch_definition_whole_dataframe("all")
    )
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=name, data=batch, suite=suite)
    )
    form = {"result_format": "SUMMARY", "unexpected_index_column_names": ["line"]}
    return definition.run(batch_parameters={"dataframe": frame}, result_format=form)


def _expectation(check: Expectation, meta: dict) -> gxe.Expectation:
    severity = "critical" if check.severity == "error" else "warning"
    common = {"meta": meta, "severity": severity}
    if check.kind == "rows":
        assert check.low is not None
        return gxe.ExpectTableRowCountToBeBetween(min_value=int(check.low), **common)
    if check.kind == "flag":
        assert check.high is not None
        mostly = round(1 - check.high, 12)
        return gxe.ExpectColumnValuesToBeInSet(
            column=check.column, value_set=[False], mostly=mostly, **common
        )
    if check.kind == "present":
        return gxe.ExpectColumnValuesToNotBeNull(column=check.column, mostly=1e-9, **common)
    return gxe.ExpectColumnMeanToBeBetween(
        column=check.column, min_value=check.low, max_value=check.high, **common
    )


def _checked(check: Expectation, result: Any, frame: pd.DataFrame) -> ExpectationResult:
    rows, body = len(frame), result.result
    if _raised(result.exception_info):
        return ExpectationResult(False, None, 0)
    if check.kind == "rows":
        found, complete = body.get("observed_value"), body.get("observed_value") == rows
        return ExpectationResult(
            bool(result.success) and complete and rows > 0, plain_number(found), rows
        )
    if check.kind == "mean":
        seen = int(frame[check.column].notna().sum())
        found = plain_number(body.get("observed_value")) if seen else None
        return ExpectationResult(bool(result.success) and found is not None, found, seen)
    seen = int(body.get("element_count") or 0)
    if check.kind == "flag":
        seen -= int(body.get("missing_count") or 0)
    found = plain_number(int(body.get("unexpected_count") or 0) / seen) if seen else None
    return ExpectationResult(bool(result.success) and seen == rows > 0, found, seen)


def _raised(info: dict) -> bool:
    """Return True if the evaluation raised. The information is one dict, or one per metric."""
    nested = [value for value in info.values() if isinstance(value, dict)]
    return any(item.get("raised_exception") for item in nested or [info])


def _make_local(docs: Path) -> None:
    """Remove everything that a browser would fetch from elsewhere.

    The pages stay readable without a network.
    """
    for page in docs.rglob("*.html"):
        text = _REMOTE.sub("", page.read_text(encoding="utf-8"))
        page.write_text(text.replace("</head>", f"{_STYLE}</head>", 1), encoding="utf-8")
    for picture in (docs / "static").rglob("*"):
        if picture.suffix in (".gif", ".png", ".svg", ".otf"):
            picture.unlink()
