"""`rlhf approve`: approve or reject a policy whose run waits for it."""

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson
from flows.settings import quiet_libraries
from rlhf_core.errors import BadInput

if TYPE_CHECKING:
    from tasks.approval.decisions import Answer
    from tasks.records.approval_record import ApprovalRecord
    from tasks.tracking.account import Account


def waiting_runs(incomplete: str) -> list[str]:
    """Return `latest` and the names of the runs that wait for approval, as far as they begin so."""
    from tasks.approval.decisions import is_alive
    from tasks.records.run_record import Record, records
    from tasks.records.workspace import Workspace

    workspace = Workspace.here()
    known = [Record.model_validate(record) for record in records(workspace)]
    waiting = [record.name for record in known if record.is_waiting and is_alive(workspace, record)]
    return [name for name in [*waiting, "latest"] if name.startswith(incomplete)]


WaitingRun = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's name (see rlhf status), the beginning of its id, or latest",
        autocompletion=waiting_runs,
    ),
]
Reject = Annotated[bool, typer.Option("--reject", help="Reject the policy; needs --comment")]
By = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name to record (default: the user's name)")
]
Comment = Annotated[str, typer.Option(metavar="TEXT", help="Reason; required to reject")]


def approve(
    run: WaitingRun,
    reject: Reject = False,
    by: By = None,
    comment: Comment = "",
    as_json: AsJson = False,
) -> None:
    """Approve the policy of a run that waits for approval, or reject it.

    The first answer counts. On an MLflow server with accounts the answer comes from any machine,
    and the approver is the account.
    """
    from tasks.approval import decisions
    from tasks.records.workspace import Workspace

    workspace, text = Workspace.here(), " ".join(comment.split())
    account = _account(workspace.tracking_uri, by)
    who = account.name if account else " ".join((by or _user()).split())
    given = decisions.Answer(approve=not reject, by=who, comment=text)
    if account:
        decided = _on_server(account, run, given)
        name = decided.run
    else:
        record = decisions.find_run(workspace, run)
        decided, name = decisions.submit(workspace, record, given), record.name
    print(decided.model_dump_json(indent=2) if as_json else f"{name}: {decided.sentence}")


def _on_server(account: "Account", run: str, given: "Answer") -> "ApprovalRecord":
    """Return the decision on MLflow's server, where the accounts of the approvers answer."""
    from flows.api.session import tracking_client
    from tasks.approval import server_answer

    return server_answer.submit(tracking_client(), account, run, given)


def _account(uri: str, by: str | None) -> "Account | None":
    """Return the account of MLflow's server; None where it has none or does not answer.

    Raises BadInput for a name that is typed all the same.
    """
    quiet_libraries()
    from tasks.tracking.account import account_at, is_server

    if not is_server(uri):
        return None
    try:
        account = account_at(uri)
    except BadInput:
        raise
    except Exception:  # it is away; a run of this workspace takes an answer without it
        return None
    if not account.is_authenticated:
        return None
    if by:
        raise BadInput(
            f"--by {by!r} is not taken: MLflow's server has accounts, and the approver is the"
            f" account {account.name}. Leave --by out."
        )
    return account


def _user() -> str:
    """Return the user's name, or '' where the system has none; --by is then required."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
