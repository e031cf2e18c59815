"""The comparison and the lineage as terminal tables and trees."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from flows.report.comparison import is_key
from flows.report.comparison_tables import PINNED
from flows.report.seed_table import spread_text
from flows.report.text import interval, shortened, text_of
from tasks.analysis.comparison import Comparison, ReplySample, WinRate
from tasks.analysis.differences import Difference
from tasks.analysis.lineage import Lineage
from tasks.analysis.lineage_graph import MEASURING, Graph, Node
from tasks.analysis.metric_rows import MetricRow
from tasks.analysis.seed_groups import SeedRow
from tasks.analysis.significance import Finding

VALUE = 70  # characters of a value that differs
REPLY = 240
COLORS = {
    "too few items": "yellow",
    "not comparable": "yellow",
    "no interval": "dim",
    "missing": "dim",
    "identical": "dim",
}


def comparison_lines(comparison: Comparison, samples: int) -> Iterator[RenderableType]:
    """Yield the differences, metrics with verdicts, win rates, replies and cautions.

    `samples` prompts are shown with their replies, from both ends of the order.
    """
    names = comparison.names
    yield from _all_differences(comparison)
    if key := [row for row in comparison.metrics if is_key(row)]:
        yield _metrics(names, key)
    for win_rate in comparison.win_rates:
        yield _win_rate(win_rate)
    if comparison.seed_groups:
        names = [group.name for group in comparison.seed_groups]
        yield _seeds(names, [row for row in comparison.seed_metrics if is_key(row)])
    if comparison.samples and samples:
        yield from _samples(comparison, samples)
    for note in comparison.cautions:
        yield Text(f"note: {note}", style="dim")


def _all_differences(comparison: Comparison) -> Iterator[RenderableType]:
    for group, rows in comparison.differences.items():
        shown = [row for row in rows if PINNED not in row.key]
        if shown:
            yield _differences(group, comparison.names, shown)
        if len(rows) > len(shown):
            yield Text(
                f"  and {len(rows) - len(shown)} packages pinned to other versions (see --json)",
                style="dim",
            )
    if same := [group for group, rows in comparison.differences.items() if not rows]:
        yield Text(f"The same in all: {', '.join(same)}", style="dim")


def _differences(group: str, names: list[str], rows: list[Difference]) -> Table:
    table = _table(f"What differs: {group}", ["", *names])
    for row in rows:
        table.add_row(
            row.key,
            *(Text(shortened(value, VALUE) if value is not None else "-") for value in row.values),
        )
    return table


def _metrics(names: list[str], rows: list[MetricRow]) -> Table:
    table = _with_findings("Metrics", names)
    for row in rows:
        cells: list[RenderableType] = [Text(row.metric)]
        cells += [
            Text(f"{text_of(v.value)} {interval(v.low, v.high)}".strip() if v else "-")
            for v in row.values
        ]
        table.add_row(*cells, *_findings(row.against))
    return table


def _seeds(names: list[str], rows: list[SeedRow]) -> Table:
    table = _with_findings("Over seeds", names)
    for row in rows:
        cells: list[RenderableType] = [Text(row.metric)]
        for spread in row.spreads:
            mean = "-" if spread is None else f"{text_of(spread.mean)} ({spread_text(spread)})"
            cells.append(Text(mean))
        table.add_row(*cells, *_findings(row.against))
    return table


def _with_findings(title: str, names: list[str]) -> Table:
    """Return an empty table with a column per name, and two for each later name's finding."""
    table = _table(title, ["metric", *names])
    for name in names[1:]:
        table.add_column(
            "difference" if len(names) == 2 else f"{name} - {names[0]}", overflow="fold"
        )
        table.add_column("verdict", overflow="fold")
    return table


def _findings(against: list[Finding]) -> Iterator[Text]:
    for found in against:
        bounds = interval(found.low, found.high, signed=True)
        yield Text(f"{text_of(found.difference, signed=True)} {bounds}".strip())
        yield _verdict(found)


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=not place)
    return table


