"""`rlhf gc`: remove old run directories, leftovers and reports that nothing refers to."""

import json
import sys
from typing import Annotated

import typer


def gc(
    older_than: Annotated[
        float,
        typer.Option(
            min=0, metavar="DAYS", help="Remove only what nobody has used for so many days"
        ),
    ] = 30.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output")
    ] = False,
) -> None:
    """Remove run directories, checkpoints and reports that are old and that no version, ledger
    entry or open run needs.
    """
    from flows.display.run import quiet_libraries

    quiet_libraries()
    from tasks.cleanup import retention
    from tasks.records.workspace import Workspace

    workspace = Workspace.here()
    found = retention.plan(workspace, older_than, say=lambda text: print(text, file=sys.stderr))
    gone = found.remove if dry_run else retention.remove(workspace, found, older_than)
    if as_json:
        print(
            json.dumps(
                {"dry_run": dry_run, "removed": gone, "kept": found.keep}, default=_plain, indent=2
            )
        )
        return
    for item in gone:
        print(
            f"{readable(item.bytes):>10}  {item.days:5.0f} days  {item.what}:"
            f" {item.path.relative_to(workspace.home)}"
        )
    word = "would be removed" if dry_run else "removed"
    print(f"{len(gone)} {word}, {readable(sum(item.bytes for item in gone))}; ", end="")
    print(
        f"{len(found.keep)} run directories kept,"
        f" {readable(sum(item.bytes for item in found.keep))}"
    )
    for why, count in _counted([item.why for item in found.keep]).items():
        print(f"    {count} kept: {why}")


def readable(size: float) -> str:
    """A number of bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _counted(reasons: list[str]) -> dict[str, int]:
    """How often each reason stands, the names of single directories left out."""
    short = [
        reason.split(" of ")[0] if reason.startswith("input of") else reason for reason in reasons
    ]
    short = ["used lately" if reason.startswith("used ") else reason for reason in short]
    return {reason: short.count(reason) for reason in dict.fromkeys(short)}


def _plain(value: object) -> object:
    return vars(value) if hasattr(value, "__dataclass_fields__") else str(value)
