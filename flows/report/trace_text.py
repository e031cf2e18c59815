"""A traced PPO batch in the terminal, and the phrases that its page uses too."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flows.report.text import shortened, text_of

PROMPT = 400  # characters
WHITESPACE = {"\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d"}


def trace_lines(flow: dict, tokens: dict) -> Iterator[RenderableType]:
    """Yield the data flow step by step, totals, notes, and a table per response."""
    for place, step in enumerate(flow["steps"], 1):
        yield Text.assemble(
            (f"{place}. {step['name']}", "bold cyan"),
            f": {step['title']}  ",
            (step["where"], "dim"),
        )
        yield Text("   " + facts(step))
        yield _tensors(step["tensors"])
    yield Text.assemble(
        ("Axes: ", "bold"), "; ".join(f"{axis} {meaning}" for axis, meaning in flow["axes"].items())
    )
    yield Text.assemble(("In all: ", "bold"), totals(flow))
    for note in flow["notes"]:
        yield Text(f"note: {note}", style="yellow")
    for row in tokens["rows"]:
        yield Text.assemble(("\n" + heading(row), "bold cyan"), f"  {sums(row)}")
        yield Text(shortened(row["prompt"], PROMPT), style="dim")
        yield _tokens(tokens["quantities"], row)


def facts(step: dict) -> str:
    """Return '0.31 s; forward passes: actor 4, critic 4; between ranks: 0 bytes'."""
    traffic = size(step["bytes_between_ranks"])
    calls = ", ".join(f"{name} {count}" for name, count in step["collectives"].items())
    return f"{step['seconds']:.2f} s; forward passes: {passes(step)}; between ranks: {traffic}" + (
        f" ({calls})" if calls else ""
    )


def passes(step: dict) -> str:
    """Return 'actor 4, critic 4', or 'none'."""
    return (
        ", ".join(f"{model} {count}" for model, count in step["forward_passes"].items()) or "none"
    )


def totals(flow: dict) -> str:
    """Return time, forward passes and traffic of the whole batch.

    Rank 0 writes the trace: of several ranks it counts its own passes.
    """
    several = flow["ranks"] > 1
    ranks, whose = f"{flow['ranks']} rank{'s' if several else ''}", " of rank 0" if several else ""
    sent = f"{size(flow['bytes_between_ranks'])} sent by a rank to others ({ranks})"
    return f"{flow['seconds']:.2f} s; forward passes{whose}: {passes(flow)}; {sent}"


def size(count: int) -> str:
    """Return a number of bytes as '812 bytes', '3.4 KiB' or '12 MiB'."""
    if count < 1024:
        return f"{count} bytes"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 1024
        if amount < 1024 or unit == "GiB":
            break
    return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:,.0f} {unit}"


def shape(tensor: dict) -> str:
    """Return a tensor's sides with their axes, as 'B 16 x R 12'; without axes the sides alone."""
    axes, sides = tensor["axes"], [str(side) for side in tensor["shape"]]
    named = [f"{axis} {side}" for axis, side in zip(axes, sides, strict=True)] if axes else sides
    return " \N{MULTIPLICATION SIGN} ".join(named)


def many(tensor: dict) -> str:
    """Return 'largest of 4' for a row that stands for several tensors; '' for one tensor."""
    if tensor["count"] == 1:
        return ""
    return f"{tensor['count']} tensors" if not tensor["axes"] else f"largest of {tensor['count']}"


def heading(row: dict) -> str:
    """Return 'Response 7 (longest, highest score)'."""
    return f"Response {row['row']}" + (f" ({', '.join(row['why'])})" if row["why"] else "")


def sums(row: dict) -> str:
    """Return length, end, score, summed reward and KL of a response."""
    count = len(row["tokens"])
    end = "ended by itself" if row["ended"] else "cut at the length limit"
    return (
        f"{count} token{'' if count == 1 else 's'}, {end}; score {number(row['score'])}, "
        f"summed reward {number(row['reward'])}, KL {number(row['kl'])} nats"
    )


def number(value: float | str | None) -> str:
    """Return four figures; 'none' without a value; 'nan' and 'inf' unchanged."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else text_of(value)


def visible(token: str) -> str:
    """Return a token with visible signs for its white space."""
    return "".join(WHITESPACE.get(letter, letter) for letter in token)


def _tensors(rows: list[dict]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("   tensor", no_wrap=True)
    for name in ("by", "shape", "type", "size"):
        table.add_column(name, no_wrap=True)
    table.add_column("meaning", overflow="fold")
    for row in rows:
        cells = (f"   {row['name']}", row["by"] or "", shape(row), row["dtype"], size(row["bytes"]))
        meaning = Text.assemble(row["meaning"], (f" [{many(row)}]" if many(row) else "", "dim"))
        table.add_row(*map(Text, cells), meaning)
    return table


def _tokens(quantities: dict, row: dict) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("#", justify="right", style="dim")
    table.add_column("token", no_wrap=True)
    for quantity in quantities.values():
        table.add_column(quantity["title"], justify="right")
    for place, token in enumerate(row["tokens"]):
        values = [row["values"][name] for name in quantities]
        cells = [number(column[place] if column else None) for column in values]
        table.add_row(str(place + 1), Text(visible(token), style="bold"), *map(Text, cells))
    return table
