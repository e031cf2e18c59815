"""The flow rlhf-labels: start a deployment's run when people have labelled enough pairs."""

from dataclasses import dataclass

from prefect import State, flow
from prefect.states import Failed

from flows.schedule.deployed_runs import DeployedRuns
from rlhf_core.config import Recipe, Source
from rlhf_core.config.data.section import NEW_COMPARISONS
from rlhf_core.errors import BadInput, GateRefused
from tasks.labels.campaign import CampaignFolder
from tasks.labels.ready import CampaignLabels, campaigns_named, labelled_file, labels_of
from tasks.labels.trigger import TriggerFile, TriggerMemory, UsedCampaign
from tasks.records.workspace import Workspace

MIN_NEW = 200


@dataclass(frozen=True)
class WantedLabels:
    """The labels that a run waits for.

    campaigns: the name of one, or a pattern such as 'week-*'. min_new: least number of new labels.
    min_alpha: least lower end of alpha's interval in a campaign that a look closes; None: any.
    """

    campaigns: str
    min_new: int = MIN_NEW
    min_alpha: float | None = None


@flow(name="rlhf-labels", persist_result=False)
def look_for_labels(
    recipe: Recipe,
    deployment: str,
    campaigns: str,
    min_new: int = MIN_NEW,
    min_alpha: float | None = None,
) -> str | State:
    """Start a run of `deployment` on the new labels of the campaigns, where there are enough.

    campaigns: the name of one, or a pattern such as 'week-*'. Open ones are closed by it, unless
    their annotators agree less than min_alpha.
    """
    wanted = WantedLabels(campaigns, min_new, min_alpha)
    workspace = Workspace.here()
    file = TriggerFile(workspace, deployment)
    try:
        with file.locked():
            return _look(recipe, file, wanted, workspace, DeployedRuns(deployment))
    except GateRefused as error:
        return Failed(name="Refused", message=str(error), data=error)


def _look(
    recipe: Recipe,
    file: TriggerFile,
    wanted: WantedLabels,
    workspace: Workspace,
    runs: DeployedRuns,
) -> str:
    """Look once at the labels, and return what was found and done."""
    memory = file.load()
    if memory.run and runs.never_began(memory.run):
        memory = file.save(memory.again())
    if not (memory.is_due or memory.pending):
        new = new_labels(memory, wanted, workspace)
        if reason := memory.waits(new, wanted.min_new):
            return reason
        memory = file.save(memory.about_to_use(new))
    if memory.pending:
        memory = _used(file, memory, wanted, workspace)
    if runs.is_at_work():
        return f"a run on {memory.used[-1].name} waits for the one that goes on"
    run = runs.start(with_labels(recipe, memory), memory.key)
    file.save(memory.started(run))
    return f"started run {run} on {', '.join(one.name for one in memory.used)}"


def new_labels(
    memory: TriggerMemory, wanted: WantedLabels, workspace: Workspace
) -> list[CampaignLabels]:
    """Return the campaigns that are wanted and have labels which no run was started on."""
    folders = campaigns_named(workspace, wanted.campaigns)
    return memory.unused([labels_of(folder, workspace) for folder in folders])


def _used(
    file: TriggerFile, memory: TriggerMemory, wanted: WantedLabels, workspace: Workspace
) -> TriggerMemory:
    """Return the memory with the pending campaigns used, each closed.

    Raises GateRefused where annotators agree too little, once for each number of labels.
    """
    folders = [CampaignFolder(workspace, name) for name in memory.pending]
    try:
        files = [labelled_file(folder, workspace, wanted.min_alpha) for folder in folders]
    except GateRefused:
        count = sum(one.labels for one in new_labels(memory, wanted, workspace))
        file.save(memory.refusing(count))
        raise
    used = [
        UsedCampaign(id=folder.load().id, name=folder.name, file=str(path))
        for folder, path in zip(folders, files, strict=True)
    ]
    return file.save(memory.using(used))


def with_labels(recipe: Recipe, memory: TriggerMemory) -> Recipe:
    """Return the recipe with the files of all used campaigns as its later labels, oldest first."""
    given = recipe.data.new_comparisons
    known = {source.path for source in given}
    new = [Source(path=path) for path in memory.files if path not in known]
    data = recipe.data.model_copy(update={NEW_COMPARISONS: (*given, *new)})
    return Recipe.model_validate(recipe.model_copy(update={"data": data}).model_dump(mode="json"))


def require_labels(recipe: Recipe, wanted: WantedLabels, workspace: Workspace) -> None:
    """Raise BadInput for a campaign that does not exist, or can never have enough labels.

    Also for a recipe without comparisons, beside which labels would be new.
    """
    if recipe.data.comparisons is None:
        raise BadInput(
            f"--on-labels {wanted.campaigns}: recipe {recipe.name} has no data.comparisons, beside"
            " which labels are new; expected both. Give comparisons, or deploy with --on-data."
        )
    folders = campaigns_named(workspace, wanted.campaigns)
    if len(folders) != 1 or folders[0].name != wanted.campaigns:
        return  # a pattern may fit later campaigns
    closed = folders[0].closed()
    if closed and closed["comparisons"] < wanted.min_new:
        raise BadInput(
            f"--on-labels {wanted.campaigns}: the campaign is closed with {closed['comparisons']}"
            f" comparisons, and --min-new is {wanted.min_new}; expected no more than these, because"
            " no further ones will come. Lower --min-new, or name a pattern that fits later"
            " campaigns, as 'week-*'."
        )
