"""`rlhf up`: start the local platform."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson, Notify
from flows.cli.output import print_json, warn_without_stages
from flows.settings import quiet_libraries
from rlhf_core.errors import BadInput

if TYPE_CHECKING:
    from flows.platform.start import PlatformOptions
    from flows.platform.state import Platform
    from tasks.records.workspace import Workspace

PrefectServerPort = Annotated[
    int | None, typer.Option(help="Prefect's port (default: the last, 4200, or free)")
]
MlflowServerPort = Annotated[
    int | None, typer.Option(help="MLflow's port (default: the last, 5000, or free)")
]
PageServerPort = Annotated[
    int | None, typer.Option(help="Port of the team's page (default: the last, 5100, or free)")
]
Database = Annotated[
    str | None,
    typer.Option(
        envvar="RLHF_DATABASE_URL",
        help="PostgreSQL, postgresql://user:password@host:port (default: SQLite)",
    ),
]
PoolName = Annotated[str | None, typer.Option(help="Name of the work pool (default: rlhf)")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Runs that the worker starts at once (default: all due)")
]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart/--no-restart", help="With a keeper, which starts again what dies and cuts logs"
    ),
]
Systemd = Annotated[
    bool,
    typer.Option("--systemd", help="Print a systemd user unit for these options; start nothing"),
]


def up(
    prefect_port: PrefectServerPort = None,
    port: MlflowServerPort = None,
    database: Database = None,
    pool: PoolName = None,
    limit: Limit = None,
    page_port: PageServerPort = None,
    notify: Notify = None,
    restart: Restart = True,
    systemd: Systemd = False,
    as_json: AsJson = False,
) -> None:
    """Start Prefect, MLflow, a worker and the team's page, unless they run already.

    They keep running after this command has ended, and are started again when they die.
    """
    from flows.platform import start
    from flows.schedule.notify_target import require_form
    from tasks.records.workspace import Workspace

    wanted = start.PlatformOptions(
        prefect_port, port, database, pool, limit, page_port=page_port, restart=restart
    )
    if systemd:
        _print_unit(Workspace.here(), wanted, notify)
        return
    if notify is not None:
        require_form(notify)
    warn_without_stages()  # a platform without a worker's runs is of use too
    platform, started = start.up(
        Workspace.here(), wanted, lambda line: print(line, file=sys.stderr, flush=True)
    )
    if started or notify is not None:
        _configure_server(platform, notify)
    if as_json:
        _print_json(platform, started)
    else:
        _print(platform, started)


def _print_unit(workspace: "Workspace", wanted: "PlatformOptions", notify: str | None) -> None:
    from flows.platform.unit import instructions, unit

    if notify:
        raise BadInput(
            "--notify is kept by Prefect's server, not by a unit; give it to rlhf up once, and"
            " leave it out here."
        )
    print(unit(workspace, wanted), end="")
    print(instructions(workspace), file=sys.stderr)


def _print_json(platform: "Platform", started: list[str]) -> None:
    addresses = {
        "prefect_url": platform.prefect_url,
        "mlflow_url": platform.mlflow_url,
        "page_url": platform.page_url,
    }
    print_json(platform.model_dump(mode="json") | addresses | {"started": started})


def _print(platform: "Platform", started: list[str]) -> None:
    from flows.cli.tables.platform import service_lines

    print("started: " + ", ".join(started) if started else "the platform runs already")
    print("\n".join(service_lines(platform)))
    print("rlhf uses it from now on in this workspace; rlhf down ends it. For other programs:")
    print(
        f"  export PREFECT_API_URL={platform.prefect_api} MLFLOW_TRACKING_URI={platform.mlflow_url}"
    )


def _configure_server(platform: "Platform", notify: str | None) -> None:
    """Create on the server the device limits, the detection of crashed runs, the notifications."""
    os.environ["PREFECT_API_URL"] = platform.prefect_api  # of this platform, whatever was set
    quiet_libraries()
    from flows.schedule import automations
    from tasks.execution import concurrency

    concurrency.create_limits(concurrency.device_limits())
    automations.detect_crashes()
    if notify is not None:
        automations.notify(notify)
