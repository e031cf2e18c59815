"""Report a campaign's progress: each annotator's pairs by state, votes, and agreement so far."""

from dataclasses import asdict, dataclass

from rlhf_core.labels.report import CampaignReport, campaign_report
from tasks.labels.answers import Answers
from tasks.labels.campaign import Campaign, CampaignFolder
from tasks.labels.opening import campaign_and_answers
from tasks.labels.queues import queue_page
from tasks.records.workspace import Workspace


@dataclass(frozen=True)
class CampaignStatus:
    """The content of `rlhf label status`. states: number of pairs, by annotator and state.

    refused: why answers do not count, by annotator.
    """

    name: str
    pages: dict[str, str]
    states: dict[str, dict[str, int]]
    refused: dict[str, list[str]]
    report: CampaignReport
    closed: dict | None

    def as_json(self) -> dict:
        """Return the status as JSON values."""
        return asdict(self)


def status(folder: CampaignFolder, workspace: Workspace) -> CampaignStatus:
    """Return how far a campaign is, as MLflow has it now. Raises BadInput for an unknown name."""
    campaign, answers = campaign_and_answers(folder, workspace)
    return CampaignStatus(
        name=campaign.name,
        pages=pages(campaign),
        states={name: answers.counted(name) for name in campaign.annotators},
        refused=_refused(answers),
        report=campaign_report(list(answers.pairs.values()), answers.votes),
        closed=folder.closed(),
    )


def pages(campaign: Campaign) -> dict[str, str]:
    """Return the address of each annotator's queue."""
    return {
        name: queue_page(campaign, queue)
        for name, queue in campaign.queues.items()
        if not queue.left
    }


def _refused(answers: Answers) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in answers.refused:
        found.setdefault(one.assignment.annotator, []).append(one.note)
    return found
