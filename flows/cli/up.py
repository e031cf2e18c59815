"""`rlhf up` and `rlhf down`: the local platform."""

import json
import os
import sys
from typing import Annotated

import typer

from flows.platform.state import Platform


def up(
    prefect_port: Annotated[
        int | None, typer.Option(help="Prefect's port [default: the last, 4200, or free]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="MLflow's port [default: the last, 5000, or free]")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            envvar="RLHF_DATABASE_URL",
            help="PostgreSQL, postgresql://user:password@host:port [default: SQLite]",
        ),
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Name of the work pool [default: rlhf]")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Runs that the worker starts at once [default: all due]"),
    ] = None,
    notify: Annotated[str | None, typer.Option(help="As of rlhf deploy: whom to tell")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output")
    ] = False,
) -> None:
    """Start Prefect's server, MLflow's server and a worker; what runs already is left as it is.
    They outlive this command.
    """
    from flows.platform.start import PlatformOptions, up
    from tasks.records.workspace import Workspace

    wanted = PlatformOptions(prefect_port, port, database, pool, limit)
    platform, started = up(
        Workspace.here(), wanted, lambda line: print(line, file=sys.stderr, flush=True)
    )
    _warn_of_silent_schedules()
    if started or notify:
        _furnish(platform, notify)
    if as_json:
        addresses = {
            "prefect_url": platform.prefect_url,
            "mlflow_url": platform.mlflow_url,
            "started": started,
        }
        print(json.dumps(platform.model_dump(mode="json") | addresses, indent=2))
        return
    print("started: " + ", ".join(started) if started else "the platform runs already")
    print("\n".join(lines(platform)))
    print("rlhf uses it from now on in this workspace; rlhf down ends it. For other programs:")
    print(
        f"  export PREFECT_API_URL={platform.prefect_api} MLFLOW_TRACKING_URI={platform.mlflow_url}"
    )


def _warn_of_silent_schedules() -> None:
    """Prefect 3.7's scheduler cannot insert runs with SQLAlchemy 2.1: every loop ends in an error
    in the server's log alone.
    """
    from importlib.metadata import version

    found = version("sqlalchemy")
    if version("prefect").startswith("3.7.") and not found.startswith(("1.", "2.0.")):
        print(
            f"warning: with SQLAlchemy {found} Prefect's scheduler fails, and no schedule will"
            " start a run (by hand and by event they start); pip install 'sqlalchemy<2.1', then"
            " rlhf down and rlhf up",
            file=sys.stderr,
        )


def _furnish(platform: Platform, notify: str | None) -> None:
    """What the server keeps: device limits, the automation that finds crashed runs, who is
    notified.
    """
    os.environ["PREFECT_API_URL"] = platform.prefect_api  # of this platform, whatever was set
    from flows.display.run import quiet_libraries

    quiet_libraries()
    from flows.schedule import automations
    from tasks.execution import concurrency

    concurrency.create_limits(concurrency.device_limits())
    automations.detect_crashes()
    if notify:
        automations.notify(notify)


def down(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output")
    ] = False,
) -> None:
    """Stop what `rlhf up` has started, the worker and its runs first; nothing is lost, a run
    resumes when started again.
    """
    from flows.platform.start import down
    from tasks.records.workspace import Workspace

    stopped = down(Workspace.here())
    if as_json:
        print(json.dumps({"stopped": stopped}))
    else:
        print("stopped: " + ", ".join(stopped) if stopped else "no platform runs in this workspace")


def lines(platform: Platform) -> list[str]:
    """A line a service: whether it is well, its address, process and log."""
    from flows.platform.pages import answers

    where = {
        "prefect": platform.prefect_url,
        "mlflow": platform.mlflow_url,
        "worker": f"pool {platform.pool}",
    }
    told = []
    for name, service in platform.services.items():
        state = (
            ("well" if answers(service.health) else "does not answer")
            if service.runs
            else "has died: rlhf up starts it"
        )
        told.append(
            f"{name:8} {state:10} {where[name]:28} process {service.owner.pid:<8} {service.log}"
        )
    return told
