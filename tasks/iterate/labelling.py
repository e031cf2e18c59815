"""The labels of one round: pairs by the champion, votes without people, a file of comparisons.

Each step is a stage process or a rename: a round that was killed is completed by the next call, and
comparisons.jsonl, written last, is whole where it is there. It is never made anew.
"""

import json
from dataclasses import asdict
from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.config.stage_configs import LabelVotesStageConfig
from rlhf_core.digest import code_digest
from rlhf_core.errors import BadInput, GateRefused
from rlhf_core.labels.outcome import labelled_data, lines
from rlhf_core.labels.votes import JUDGE, LabelPair, Vote, both_orders, read_pairs, read_vote_lines
from rlhf_core.named_functions import JUDGES
from rlhf_core.rundir import Artifact, StageSpec, write_atomically
from rlhf_core.seeds import round_seed
from rlhf_core.stage_catalogue import LABEL_VOTES
from tasks.execution.stage_process import run_stage
from tasks.iterate.champion import ChampionModels, champion_models
from tasks.iterate.iteration import COMPARISONS, Iteration, RoundLabels
from tasks.labels.files import PROVENANCE, publish, written_files
from tasks.labels.sources import WantedPairs, picked_pairs
from tasks.records.run_record import Record
from tasks.records.workspace import Workspace
from tasks.stages.functions.source import source_of

PAIRS = "pairs.jsonl"


def labels_of(
    workspace: Workspace, iteration: Iteration, recipe: Recipe, latest: Record
) -> RoundLabels:
    """Return the labels of the next round: make them, or find them made.

    recipe: the loop's. latest: the run of the round before. Raises GateRefused without a champion,
    BadInput for sources that give no pair and for a champion without the reward model that is to
    learn on, and what the stages raise.
    """
    number = len(iteration.rounds)
    out = iteration.round_folder(workspace, number) / COMPARISONS
    if not out.exists():
        champion = champion_models(workspace, recipe, latest)
        if champion is None:
            raise GateRefused(
                f"round {number} of {iteration.name} has no models to sample with: round"
                f" {number - 1} was not promoted ({iteration.rounds[-1].reason}), and"
                f" {recipe.registry.name}-policy has no champion. Have a first run promoted (rlhf"
                " gates latest says what it lacks)."
            )
        if iteration.request.continue_reward:
            _require_reward(iteration, champion)
        _make(workspace, iteration, recipe, champion)
    known = json.loads((out.with_suffix(".labels") / PROVENANCE).read_text(encoding="utf-8"))
    return RoundLabels(
        file=out,
        pairs=known["comparisons"] + known["apart"],
        comparisons=known["comparisons"],
        apart=known["apart"],
        votes=known["votes"],
        by=known["by"],
        model_run=known["run"]["name"],
        reward_model=known["reward_model"],
    )


def _require_reward(iteration: Iteration, champion: ChampionModels) -> None:
    """Raise BadInput where no reward model of the champion is known, before anything is labelled.

    It may come from DPO or KTO, or its reward model was deleted.
    """
    if "reward" not in champion.models.inputs:
        raise BadInput(
            f"--continue-reward: the champion of {iteration.registry}-policy has no known reward"
            " model to train on from; expected a champion of PPO whose reward model is registered."
            " Leave the option out, which begins another loop, or promote another policy."
        )


def _make(
    workspace: Workspace, iteration: Iteration, recipe: Recipe, champion: ChampionModels
) -> None:
    """Pick the pairs of the next round, have them labelled, and write the files."""
    number, request = len(iteration.rounds), iteration.request
    folder = iteration.round_folder(workspace, number)
    folder.mkdir(parents=True, exist_ok=True)
    seed = round_seed(recipe.seed, number)
    wanted = WantedPairs(request.sources, request.pairs, request.pick, seed)
    asked = _asked(workspace, iteration)
    pairs = picked_pairs(champion.models, wanted, workspace, asked)
    write_atomically(folder / PAIRS, lines([asdict(pair) for pair in pairs]))
    votes = _votes(workspace, recipe, request.by, folder / PAIRS, seed)
    _write(iteration, champion, folder / COMPARISONS, pairs, votes)


def _asked(workspace: Workspace, iteration: Iteration) -> set[str]:
    """Return the identities of the pairs of earlier rounds, in either order of their replies."""
    found: set[str] = set()
    for number in range(1, len(iteration.rounds)):
        for pair in read_pairs(iteration.round_folder(workspace, number) / PAIRS):
            found |= both_orders(pair.prompt, pair.reply_a, pair.reply_b)
    return found


def _votes(workspace: Workspace, recipe: Recipe, by: str, pairs: Path, seed: int) -> list[Vote]:
    """Return the votes of the judge, or of the annotators' function, from a stage process."""
    inputs = {"pairs": Artifact.of(pairs)}
    if by == JUDGE:
        judge = recipe.evaluate.judge
        assert judge is not None, "checked before anything ran"
        config = LabelVotesStageConfig(judge=judge)
        if judge.function:
            inputs["judge"] = source_of("evaluate.judge.function", judge.function, JUDGES)
    else:
        config = LabelVotesStageConfig(annotators=by)
        inputs["annotators"] = source_of("--by", by, group=None)
    spec: StageSpec[LabelVotesStageConfig] = StageSpec(
        stage=LABEL_VOTES.name, seed=seed, config=config, inputs=inputs, code=code_digest()
    )
    done = run_stage(spec, workspace.run_dir(spec))
    return read_vote_lines(done.run_dir / done.result.files["votes"])


def _write(
    iteration: Iteration,
    champion: ChampionModels,
    out: Path,
    pairs: list[LabelPair],
    votes: list[Vote],
) -> None:
    """Write the files of the labels, as `rlhf label close` does, the comparisons last.

    The annotators are no people, so that they keep their names.
    """
    number, request = len(iteration.rounds), iteration.request
    reward = champion.models.inputs.get("reward")
    campaign = f"{iteration.recipe}-round-{number}"
    names = {vote.annotator: vote.annotator for vote in votes}
    data = labelled_data(pairs, votes, names, campaign)
    provenance = {
        "campaign": campaign,
        "iteration": iteration.id,
        "round": number,
        "run": champion.facts,
        "reward_model": str(reward.path) if reward else None,
        "sources": list(request.sources),
        "pick": request.pick,
        "by": request.by,
        "authorship": JUDGE if request.by == JUDGE else "simulated",
        "weighting": "none",
        "annotators": sorted(names),
    }
    publish(written_files(data, provenance), out)
