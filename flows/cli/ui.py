"""`rlhf ui`, `rlhf doctor`, `rlhf sync`, `rlhf recipes`: the workspace, the machine and what comes
with the project.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import AsJson, Debug, console, print_json
from rlhf_core.errors import RLHFError


def ui(
    port: Annotated[
        int | None, typer.Option(help="MLflow's port [default: 5000, or a free one]")
    ] = None,
    prefect_port: Annotated[
        int | None, typer.Option(help="Prefect's port [default: 4200, or a free one]")
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open MLflow's page in the browser")
    ] = True,
    debug: Debug = False,
) -> None:
    """Serve MLflow's page on this workspace's store, and Prefect's, until Ctrl-C."""
    from flows.platform.pages import Page, serve
    from tasks.records.workspace import Workspace

    def ready(pages: list[Page]) -> None:
        for page in pages:
            print(f"{page.name:8} {page.url}", flush=True)
        print("Ctrl-C ends both.", flush=True)
        if browser:
            typer.launch(pages[0].url)

    print("starting MLflow's and Prefect's pages, about 15 s ...", file=sys.stderr, flush=True)
    serve(Workspace.here(), (port, prefect_port), ready)


def doctor(as_json: AsJson = False) -> None:
    """Check this machine: versions, accelerator, memory, disk, compiler, ports, servers; and how to
    mend what is wrong.
    """
    from flows.platform.doctor import examine
    from tasks.records.workspace import Workspace

    checks = []
    for check in examine(Workspace.here().home):
        checks.append(check)
        if not as_json:
            _print_check(check)
    if as_json:
        print_json([vars(check) for check in checks])
    failed = sum(check.level == "fail" for check in checks)
    if failed:
        print(f"rlhf: {failed} of {len(checks)} checks failed", file=sys.stderr)
        raise typer.Exit(1)


def _print_check(check) -> None:
    color = {"ok": "green", "warn": "yellow", "fail": "red"}[check.level]
    out = console()
    out.print(f"[{color}]{check.level:4}[/]", end=" ")
    out.print(f"{check.name:15} {check.found}", markup=False, highlight=False, soft_wrap=True)
    if check.mend:
        out.print(
            f"     {'':15} to mend: {check.mend}", markup=False, highlight=False, soft_wrap=True
        )


def sync(as_json: AsJson = False, debug: Debug = False) -> None:
    """Forward to MLflow what it has not got yet, from runs made while it was down."""
    from flows.display.run import quiet_libraries

    quiet_libraries()
    from tasks.sweeps.tracking import sync as forward_all

    report = forward_all()
    if as_json:
        print_json(vars(report))
    else:
        print(f"forwarded: {', '.join(report.forwarded) or 'nothing'}")
    if report.waiting:
        raise RLHFError(
            f"{', '.join(report.waiting)} must wait: {report.problem}. Start MLflow and run rlhf"
            " sync again."
        )


def recipes(as_json: AsJson = False) -> None:
    """List the recipes that come with the project."""
    import tomllib

    rows = []
    for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.toml")):
        rows.append(
            {
                "name": path.stem,
                "description": tomllib.loads(path.read_text()).get("description", ""),
            }
        )
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print(f"{row['name']:16} {row['description']}")