def _verdict(found: Finding) -> Text:
    parts = [found.sample, found.note or found.method, found.probability]
    note = "; ".join(filter(None, parts))
    if found.better is None:
        word, color = str(found.verdict), COLORS.get(found.verdict, "")
    elif found.better:
        word, color = f"better, {found.verdict}", "green"
    else:
        word, color = f"worse, {found.verdict}", "red"
    return Text.assemble((word, color), (f" ({note})" if note else "", "dim"))


def _win_rate(win_rate: WinRate) -> Text:
    found = win_rate.finding
    rate = "not known" if found.difference is None else f"{found.difference:.1%}"
    bounds = f" [{found.low:.1%}, {found.high:.1%}]" if found.low is not None else ""
    return Text.assemble(
        f"{win_rate.run} wins {rate}{bounds} of prompts over {win_rate.over}"
        f" by the {win_rate.judge}: ",
        _verdict(found),
    )


def _samples(comparison: Comparison, count: int) -> Iterator[RenderableType]:
    """Yield the first prompts of the order and, where there are more, the last ones."""
    ordered = chosen = comparison.samples
    if len(ordered) > count:
        chosen = [*ordered[: (count + 1) // 2], *ordered[len(ordered) - count // 2 :]]
    yield Text(
        f"Replies to the same prompts, {len(chosen)} of {len(ordered)}; scores: {comparison.scale}",
        style="bold",
    )
    for sample in chosen:
        yield _sample(comparison.names, sample)


def _sample(names: list[str], sample: ReplySample) -> RenderableType:
    lead = ""
    if sample.difference is not None:
        lead = f"  (difference {text_of(sample.difference, signed=True)})"
    parts: list[RenderableType] = [
        Text.assemble((shortened(sample.prompt, REPLY), "bold"), (lead, "cyan"))
    ]
    for name, reply, score in zip(names, sample.replies, sample.scores, strict=True):
        text = Text.assemble(
            (f"{name} ({text_of(score)}): ", "dim"), shortened(" ".join(reply.split()), REPLY)
        )
        parts.append(Padding(text, (0, 0, 0, 2)))
    return Group(*parts)


def lineage_tree(lineage: Lineage) -> Tree:
    """Return the tree of what a model was made from, or of what data went into.

    The branches of a content are shown once; after that it is only named.
    """
    root = lineage.graph.nodes[lineage.root]
    tree = Tree(_node(root))
    _grow(tree, lineage.graph, root.digest, {root.digest}, down=lineage.saw is not None)
    return tree


def _grow(tree: Tree, graph: Graph, digest: str, seen: set[str], *, down: bool) -> None:
    for edge in graph.out_of(digest) if down else graph.into(digest):
        other = graph.nodes[edge.target if down else edge.source]
        role = _passive(edge.role) if down else edge.role
        known = other.digest in seen
        label = Text.assemble(
            (f"{role}: ", "dim"), _node(other), (" (see above)" if known else "", "dim")
        )
        branch = tree.add(label)
        if not known and not (down and edge.role in MEASURING):
            seen.add(other.digest)
            _grow(branch, graph, other.digest, seen, down=down)


def _passive(role: str) -> str:
    """Return the role of an edge in words that read from its source."""
    words = {
        "made from": "became",
        "trained on": "trained",
        "starts from": "start of",
        "trained against": "rewarded",
    }
    return (words | {"compared with": "compared with", "scored by": "scored"}).get(role, "measured")


def _node(node: Node) -> Text:
    color = "blue" if node.kind == "model" else "green"
    versions = "  " + ", ".join(node.versions) if node.versions else ""
    made = "given, or made by another run"
    if node.stage:
        made = f"by {node.stage} in {', '.join(node.runs)}"
    return Text.assemble(
        (node.name, f"bold {color}"),
        f"  {node.digest[:12]}",
        (versions, "yellow"),
        (f"  {made}", "dim"),
    )


def saw_table(lineage: Lineage) -> Table:
    """Return a table of every model that saw the data."""
    table = _table("Models that saw it", ["model", "digest", "how", "versions", "runs"])
    for digest, how in (lineage.saw or {}).items():
        node = lineage.graph.nodes[digest]
        words = {
            "trained": "trained on it, or made from a model that was",
            "measured": "only measured on it",
        }[how]
        table.add_row(
            node.name, digest[:12], words, ", ".join(node.versions) or "-", ", ".join(node.runs)
        )
    return table
