"""The labels of campaigns that a deployment has not trained on yet: how many, and their files."""

import fnmatch
import json
from dataclasses import dataclass
from pathlib import Path

from rlhf_core.errors import BadInput
from tasks.labels.answers import Answers
from tasks.labels.campaign import NAME, CampaignFolder
from tasks.labels.closing import DECISION, CloseOptions, close
from tasks.labels.opening import campaign_and_answers
from tasks.records.workspace import Workspace

FILE = "comparisons.jsonl"  # in the campaign's folder, of a close that a deployment made
_WILDCARDS = "*?["


@dataclass(frozen=True)
class CampaignLabels:
    """A campaign and the number of labels that it has, or will have when it is closed.

    id: of the campaign, which tells it from a later one of its name.
    """

    folder: CampaignFolder
    id: str
    labels: int


def completed_pairs(answers: Answers) -> int:
    """Return the number of pairs with a vote that nobody still has to answer; gold left out."""
    voted = {vote.pair_id for vote in answers.votes}
    pending = {one.assignment.pair_id for one in answers.all if one.state == "pending"}
    gold = {pair.pair_id for pair in answers.pairs.values() if pair.gold is not None}
    return len(voted - pending - gold)


def campaigns_named(workspace: Workspace, wanted: str) -> list[CampaignFolder]:
    """Return the campaigns whose name is `wanted`, or fits it as a pattern, oldest first.

    Raises BadInput for a name that no campaign has. A pattern may fit a later one.
    """
    if not any(letter in wanted for letter in _WILDCARDS):
        folder = CampaignFolder(workspace, wanted)
        folder.load()
        return [folder]
    names = [file.parent.name for file in workspace.labels.glob("*/campaign.json")]
    fitting = [name for name in names if NAME.fullmatch(name) and fnmatch.fnmatch(name, wanted)]
    folders = [CampaignFolder(workspace, name) for name in fitting]
    return sorted(folders, key=lambda folder: (folder.load().created, folder.name))


def labels_of(folder: CampaignFolder, workspace: Workspace) -> CampaignLabels:
    """Return the labels of a campaign: comparisons of a closed one, pairs completed in an open one.

    A campaign that was not opened to its end has none yet.
    """
    campaign = folder.load()
    if closed := folder.closed():
        count = closed["comparisons"]
    elif folder.closing.exists():  # a close that was stopped: its labels are decided
        decision = json.loads((folder.closing / DECISION).read_text(encoding="utf-8"))
        count = decision["comparisons"]
    elif campaign.opened:
        count = completed_pairs(campaign_and_answers(folder, workspace)[1])
    else:
        count = 0
    return CampaignLabels(folder, campaign.id, int(count))


def labelled_file(folder: CampaignFolder, workspace: Workspace, min_alpha: float | None) -> Path:
    """Return the comparisons of a campaign, and close it into its folder if nobody has.

    Raises GateRefused for annotators who agree less than min_alpha, BadInput where the file of a
    closed campaign is gone.
    """
    if not folder.closed():
        options = CloseOptions(out=folder.path / FILE, min_alpha=min_alpha)
        try:
            close(folder, options, workspace)
        except BadInput:
            if not folder.closed():  # else somebody has closed it since
                raise
    closed = folder.closed()
    assert closed is not None, "a close that returns has closed it"
    file = Path(closed["out"])
    if not file.exists():
        raise BadInput(
            f"campaign {folder.name} was closed into {file}, which is gone; expected the file of"
            " its comparisons. Put it back, or deploy with other campaigns."
        )
    return file
