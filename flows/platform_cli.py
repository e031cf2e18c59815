"""`rlhf up` and `rlhf down`: the local platform."""

import json
import sys
from typing import Annotated

import typer


def up(
    prefect_port: Annotated[int | None, typer.Option(help="Prefect's port [default: the last, 4200, or free]")] = None,
    port: Annotated[int | None, typer.Option(help="MLflow's port [default: the last, 5000, or free]")] = None,
    database: Annotated[
        str | None,
        typer.Option(envvar="RLHF_DATABASE_URL", help="PostgreSQL, postgresql://user:password@host:port [default: SQLite]"),
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Name of the work pool [default: rlhf]")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Runs that the worker starts at once [default: all due]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output")] = False,
) -> None:
    """Start Prefect's server, MLflow's server and a worker; what runs already is left as it is. They outlive this command."""
    from flows.platform.start import Wanted, up
    from tasks.workspace import Workspace

    wanted = Wanted(prefect_port, port, database, pool, limit)
    platform, started = up(Workspace.here(), wanted, lambda line: print(line, file=sys.stderr, flush=True))
    if as_json:
        addresses = {"prefect_url": platform.prefect_url, "mlflow_url": platform.mlflow_url, "started": started}
        print(json.dumps(platform.model_dump(mode="json") | addresses, indent=2))
        return
    print("started: " + ", ".join(started) if started else "the platform runs already")
    print("\n".join(lines(platform)))
    print("rlhf uses it from now on in this workspace; rlhf down ends it. For other programs:")
    print(f"  export PREFECT_API_URL={platform.prefect_api} MLFLOW_TRACKING_URI={platform.mlflow_url}")


def down(as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output")] = False) -> None:
    """Stop what `rlhf up` has started, the worker and its runs first; nothing is lost, a run resumes when started again."""
    from flows.platform.start import down
    from tasks.workspace import Workspace

    stopped = down(Workspace.here())
    if as_json:
        print(json.dumps({"stopped": stopped}))
    else:
        print("stopped: " + ", ".join(stopped) if stopped else "no platform runs in this workspace")


def lines(platform) -> list[str]:
    """A line a service: whether it is well, its address, process and log."""
    from flows.ui import answers

    where = {"prefect": platform.prefect_url, "mlflow": platform.mlflow_url, "worker": f"pool {platform.pool}"}
    told = []
    for name, service in platform.services.items():
        state = ("well" if answers(service.health) else "does not answer") if service.runs else "has died: rlhf up starts it"
        told.append(f"{name:8} {state:10} {where[name]:28} process {service.owner.pid:<8} {service.log}")
    return told
