"""`rlhf label reassign`: other people for pairs of an open campaign."""

from typing import Annotated

import typer

from flows.cli.labels.options import CampaignName, listed
from flows.settings import quiet_libraries

Without = Annotated[
    str | None,
    typer.Option(metavar="NAME,...", help="Who leaves: votes stay, open pairs go to others"),
]
Disputes = Annotated[
    bool, typer.Option("--disputes", help="One more vote on each pair on which the votes are split")
]
NewPeople = Annotated[
    str | None, typer.Option("--add", metavar="NAME,...", help="Further annotators")
]


def label_reassign(
    name: CampaignName, without: Without = None, disputes: Disputes = False, add: NewPeople = None
) -> None:
    """Give pairs of a campaign to others: who leaves, disputes, new people.

    A pair goes to the least busy person who was not asked about it. Where everybody was asked, it
    stays as it is; --add brings somebody new.
    """
    from rlhf_core.errors import BadInput
    from tasks.labels.campaign import CampaignFolder
    from tasks.labels.opening import Reassignment, reassign
    from tasks.records.workspace import Workspace

    change = Reassignment(without=listed(without), disputes=disputes, add=listed(add))
    if not (change.without or change.disputes or change.add):
        raise BadInput("nothing to change; expected --without NAME, --disputes or --add NAME.")
    quiet_libraries()
    workspace = Workspace.here()
    given = reassign(CampaignFolder(workspace, name), workspace, change)
    for one, pairs in given.items():
        print(f"{one}: {len(pairs)} more pairs")
    if not given:
        print("No pair has changed hands.")
