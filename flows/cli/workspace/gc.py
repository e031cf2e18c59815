"""`rlhf gc`: remove old run directories, leftovers, caches and reports that nothing needs."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson
from flows.cli.output import print_json
from flows.report.text import counted
from flows.settings import quiet_libraries

if TYPE_CHECKING:
    from tasks.cleanup.retention import Item, Kept

OlderThan = Annotated[
    float,
    typer.Option(min=0, metavar="DAYS", help="Remove only what nobody has used for this long"),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing")
]


def gc(older_than: OlderThan = 30.0, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Remove old run directories, cached results and reports that nothing needs.

    Keeps what a registered version, a ledger entry or an open run needs. Cached are results on
    benchmarks, versions fetched from a server, and held-out splits without leaked prompts.
    """
    quiet_libraries()
    from tasks.cleanup import retention
    from tasks.records.workspace import Workspace

    workspace = Workspace.here()
    found = retention.plan(workspace, older_than, say=lambda text: print(text, file=sys.stderr))
    gone = found.remove if dry_run else retention.remove(workspace, found, older_than)
    if as_json:
        removed, kept = [vars(item) for item in gone], [vars(item) for item in found.keep]
        print_json({"dry_run": dry_run, "removed": removed, "kept": kept})
        return
    for item in gone:
        print(
            f"{readable(item.bytes):>10}  {item.days:5.0f} days  {item.what}:"
            f" {item.path.relative_to(workspace.home)}"
        )
    _print_summary(gone, found.keep, dry_run)


def readable(size: float) -> str:
    """Return a number of bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _print_summary(gone: "list[Item]", kept: "list[Kept]", dry_run: bool) -> None:
    word = "would be removed" if dry_run else "removed"
    print(
        f"{len(gone)} {word}, {readable(sum(item.bytes for item in gone))};"
        f" {counted(len(kept), 'run directory', 'run directories')} kept,"
        f" {readable(sum(item.bytes for item in kept))}"
    )
    for why, count in _counted([item.why for item in kept]).items():
        print(f"    {count} kept: {why}")


def _counted(reasons: list[str]) -> dict[str, int]:
    """Return how often each reason occurs, without the names of single directories."""
    short = [
        reason.split(" of ")[0] if reason.startswith("input of") else reason for reason in reasons
    ]
    short = ["used lately" if reason.startswith("used ") else reason for reason in short]
    return {reason: short.count(reason) for reason in dict.fromkeys(short)}
