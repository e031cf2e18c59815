"""The request for a loop, checked before anything runs."""

from dataclasses import dataclass
from math import ceil

from flows.iterate.round_0 import settings_of_round_0
from rlhf_core.config import Recipe, load_recipe
from rlhf_core.config.decidable import samples_needed
from rlhf_core.config.preference.label_use import why_not_learning, why_not_reading
from rlhf_core.digest import digest_json
from rlhf_core.errors import BadInput
from rlhf_core.labels.candidates import PairSource
from rlhf_core.labels.picking import Pick
from rlhf_core.labels.votes import JUDGE
from rlhf_core.named_functions import JUDGES
from rlhf_core.prepare import QUICKSTART
from rlhf_core.rundir import Artifact
from rlhf_core.stage_catalogue import NEW_HELDOUT
from tasks.execution.stage_calls import require_stages
from tasks.iterate.iteration import Iteration, LabelRequest
from tasks.records.workspace import Workspace
from tasks.stages.contract import check_paths
from tasks.stages.functions.source import source_of
from tasks.stages.spec import local
from tasks.stages.validate import PREPARED

SIMULATED = "simulated"
ANNOTATORS = f"rlhf_core.{QUICKSTART}.annotators:votes"


@dataclass(frozen=True)
class IterationOptions:
    """The options of one `rlhf iterate` command. by: None for the recipe's own choice."""

    rounds: int
    pairs: int
    sources: tuple[PairSource, ...]
    pick: Pick
    by: str | None = None
    continue_reward: bool = False


@dataclass(frozen=True)
class IterationPlan:
    """The rounds that a loop makes.

    recipe: name or file as given. loaded: that of round 0, with the settings on top.
    """

    recipe: str
    settings: list[str]
    loaded: Recipe
    iteration: Iteration

    def settings_of(self, number: int) -> list[str]:
        """Return the settings of a round, the files of its labels apart."""
        return self.settings if number else settings_of_round_0(self.recipe, self.settings)


def make_plan(recipe: str, settings: list[str], options: IterationOptions) -> IterationPlan:
    """Return the plan of a loop.

    Raises ConfigError or BadInput for a recipe, files or labels that it cannot have.
    """
    loaded = load_recipe(recipe, settings_of_round_0(recipe, settings))
    request = LabelRequest(
        by=_annotators(loaded, options.by),
        sources=options.sources,
        pick=options.pick,
        pairs=options.pairs,
        continue_reward=options.continue_reward,
    )
    require_stages()
    check_paths(loaded)
    require_learning(loaded, request)
    require_scores(loaded, request)
    later = _later(recipe, settings, request, measures=measures_reward(loaded))
    if not loaded.data.new_comparisons:
        require_new_pairs(later, options.rounds * options.pairs)
    identity = _identity(loaded, later, request)
    iteration = Iteration(
        id=identity,
        name=f"{loaded.name}-iterate-{identity[:7]}",
        recipe=loaded.name,
        registry=loaded.registry.name,
        request=request,
        rounds_wanted=options.rounds,
        tracking_uri=Workspace.here().tracking_uri,
    )
    return IterationPlan(recipe, settings, loaded, iteration)


def measures_reward(recipe: Recipe) -> bool:
    """Return True if the recipe measures a reward model on comparisons."""
    return why_not_reading(recipe, "reward") is None


def _later(recipe: str, settings: list[str], request: LabelRequest, *, measures: bool) -> Recipe:
    """Return the recipe of the further rounds, with names in place of what they make.

    measures: a reward model is measured on comparisons. Raises ConfigError for what it cannot be,
    before anything runs.
    """
    made = ['data.new_comparisons=["the labels of the rounds"]']
    if request.continue_reward:
        made.append('reward.start="the reward model of the champion"')
    elif measures:
        made.append('reward.before="the reward model of the champion"')
    return load_recipe(recipe, [*settings, *made])


def _identity(loaded: Recipe, later: Recipe, request: LabelRequest) -> str:
    """Return the id of a loop: other recipes, labels, labellers' sources or data are another one.

    The recipe's own new comparisons are in `loaded` alone.
    """
    own = [source.model_dump(mode="json") for source in loaded.data.new_comparisons]
    asked = [request.model_dump(mode="json"), _labellers(loaded, request)]
    values = [later.model_dump(mode="json"), own, asked, _data_digests(loaded)]
    return digest_json(values)[:12]


def _labellers(recipe: Recipe, request: LabelRequest) -> dict[str, str]:
    """Return the digests of the sources of the functions that label, or that pick the pairs."""
    judge = recipe.evaluate.judge
    found: dict[str, str] = {}
    if request.by != JUDGE:
        found["by"] = source_of("--by", request.by, group=None).digest
    asks_judge = request.by == JUDGE or "contested" in request.sources
    if asks_judge and judge and judge.function:
        found["judge"] = source_of("evaluate.judge.function", judge.function, JUDGES).digest
    return found


