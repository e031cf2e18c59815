"""`rlhf gates`: what the gates of a run said, and on what evidence."""

import json
from typing import Annotated

import typer

STYLES = {"refused": "red", "overridden": "yellow", "warning": "yellow"}
WIDE = 1000  # columns of a table that is not printed to a terminal: no reason is folded
CELL = 160  # characters of an item's text


def run_names(incomplete: str) -> list[str]:
    """Run names, for shell completion."""
    from tasks.analysis.gate_report import run_names as known
    from tasks.records.workspace import Workspace

    return [name for name in ("latest", *known(Workspace.here())) if name.startswith(incomplete)]


def gates(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's name (see rlhf status), the beginning of its id, latest or latest~1",
            autocompletion=run_names,
        ),
    ] = "latest",
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Show one gate in full, with its evidence and worst items: NAME or STAGE.NAME",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output")
    ] = False,
) -> None:
    """What each gate of a run said: value, interval, samples, rule, verdict and reason."""
    from tasks.analysis import gate_report
    from tasks.records.workspace import Workspace

    record = gate_report.find_run(Workspace.here(), run)
    found = (
        gate_report.explain(record, explain)
        if explain
        else {"run": record.name, "gates": gate_report.rows(record)}
    )
    if as_json:
        print(json.dumps(found, indent=2, default=str))
    elif explain:
        _print_explanation(found)
    elif found["gates"]:
        _console().print(_table(found))
    else:
        print(f"No gate of {record.name} was decided: none of its stages with a gate has finished.")


def _console():
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def _table(found: dict):
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"Gates of {found['run']}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for column in ("stage", "gate", "value", "interval", "n", "required", "verdict"):
        table.add_column(
            column, no_wrap=True, justify="right" if column in ("value", "n") else "left"
        )
    table.add_column("reason", overflow="fold")
    for row in found["gates"]:
        cells = (
            row["stage"],
            row["gate"],
            _value(row),
            _interval(row),
            str(row["n"] or ""),
            row["rule"],
        )
        verdict = Text(row["verdict"], style=STYLES.get(row["verdict"], "green"))
        table.add_row(*map(Text, cells), verdict, Text(row["reason"]))
    return table


def _value(row: dict) -> str:
    if row["value"] is None:
        return "-" if row["passed"] else "missing"
    return f"{row['value']:.4g}"


def _interval(row: dict) -> str:
    if row["interval"] is None:
        return ""
    low, high = row["interval"]
    return f"{low:.4g} to {high:.4g} ({100 * (row['confidence'] or 0.95):g}%)"


def _print_explanation(found: dict) -> None:
    from rich.text import Text

    console, decision = _console(), found["decision"]
    verdict = Text(decision["verdict"], style=STYLES.get(decision["verdict"], "green"))
    console.print(Text(f"{decision['stage']}.{decision['gate']} of {found['run']}: ") + verdict)
    lines = [*_lines(decision, found["evidence"]), ("items", _about(found["worst"]))]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        console.print(Text(f"  {name:{width}}  ", style="bold") + Text(text), soft_wrap=True)
    for place, row in enumerate(found["worst"].get("data", ()), start=1):
        console.print(Text(_item(place, found["worst"]["columns"], row)), soft_wrap=True)


def _lines(decision: dict, evidence: dict) -> list[tuple[str, str]]:
    """What is known of a decision, a line each; what there is not is left out."""
    override, code = decision["override"], decision["code"]
    lines = {
        "reason": decision["reason"],
        "looks at": decision["quantity"],
        "required": (
            f"{decision['rule']} (severity {decision['severity']}, at least"
            f" {decision['min_n'] or 1} samples)"
        ),
        "value": _value(decision) + (f", n = {decision['n']}" if decision["n"] is not None else ""),
        "interval": _interval(decision) + (f": {decision['how']}" if decision["how"] else ""),
        "override": (
            f"to {override['threshold']:g} by {override['by']}: {override['reason']}"
            if override
            else ""
        ),
        "model": (
            f"{decision['model_digest']}  {evidence['model'] or ''}"
            if decision["model_digest"]
            else ""
        ),
        **{
            name: f"{digest}  {evidence['data'].get(name, '')}"
            for name, digest in decision["data_digests"].items()
        },
        "champion": decision["champion_digest"] or "",
        "code": f"{code}, commit {decision['commit']}" if code else "",
        "decided at": decision["decided_at"],
        "evidence": evidence["items"] or evidence["result"],
        "figure": evidence["figure"] or "",
        "run directory": evidence["run_dir"],
    }
    return [(name, text) for name, text in lines.items() if text]


def _about(worst: dict) -> str:
    if "problem" in worst:
        return worst["problem"]
    if not worst["data"]:
        return "none counts against it"
    return (
        f"the {len(worst['data'])} that count most against it, the worst first (--json: whole"
        " texts)"
    )


def _item(place: int, columns: list[str], row: list) -> str:
    """One item: its numbers on a line, then each text on its own."""
    cells = dict(zip(columns, row, strict=True))
    texts = {name: text for name, text in cells.items() if isinstance(text, str)}
    numbers = ", ".join(
        f"{name} {_number(value)}" for name, value in cells.items() if name not in texts
    )
    return "\n".join(
        [f"{place:4}. {numbers}", *(f"      {name}: {_cut(text)}" for name, text in texts.items())]
    )


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= CELL else line[: CELL - 1] + "…"
