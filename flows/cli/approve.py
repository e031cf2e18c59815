"""`rlhf approve`: say yes or no to a policy whose run waits for it."""

import getpass
from typing import Annotated

import typer


def _waiting(incomplete: str) -> list[str]:
    """Names of the runs that wait, for shell completion."""
    from tasks.approval.decisions import is_alive
    from tasks.records.run_record import Record, records
    from tasks.records.workspace import Workspace

    workspace = Workspace.here()
    known = [Record.model_validate(record) for record in records(workspace)]
    waiting = [record.name for record in known if record.is_waiting and is_alive(workspace, record)]
    return [name for name in [*waiting, "latest"] if name.startswith(incomplete)]


def approve(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's name (see rlhf status), the beginning of its id, or latest",
            autocompletion=_waiting,
        ),
    ],
    reject: Annotated[bool, typer.Option("--reject", help="Say no; needs --comment")] = False,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who decides (default: the user's name)")
    ] = None,
    comment: Annotated[str, typer.Option(metavar="TEXT", help="Why; required to reject")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the decision as JSON on standard output")
    ] = False,
) -> None:
    """Approve the policy of a run that waits for approval, or reject it with --reject. The first
    answer counts.
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
    """The user's name; '' where the system knows none (then --by is asked for)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
