"""`rlhf promote`, `rlhf rollback`, `rlhf history`: who is champion, moved by hand under the rules
that the pipeline obeys.
"""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.output import console
from rlhf_core.errors import BadInput

if TYPE_CHECKING:
    from tasks.promotion.ledger import LedgerEntry
    from tasks.promotion.promotion import History

LONGEST = 1000  # characters of a reason
COLORS = {
    "done": "green",
    "refused": "yellow",
    "reverted": "red",
    "undone": "yellow",
    "at work": "cyan",
}

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="registry.name of a recipe; with -reward the reward model is meant"
    ),
]
Version = Annotated[
    int,
    typer.Argument(min=1, metavar="VERSION", help="Number of the version that is to be champion"),
]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; kept in the ledger")]
Expected = Annotated[
    int | None,
    typer.Option(
        "--expect-current", min=0, metavar="N", help="Refuse unless N is champion now; 0: none is"
    ),
]
OverrideOption = Annotated[
    str,
    typer.Option(
        "--override-contest",
        metavar="REASON",
        help="Promote a policy that has not beaten the champion; recorded",
    ),
]
Adopt = Annotated[
    bool,
    typer.Option(
        "--adopt",
        help="Go on although aliases were moved behind the ledger's back; needs --reason, recorded",
    ),
]
Approver = Annotated[
    str,
    typer.Option(
        "--approved-by",
        metavar="NAME",
        help="Who approved, where the recipe requires approval and none is recorded",
    ),
]
Comment = Annotated[
    str, typer.Option(metavar="TEXT", help="What they said; with --approved-by, kept in the ledger")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output")]


def promote(
    name: Name,
    version: Version,
    expect_current: Expected = None,
    reason: Reason = "",
    override_contest: OverrideOption = "",
    approved_by: Approver = "",
    comment: Comment = "",
    adopt: Adopt = False,
    as_json: AsJson = False,
) -> None:
    """Make a version champion, its reward model with it: all its gates passed, its bytes unchanged,
    the champion beaten.
    """
    request = _request(reason, adopt, override_contest) | _approval(approved_by, comment)
    from tasks.promotion import aliases, promotion

    where, kind = aliases.open_registry(name)
    if kind == "reward" and override_contest:
        raise BadInput("--override-contest is for policies; a reward model fights no contest.")
    if kind == "reward" and approved_by:
        raise BadInput(
            "--approved-by is for policies; a reward model is promoted without approval."
        )
    expects = None if expect_current is None else str(expect_current or "")
    request |= {"version": str(version), "expects": expects}
    _tell(promotion.promote(where, promotion.PromotionRequest(kind=kind, **request)), as_json)


def rollback(
    name: Name, reason: Reason = "", adopt: Adopt = False, as_json: AsJson = False
) -> None:
    """Make the champion before the present one champion again, after the same checks; once more:
    the one before that.
    """
    request = _request(reason, adopt)
    from tasks.promotion import aliases, promotion

    where, kind = aliases.open_registry(name)
    _tell(promotion.rollback(where, promotion.PromotionRequest(kind=kind, **request)), as_json)


def history(name: Name, as_json: AsJson = False) -> None:
    """Every attempt to change the champion. Attempts that were killed are completed or undone
    first.
    """
    _quietly()
    from tasks.promotion import aliases, promotion

    where, _ = aliases.open_registry(name, must_exist=False)
    found = promotion.history(where)
    if as_json:
        print(json.dumps(_history_json(found), indent=2))
        return
    if found.entries:
        _print_table(where.name, found)
    else:
        print(f"No attempt to promote {where.name} is recorded.")
    for problem in found.problems:
        print(problem, file=sys.stderr)


def _request(reason: str, adopt: bool, contest_override: str = "") -> dict:
    """The checked options, and MLflow kept quiet before it is imported."""
    for option, text in {"--reason": reason, "--override-contest": contest_override}.items():
        if len(text) > LONGEST:
            raise BadInput(f"{option} has {len(text)} characters; expected at most {LONGEST}.")
    if adopt and not reason:
        raise BadInput(
            "--adopt needs --reason: say what happened to the aliases, for the ledger keeps it."
        )
    _quietly()
    return {
        "reason": " ".join(reason.split()),
        "adopt": adopt,
        "contest_override": " ".join(contest_override.split()),
    }


def _approval(name: str, comment: str) -> dict:
    """Who approved and what they said, which both must be given."""
    given = {"--approved-by": " ".join(name.split()), "--comment": " ".join(comment.split())}
    for option, text in given.items():
        if len(text) > LONGEST:
            raise BadInput(f"{option} has {len(text)} characters; expected at most {LONGEST}.")
    if missing := [option for option, text in given.items() if any(given.values()) and not text]:
        raise BadInput(
            f"{missing[0]} is missing: an approval is a name and a comment, for the ledger keeps"
            " both."
        )
    return {"approved_by": given["--approved-by"], "approval_comment": given["--comment"]}


def _quietly() -> None:
    from flows.display.run import quiet_libraries

    quiet_libraries()


def _tell(result: object, as_json: bool) -> None:
    print(json.dumps(vars(result), indent=2) if as_json else result.reason)


def _history_json(found: "History") -> dict:
    entries = [
        entry.model_dump(mode="json", exclude={"token"}) | {"state": _state(entry)}
        for entry in found.entries
    ]
    return {
        "champion": found.champion.model_dump(mode="json"),
        "problems": found.problems,
        "entries": entries,
    }


def _state(entry: "LedgerEntry") -> str:
    return entry.outcome or ("at work" if entry.is_live else "killed")


def _print_table(name: str, found: "History") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Champions of {name}", title_justify="left")
    for column in ("entry", "time (UTC)", "action", "model", "version", "from", "by", "outcome"):
        table.add_column(column, no_wrap=True)
    table.add_column("reason", overflow="fold")
    for entry in found.entries:
        state = _state(entry)
        notes = [entry.outcome_reason or entry.reason]
        notes += [f"contest overridden: {entry.contest_override}"] if entry.contest_override else []
        notes += [entry.approved] if entry.approved else []
        notes += [f"adopted: {entry.adopted}"] if entry.adopted else []
        cells = [
            str(entry.number),
            f"{entry.time:%Y-%m-%d %H:%M:%S}",
            entry.action,
            entry.model,
            entry.version,
        ]
        texts = [
            *map(Text, [*cells, entry.expects or "-", entry.by]),
            Text(state, style=COLORS.get(state, "red")),
        ]
        table.add_row(*texts, Text("; ".join(filter(None, notes))))
    console().print(table)
