"""Open a campaign, and change who labels what while it is open.

What is to be made is written to the workspace first. A command that was killed is completed by the
next one of the same campaign, because everything in MLflow has a name that follows from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_core.errors import BadInput
from rlhf_core.labels.assignment import Assigned, assign, further, require_annotators
from rlhf_core.labels.candidates import PairSource
from rlhf_core.labels.picking import Pick
from rlhf_core.labels.report import campaign_report
from rlhf_core.labels.votes import LabelPair
from tasks.labels.answers import Answers, answers_of
from tasks.labels.campaign import Campaign, CampaignFolder
from tasks.labels.live_source import FILE, with_live_replies
from tasks.labels.queues import LabelQueues
from tasks.labels.sources import WantedPairs, gold_items, models_of, picked_pairs
from tasks.records.run_record import Record
from tasks.records.workspace import Workspace
from tasks.tracking.account import account_at, let_write_experiment, unanswered
from tasks.tracking.client import connect


@dataclass(frozen=True)
class OpenOptions:
    """The questions of a campaign, and its annotators. gold: a file of items with known answers."""

    sources: Sequence[PairSource]
    total: int
    annotators: Sequence[str]
    overlap: float
    how: Pick
    seed: int
    gold: Path | None = None
    page_characters: int = 1000


@dataclass(frozen=True)
class Reassignment:
    """Who labels what from now on.

    without: annotators who leave; their votes stay. disputes: one more vote on each pair in
    dispute. add: new annotators.
    """

    without: Sequence[str] = ()
    disputes: bool = False
    add: Sequence[str] = ()


def open_campaign(
    folder: CampaignFolder, record: Record, options: OpenOptions, workspace: Workspace
) -> Campaign:
    """Pick the pairs, make the queues, and return the campaign; complete one that was stopped.

    Raises BadInput for a name that is taken, and what the sources and MLflow raise.
    """
    with folder.locked():
        if folder.exists:
            _require_stopped(folder)
        else:
            _require_server(workspace.tracking_uri)
            gold = gold_items(options.gold) if options.gold else []
            models = models_of(record)
            if "live" in options.sources:
                models = with_live_replies(models, folder.path, options.total, workspace)
            wanted = WantedPairs(options.sources, options.total, options.how, options.seed)
            pairs = picked_pairs(models, wanted, workspace) + gold
            write_campaign(folder, pairs, options, models.facts, workspace)
            (folder.path / FILE).unlink(missing_ok=True)  # the pairs have what is needed of it
        return make_in_mlflow(folder, workspace)


def write_campaign(
    folder: CampaignFolder,
    pairs: list[LabelPair],
    options: OpenOptions,
    run: dict,
    workspace: Workspace,
) -> None:
    """Write a new campaign to the workspace, from where `make_in_mlflow` makes it in MLflow."""
    given = assign(pairs, options.annotators, overlap=options.overlap, seed=options.seed)
    uri = workspace.tracking_uri
    campaign = Campaign.new(folder.name, given, options.seed, uri)
    campaign.run, campaign.sources = run, list(options.sources)
    campaign.pick, campaign.overlap = options.how, options.overlap
    campaign.page_characters = options.page_characters
    campaign.accounts = account_at(uri).is_authenticated
    folder.save_pairs(pairs)
    folder.save(campaign)


def _require_stopped(folder: CampaignFolder) -> None:
    if folder.load().opened:
        raise BadInput(
            f"there is a campaign named {folder.name} already; expected a new name. Give another"
            " one with --name."
        )


def _require_server(uri: str) -> None:
    """Raise RLHFError where MLflow does not answer, before candidates are made."""
    try:
        connect(uri).search_experiments(max_results=1)
    except Exception as error:
        raise unanswered(uri, error, "Start it, or unset MLFLOW_TRACKING_URI.") from error


def make_in_mlflow(folder: CampaignFolder, workspace: Workspace) -> Campaign:
    """Make in MLflow what the campaign lacks there, and return the campaign. Hold its lock."""
    campaign = folder.load()
    if campaign.opened:
        return campaign
    pairs = {pair.pair_id: pair for pair in folder.pairs()}
    queues = LabelQueues(campaign, workspace)
    queues.make_questions()
    if campaign.accounts:
        for annotator in campaign.annotators:
            let_write_experiment(campaign.tracking_uri, annotator, queues.experiment_id)
    for annotator in campaign.annotators:
        queue = campaign.queues.get(annotator)
        if queue is not None and queue.left:
            queues.remove_pending(queue)
        else:
            queues.make_queue(annotator, pairs)
    for one in campaign.assignments:
        one.is_in_mlflow = True
    campaign.opened = True
    folder.save(campaign)
    return campaign


def campaign_and_answers(folder: CampaignFolder, workspace: Workspace) -> tuple[Campaign, Answers]:
    """Return a campaign and what became of every pair in it, as MLflow has it now.

    Raises BadInput for a campaign that was not opened to its end.
    """
    campaign = folder.load()
    if not campaign.opened:
        raise BadInput(
            f"campaign {folder.name} is opened in part: the command was stopped. Call rlhf label"
            f" open again with --name {folder.name}, which completes it."
        )
    pairs = {pair.pair_id: pair for pair in folder.pairs()}
    return campaign, answers_of(campaign, pairs, LabelQueues(campaign, workspace).reviewed())


def reassign(folder: CampaignFolder, workspace: Workspace, change: Reassignment) -> Assigned:
    """Give pairs to other annotators, and return who got which.

    Raises BadInput for unknown annotators, and where nobody would be left.
    """
    folder.load()  # a name that no campaign has is refused before its folder is made
    with folder.locked():
        folder.require_open()
        make_in_mlflow(folder, workspace)  # of one that was killed
        return _reassigned(folder, workspace, change)


def _reassigned(folder: CampaignFolder, workspace: Workspace, change: Reassignment) -> Assigned:
    campaign, answers = campaign_and_answers(folder, workspace)
    gone, new = _people(campaign, list(change.without), list(change.add))
    report = campaign_report(list(answers.pairs.values()), answers.votes)
    open_pairs = [
        one.assignment.pair_id
        for one in answers.all
        if one.assignment.annotator in gone and one.state == "pending"
    ]
    asked = {
        one.assignment.pair_id
        for one in answers.all
        if one.state == "pending" and one.assignment.annotator not in gone
    }
    disputes = [pair for pair in report.disputes if pair not in asked] if change.disputes else []
    campaign.annotators += new
    for name in gone:
        campaign.queues[name].left = True
    left = {name for name, queue in campaign.queues.items() if queue.left}
    staying = [name for name in campaign.annotators if name not in left]
    require_annotators(staying)
    have = {name: [one.pair_id for one in campaign.of(name)] for name in campaign.annotators}
    seed = campaign.seed + len(campaign.assignments)
    given = further([*open_pairs, *disputes], have, staying, seed)
    campaign.add(given)
    campaign.opened = False
    folder.save(campaign)  # from here on the next command completes it
    make_in_mlflow(folder, workspace)
    return given


def _people(campaign: Campaign, without: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    if unknown := sorted(set(without) - set(campaign.annotators)):
        raise BadInput(
            f"--without names {', '.join(unknown)}; expected annotators of {campaign.name}:"
            f" {', '.join(campaign.annotators)}."
        )
    require_annotators([*campaign.annotators, *new])
    return without, new
