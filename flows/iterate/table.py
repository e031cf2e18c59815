"""The rounds of a loop as the terminal shows them."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flows.iterate.result import IterationResult
from tasks.iterate.iteration import KL, PROXY, TRUTH, Iteration, IterationRound
from tasks.sweeps.figures import measured_text

# by head of the column: shown where a round has it
COLUMNS = {
    "true gain": TRUTH,
    "proxy gain": PROXY,
    "accuracy": "reward/accuracy",
    "accuracy, new": "reward/accuracy_new",
    "new, before": "reward/accuracy_new_before",
    "DPO accuracy": "dpo/accuracy",
    "KL": KL,
}
STYLES = {"refused": "red", "not promoted": "yellow"}


def result_lines(result: IterationResult, *, full_links: bool) -> Iterator[Table | Text]:
    """Yield a table with a row per round, what the columns mean, and the places of the files."""
    iteration = result.iteration
    yield _table(iteration, full_links)
    shown = columns_of(iteration)
    if "true gain" in shown or "proxy gain" in shown:
        yield Text(
            "Gains are over the SFT model on held-out prompts; the proxy is each round's own reward"
            " model."
        )
    yield Text(f"Labels: {result.folder}")
    if result.page:
        yield Text(f"Page: {result.page}")
    if iteration.link:
        yield Text(f"MLflow: {iteration.link}")
    if result.problem:
        yield Text(
            f"MLflow has not all of it yet ({result.problem}); the same command forwards the rest.",
            style="yellow",
        )


def columns_of(iteration: Iteration) -> dict[str, str]:
    """Return the columns that some round has, metric by head."""
    return {
        head: name
        for head, name in COLUMNS.items()
        if any(name in one.metrics for one in iteration.rounds)
    }


def outcome_text(one: IterationRound) -> str:
    """Return the outcome of a round, with the gates that refused it."""
    return f"{one.outcome} by {', '.join(one.refused_by)}" if one.refused_by else one.outcome


def markdown(iteration: Iteration) -> str:
    """Return the rounds as a table of Markdown."""
    shown = columns_of(iteration)
    head = ["round", "labels", *shown, "outcome", "run"]
    lines = [" | ".join(head), "|".join("---" for _ in head)]
    for one in iteration.rounds:
        measured = [measured_text(one.metrics.get(name)) for name in shown.values()]
        run = f"[{one.run}]({one.link})" if one.link else one.run
        spent = str(iteration.labels_spent(one.number))
        lines.append(" | ".join([str(one.number), spent, *measured, outcome_text(one), run]))
    return "\n".join(f"| {line} |" for line in lines)


def _table(iteration: Iteration, full_links: bool) -> Table:
    table = Table(title=iteration.name, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    shown = columns_of(iteration)
    table.add_column("round", justify="right", no_wrap=True)
    table.add_column("labels", justify="right", no_wrap=True)
    for head in shown:
        table.add_column(head, justify="right")  # on a narrow terminal the interval is below
    table.add_column("outcome", overflow="fold", min_width=12)
    table.add_column("run", overflow="fold")
    for one in iteration.rounds:
        measured = [measured_text(one.metrics.get(name)) for name in shown.values()]
        spent = str(iteration.labels_spent(one.number))
        cells = [str(one.number), spent, *measured, outcome_text(one)]
        table.add_row(*map(Text, cells), _run(one, full_links), style=STYLES.get(one.outcome))
    return table


def _run(one: IterationRound, full_links: bool) -> Text:
    if not one.link:
        return Text(one.run)
    return Text(f"{one.run} {one.link}") if full_links else Text(one.run, style=f"link {one.link}")
