"""`rlhf ui`: MLflow's and Prefect's pages for this workspace."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Debug

if TYPE_CHECKING:
    from flows.platform.pages import Page

MlflowPagePort = Annotated[
    int | None, typer.Option(help="MLflow's port (default: 5000, or a free one)")
]
PrefectPagePort = Annotated[
    int | None, typer.Option(help="Prefect's port (default: 4200, or a free one)")
]
Browser = Annotated[
    bool, typer.Option("--browser/--no-browser", help="Open MLflow's page in the browser")
]


def ui(
    port: MlflowPagePort = None,
    prefect_port: PrefectPagePort = None,
    browser: Browser = True,
    debug: Debug = False,
) -> None:
    """Serve MLflow's page and Prefect's page for this workspace, until Ctrl-C."""
    from flows.platform.pages import serve
    from tasks.records.workspace import Workspace
    from tasks.tracking.address import redacted

    def ready(pages: list["Page"]) -> None:
        for page in pages:
            print(f"{page.name:8} {redacted(page.url)}", flush=True)
        print("Ctrl-C ends both.", flush=True)
        if browser:
            typer.launch(pages[0].url)

    print("starting MLflow's and Prefect's pages, about 15 s ...", file=sys.stderr, flush=True)
    serve(Workspace.here(), (port, prefect_port), ready)
