"""`rlhf approve`: approve or reject a policy whose run waits for it."""

import getpass
from typing import Annotated

import typer

from flows.cli.options import AsJson


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

    The first answer counts.
    """
    from tasks.approval import decisions
    from tasks.records.workspace import Workspace

    workspace = Workspace.here()
    answer = decisions.Answer(
        approve=not reject, by=" ".join((by or _user()).split()), comment=" ".join(comment.split())
    )
    record = decisions.find_run(workspace, run)
    decided = decisions.submit(workspace, record, answer)
    if as_json:
        print(decided.model_dump_json(indent=2))
    else:
        print(f"{record.name}: {decided.sentence}")


def _user() -> str:
    """Return the user's name, or '' where the system has none; --by is then required."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