def _annotators(recipe: Recipe, by: str | None) -> str:
    """Return JUDGE or the 'module:function' that labels. Raises BadInput for one that is not."""
    judge, is_quickstart = recipe.evaluate.judge, recipe.model.base == QUICKSTART
    if by is None:
        by = JUDGE if judge else SIMULATED
        if judge is None and not is_quickstart:
            raise BadInput(
                f"nobody labels for recipe {recipe.name}: it has no evaluate.judge; expected one,"
                " or --by MODULE:FUNCTION (see the page on the loop)."
            )
    if by == JUDGE and judge is None:
        raise BadInput(
            f"--by judge asks for evaluate.judge, which recipe {recipe.name} does not have;"
            " expected one. Set evaluate.judge.function or evaluate.judge.endpoint, or give --by"
            " MODULE:FUNCTION."
        )
    if by == JUDGE:
        return JUDGE
    if by == SIMULATED:
        if not is_quickstart:
            raise BadInput(
                "--by simulated: these annotators know the quickstart's language alone, and"
                f" model.base of recipe {recipe.name} is {recipe.model.base!r}; expected --by judge"
                " or --by MODULE:FUNCTION."
            )
        by = ANNOTATORS
    if ":" not in by:
        raise BadInput(f"--by is {by!r}; expected judge, simulated or MODULE:FUNCTION.")
    source_of("--by", by, group=None)
    return by


def require_learning(recipe: Recipe, request: LabelRequest) -> None:
    """Raise BadInput for a recipe in which new comparisons would train nothing."""
    if recipe.data.comparisons is None:
        raise BadInput(
            f"recipe {recipe.name} has no data.comparisons, beside which the labels of the rounds"
            " would be new; expected a recipe that is trained on comparisons."
        )
    learner = "reward" if recipe.align == "ppo" else recipe.align
    if why := why_not_learning(recipe, learner):
        raise BadInput(
            f"new labels would not train the policy of recipe {recipe.name}: {why}; expected a"
            f" recipe whose stage {learner} learns from comparisons."
        )
    trains_reward = recipe.has_reward and not recipe.model.reward
    if trains_reward and recipe.reward.margin_scale:
        raise BadInput(
            f"reward.margin_scale of recipe {recipe.name} is {recipe.reward.margin_scale:g}, which"
            " needs by how much each chosen reply is better, and the labels of the rounds say which"
            " one alone; expected 0. Set reward.margin_scale = 0."
        )
    if request.continue_reward and not trains_reward:
        raise BadInput(
            f"--continue-reward: recipe {recipe.name} trains no reward model (align ="
            f" {recipe.align!r}); leave the option out."
        )


def require_new_pairs(later: Recipe, labels: int) -> None:
    """Raise BadInput for a gate that the labels of all rounds together would hardly decide.

    later: the recipe of the further rounds. labels: the pairs of all rounds.
    """
    share = later.data.heldout_fraction
    for gate, _, split, least in samples_needed(later):
        if split == NEW_HELDOUT and labels * share < least:
            raise BadInput(
                f"{gate} needs {least} held-out pairs of the rounds' labels, and {labels} labels in"
                f" all give about {labels * share:g} (data.heldout_fraction = {share:g}); expected"
                f" {ceil(least / share)} labels or more. Raise --labels or --rounds, or lower the"
                " least number of the gate."
            )


def require_scores(recipe: Recipe, request: LabelRequest) -> None:
    """Raise BadInput where picking needs scores that no model of the recipe gives."""
    scored, sources = recipe.has_reward, request.sources
    hint = (
        f"recipe {recipe.name} has align = {recipe.align!r} and no reward model; expected one"
        " (evaluate.train_reward = true), or"
    )
    if not scored and request.pick == "uncertain":
        raise BadInput(f"--pick uncertain goes by a reward model: {hint} --pick random or diverse.")
    if not scored and "mistakes" in sources:
        raise BadInput(f"--from mistakes goes by a reward model: {hint} other sources.")
    if request.pick == "disagreement" or "contested" in sources:
        _require_raters(recipe, request)


def _require_raters(recipe: Recipe, request: LabelRequest) -> None:
    """Raise BadInput unless two raters can differ on some pair.

    They are the reward model's members, the judge (asked for --from contested), and the people who
    labelled a training pair (for --from contested and mistakes). A given reward model may have
    several members.
    """
    contested = "contested" in request.sources
    members = recipe.reward.ensemble if recipe.has_reward else 0
    judge = 1 if contested and recipe.evaluate.judge else 0
    labelled = contested or "mistakes" in request.sources
    people = 1 if labelled and recipe.has_reward else 0
    if members + judge + people < 2 and not recipe.model.reward:
        option = "--from contested" if contested else "--pick disagreement"
        raise BadInput(
            f"{option} needs two raters that can differ, and recipe {recipe.name} has"
            f" {members + judge + people}; expected reward.ensemble of 2 or more, or evaluate.judge"
            " with --from contested. Or give another way."
        )


def _data_digests(recipe: Recipe) -> dict[str, str]:
    """Return the digest of each local source: a loop on other data is another loop."""
    found = {}
    for name, source in recipe.data.sources.items():
        if source.format == "hub" or source.path.startswith(PREPARED):
            continue
        if path := local(recipe.data.key_of(name), source.path):
            found[name] = Artifact.of(path).digest
    return found
