"""The lineage graph as SVG: boxes in columns from data to policy, curves, measurements dashed."""

from markupsafe import Markup

from flows.report.charts import framed
from flows.report.page import join
from flows.report.text import shortened
from tasks.analysis.lineage_graph import MEASURING, Edge, Graph, Node

BOX, TALL = 216, 58
COLUMN, ROW = 258, 72
EDGE = 8
LETTERS = 29  # of a line in a box
Places = dict[str, tuple[float, float]]  # digest -> left upper corner


def picture(graph: Graph, root: str | None = None) -> Markup:
    """Return the graph as an HTML figure; '' for an empty graph. root: the node drawn bold."""
    if not graph.nodes:
        return Markup("")
    places = layout(graph)
    parts = [_edge(edge, places) for edge in graph.edges]
    parts += [_box(node, places[digest], digest == root) for digest, node in graph.nodes.items()]
    width = max(x for x, _ in places.values()) + BOX + EDGE
    height = max(y for _, y in places.values()) + TALL + EDGE
    svg = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role=img aria-label="Lineage">{}</svg>').format(
        width, height, join(parts)
    )
    note = "Blue: models, green: data. A dashed line measured its target and trained nothing."
    return framed("From data to policy", svg, note, classes="picture")


def layout(graph: Graph) -> Places:
    """Return the position of each node, left upper corner.

    A node's column is its longest path from a source. Its row is near its sources' rows, so that
    few lines cross.
    """
    depth: dict[str, int] = {}
    for digest in graph.nodes:
        _depth(graph, digest, depth)
    for digest in graph.nodes:  # a source is put one column before its first use
        if not graph.into(digest) and (out := graph.out_of(digest)):
            depth[digest] = min(depth[edge.target] for edge in out) - 1
    rows: dict[str, float] = {}
    for column in sorted(set(depth.values())):
        _stack([digest for digest in graph.nodes if depth[digest] == column], graph, rows)
    top = min(rows.values())
    return {
        digest: (EDGE + depth[digest] * COLUMN, EDGE + (rows[digest] - top) * ROW)
        for digest in graph.nodes
    }


def _stack(column: list[str], graph: Graph, rows: dict[str, float]) -> None:
    """Give the nodes of a column rows near the means of their sources, at least 1 apart.

    Their mean row stays the mean of the wanted rows.
    """
    wanted = {digest: _middle(graph, digest, rows) for digest in column}
    ordered = sorted(column, key=lambda digest: wanted[digest])
    placed: list[float] = []
    for digest in ordered:
        placed.append(max(wanted[digest], placed[-1] + 1) if placed else wanted[digest])
    shift = (sum(placed) - sum(wanted.values())) / len(column)
    rows |= {digest: row - shift for digest, row in zip(ordered, placed, strict=True)}


def _depth(graph: Graph, digest: str, known: dict[str, int]) -> int:
    if digest not in known:
        known[digest] = 0  # ends a cycle, which only contents given by hand could make
        known[digest] = max(
            (1 + _depth(graph, edge.source, known) for edge in graph.into(digest)), default=0
        )
    return known[digest]


def _middle(graph: Graph, digest: str, rows: dict[str, float]) -> float:
    """Return the mean row of a node's sources, or else of what measured it.

    A model without sources goes to the lowest row so far, data to row 0.
    """
    known = [edge for edge in graph.into(digest) if edge.source in rows]
    sources = [edge for edge in known if edge.role not in MEASURING] or known
    if sources:
        return sum(rows[edge.source] for edge in sources) / len(sources)
    return max(rows.values(), default=0.0) if graph.nodes[digest].kind == "model" else 0.0


def _edge(edge: Edge, places: Places) -> Markup:
    (x1, y1), (x2, y2) = places[edge.source], places[edge.target]
    start, end, bend = x1 + BOX, x2, max(30.0, (x2 - x1 - BOX) / 2)
    path = (
        f"M{start:.0f},{y1 + TALL / 2:.0f} C{start + bend:.0f},{y1 + TALL / 2:.0f} "
        f"{end - bend:.0f},{y2 + TALL / 2:.0f} {end:.0f},{y2 + TALL / 2:.0f}"
    )
    measured = " measured" if edge.role in MEASURING else ""
    return Markup('<path class="edge{}" d="{}"><title>{}</title></path>').format(
        measured, path, edge.role
    )


def _box(node: Node, place: tuple[float, float], root: bool) -> Markup:
    x, y = place
    kind = f"{node.kind} root" if root else node.kind
    last = "; ".join(node.versions) or (
        f"by {node.stage}" if node.stage else "given, or made by another run"
    )
    hint = f"{node.name}\n{node.digest}\n{last}\nin {', '.join(node.runs)}"
    return Markup(
        '<g><rect class="box {}" x="{x:.0f}" y="{:.0f}" width={} height={}'
        ' rx=8><title>{}</title></rect><text class=strong x="{left:.0f}" y="{:.0f}">{}</text><text'
        ' class=tick x="{left:.0f}" y="{:.0f}">{}</text><text class=tick x="{left:.0f}"'
        ' y="{:.0f}">{}</text></g>'
    ).format(
        kind,
        y,
        BOX,
        TALL,
        hint,
        y + 19,
        shortened(node.name, LETTERS),
        y + 35,
        node.digest[:12],
        y + 50,
        shortened(last, LETTERS + 2),
        x=x,
        left=x + 10,
    )
