"""`rlhf access setup`: part the accounts that train, promote and approve."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.api.session import tracking_client
from flows.cli.options import AsJson
from flows.cli.output import print_json

Subcommand = Annotated[Literal["setup"], typer.Argument(help="setup: make what is missing")]
RegistryName = Annotated[str, typer.Argument(metavar="NAME", help="registry.name of a recipe")]
Pipeline = Annotated[
    str, typer.Option(metavar="ACCOUNT", help="The account under which pipelines run")
]
Promoters = Annotated[
    list[str],
    typer.Option("--promoter", metavar="ACCOUNT", help="An account that may promote; repeatable"),
]
Approvers = Annotated[
    list[str] | None,
    typer.Option(
        "--approver",
        metavar="ACCOUNT",
        help="An account that may approve; repeatable (default: the promoters)",
    ),
]
Passwords = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help=(
            "Folder for the random passwords of new accounts, mode 0600 (default: in the"
            " workspace); RLHF_PASSWORD_ACCOUNT gives one instead"
        ),
    ),
]
OnlySay = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing")]


def access(
    action: Subcommand,
    name: RegistryName,
    promoter: Promoters,
    pipeline: Pipeline = "pipeline",
    approver: Approvers = None,
    passwords: Passwords = None,
    dry_run: OnlySay = False,
    as_json: AsJson = False,
) -> None:
    """Part the accounts that train, promote and approve on MLflow's server.

    Run it as an admin of a server with accounts. It makes accounts, roles, registered models and
    the queue of approvals; a second run makes only what is missing. Recipes then set
    registry.separate_promoter=true.
    """
    client = tracking_client()
    from tasks.access.setup import AccessSetup, Accounts
    from tasks.promotion.aliases import require_name
    from tasks.records.workspace import Workspace

    require_name(name)
    accounts = Accounts(name, pipeline, tuple(promoter), tuple(approver or promoter))
    folder = passwords or Workspace.here().home / "passwords"
    made = AccessSetup(client, accounts, folder.absolute(), dry_run).run()
    if as_json:
        print_json({"action": action, "dry_run": dry_run, "steps": made})
        return
    for sentence in made:
        print(("would " if dry_run else "done: ") + sentence)
    if not made:
        print(f"Nothing to do: the accounts of {name} are parted.")
