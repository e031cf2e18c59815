"""The gates of a run as a table, and one gate in full."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flows.report.text import shortened

STYLES = {"refused": "red", "overridden": "yellow", "warning": "yellow"}
COLUMNS = ("stage", "gate", "value", "interval", "n", "required", "verdict")
NUMBERS = ("value", "n")
LONGEST = 160  # characters of an item's text


def gate_table(found: dict) -> Table:
    """Return one row per decision of a run."""
    table = Table(
        title=f"Gates of {found['run']}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for column in COLUMNS:
        table.add_column(column, no_wrap=True, justify="right" if column in NUMBERS else "left")
    table.add_column("reason", overflow="fold")
    for row in found["gates"]:
        cells = (
            row["stage"],
            row["gate"],
            _value(row),
            _interval(row),
            str(row["n"] or "") + _of_prompts(row),
            row["rule"],
        )
        table.add_row(*map(Text, cells), _verdict(row), Text(row["reason"]))
    return table


def explanation(found: dict) -> Iterator[Text]:
    """Yield the lines about one gate: its verdict, what is known of it, its worst items."""
    decision, worst = found["decision"], found["worst"]
    yield Text(f"{decision['stage']}.{decision['gate']} of {found['run']}: ") + _verdict(decision)
    facts = [*_facts(decision, found["evidence"]), ("items", _items_shown(worst))]
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        yield Text(f"  {name:{width}}  ", style="bold") + Text(text)
    for place, row in enumerate(worst.get("data", ()), start=1):
        yield Text(_item(place, worst["columns"], row))


def _verdict(row: dict) -> Text:
    return Text(row["verdict"], style=STYLES.get(row["verdict"], "green"))


def _value(row: dict) -> str:
    if row["value"] is None:
        return "-" if row["passed"] else "missing"
    return f"{row['value']:.4g}"


def _of_prompts(row: dict) -> str:
    """Return the number of prompts behind a sample size; '' where each item has its own."""
    return f" of {row['n_prompts']} prompts" if row.get("n_prompts") else ""


def _interval(row: dict) -> str:
    if row["interval"] is None:
        return ""
    low, high = row["interval"]
    return f"{low:.4g} to {high:.4g} ({100 * (row['confidence'] or 0.95):g}%)"


def _facts(decision: dict, evidence: dict) -> list[tuple[str, str]]:
    """Return name and text of each known fact about a decision; unknown ones are left out."""
    facts = {
        **_rule_facts(decision),
        **_contest_facts(decision.get("contest")),
        **_source_facts(decision, evidence),
        "decided at": decision["decided_at"],
        "evidence": evidence["items"] or evidence["result"],
        "figure": evidence["figure"] or "",
        "run directory": evidence["run_dir"],
    }
    return [(name, text) for name, text in facts.items() if text]


def _rule_facts(decision: dict) -> dict[str, str]:
    """Return what was measured and what was required."""
    counted = decision["n"] is not None
    samples = f", n = {decision['n']}{_of_prompts(decision)}" if counted else ""
    method = f": {decision['how']}" if decision["how"] else ""
    override = decision["override"]
    return {
        "reason": decision["reason"],
        "looks at": decision["quantity"],
        "required": (
            f"{decision['rule']} (severity {decision['severity']}, at least"
            f" {decision['min_n'] or 1} samples)"
        ),
        "value": _value(decision) + samples,
        "interval": _interval(decision) + method,
        "override": (
            f"to {override['threshold']:g} by {override['by']}: {override['reason']}"
            if override
            else ""
        ),
    }


def _contest_facts(contest: dict | None) -> dict[str, str]:
    """Return every comparison that decides a contest, and its place among the looks."""
    if contest is None:
        return {}
    found = [_comparison(each) for each in contest["comparisons"]]
    level, p_value = (
        contest["level"],
        max(
            (each["p_value"] for each in contest["comparisons"] if each["p_value"] is not None),
            default=None,
        ),
    )
    return {
        "decided by": "; ".join(found),
        "look": (
            f"contest {contest['look']} on these held-out prompts, {contest['spent']:.0%} of their"
            " error budget spent"
        ),
        "level": "" if level is None else f"one-sided {level:.3g}",
        "p-value": "" if p_value is None else f"{p_value:.3g}",
        "reward models": contest["note"],
    }


def _comparison(found: dict) -> str:
    if found["share"] is None:
        return f"{found['metric']}: missing"
    low, high = found["interval"] or (None, None)
    between = "" if low is None else f" ({low:.4g} to {high:.4g})"
    word = "won" if found["passed"] else "not won"
    return f"{found['metric']} {found['share']:.4g}{between} of {found['n']}, {word}"


def _source_facts(decision: dict, evidence: dict) -> dict[str, str]:
    """Return which model, data and code the decision is about."""
    model, code = decision["model_digest"], decision["code"]
    data = {
        name: f"{digest}  {evidence['data'].get(name, '')}"
        for name, digest in decision["data_digests"].items()
    }
    return {
        "model": f"{model}  {evidence['model'] or ''}" if model else "",
        **data,
        "champion": decision["champion_digest"] or "",
        "code": f"{code}, commit {decision['commit']}" if code else "",
    }


def _items_shown(worst: dict) -> str:
    if "problem" in worst:
        return worst["problem"]
    if not worst["data"]:
        return "none counts against it"
    return (
        f"the {len(worst['data'])} that count most against it, the worst first (--json: whole"
        " texts)"
    )


def _item(place: int, columns: list[str], row: list) -> str:
    """Return one item: its numbers on one line, then one line per text."""
    cells = dict(zip(columns, row, strict=True))
    texts = {name: text for name, text in cells.items() if isinstance(text, str)}
    numbers = ", ".join(
        f"{name} {_number(value)}" for name, value in cells.items() if name not in texts
    )
    return "\n".join(
        [
            f"{place:4}. {numbers}",
            *(
                f"      {name}: {shortened(' '.join(text.split()), LONGEST)}"
                for name, text in texts.items()
            ),
        ]
    )


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
