"""`rlhf doctor`: check that this machine can run the pipeline."""

import sys
from typing import TYPE_CHECKING

import typer

from flows.cli.options import AsJson
from flows.cli.output import console, print_json

if TYPE_CHECKING:
    from flows.platform.doctor_packages import HealthCheck

COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(as_json: AsJson = False) -> None:
    """Check this machine, and say how to fix what is wrong.

    Checks versions, accelerator, memory, disk, compiler, ports, servers, proxies, home folder,
    workspace and current folder.
    """
    from flows.platform.doctor import examine
    from tasks.records.workspace import Workspace

    checks = []
    for check in examine(Workspace.here().home):
        checks.append(check)
        if not as_json:
            _print(check)
    if as_json:
        print_json([_values(check) for check in checks])
    failed = sum(check.level == "fail" for check in checks)
    if failed:
        print(f"rlhf: {failed} of {len(checks)} checks failed", file=sys.stderr)
        raise typer.Exit(1)


def _values(check: "HealthCheck") -> dict[str, str]:
    return {"name": check.name, "level": check.level, "found": check.found, "mend": check.fix}


def _print(check: "HealthCheck") -> None:
    out = console()
    out.print(f"[{COLORS[check.level]}]{check.level:4}[/]", end=" ")
    lines = [f"{check.name:15} {check.found}"]
    if check.fix:
        lines.append(f"     {'':15} to fix: {check.fix}")
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
