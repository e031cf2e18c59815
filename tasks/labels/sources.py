"""The sources of a campaign's pairs: a run's models on its training data, and gold items."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_core.config import Evaluate, Recipe
from rlhf_core.config.data.section import NEW_COMPARISONS
from rlhf_core.config.stage_configs import LabelPairsStageConfig
from rlhf_core.data.sources.text_files import loads
from rlhf_core.data.splits import HELDOUT_FOR
from rlhf_core.data.transcripts import Messages
from rlhf_core.digest import code_digest
from rlhf_core.errors import BadInput
from rlhf_core.labels.candidates import PairSource, choose, pools, unasked
from rlhf_core.labels.picking import Pick
from rlhf_core.labels.votes import Choice, LabelPair, pair_id_of
from rlhf_core.rundir import Artifact, StageSpec
from rlhf_core.stage_catalogue import ALIGNMENTS, LABEL_PAIRS, REWARD, VALIDATE
from tasks.execution.stage_process import run_stage
from tasks.records.run_record import Record
from tasks.records.workspace import Workspace
from tasks.stages.evaluate import check

PROMPTS_PER_PAIR, PAIRS_PER_PAIR = 4, 20  # candidates looked at, per pair that is wanted
MOST_PROMPTS, MOST_PAIRS = 4000, 20_000


@dataclass(frozen=True)
class WantedPairs:
    """The pairs that a campaign wants: their sources, number, and the way of picking."""

    sources: Sequence[PairSource]
    total: int
    how: Pick
    seed: int


@dataclass(frozen=True)
class RunModels:
    """The models and the training data of a finished run, from which pairs to label are made."""

    record: Record
    recipe: Recipe
    inputs: dict[str, Artifact]
    heldout: tuple[Artifact, ...] = ()  # splits with prompts on which it is measured
    live: dict | None = None  # how many live replies there are for pairs, and why others are not

    @property
    def facts(self) -> dict:
        """The facts that a campaign records: the run's name and the digests of its models."""
        digests = {
            name: self.inputs[name].digest for name in ("policy", "reward") if name in self.inputs
        }
        found = {"name": self.record.name, "id": self.record.id, "digests": digests}
        return found if self.live is None else found | {"live": self.live}


def models_of(record: Record) -> RunModels:
    """Return the models and training splits of a run.

    Raises BadInput for a run whose policy is not finished.
    """
    recipe = Recipe.model_validate(record.recipe)
    results = {stage.stage: stage.result for stage in record.stages}
    aligned = next((results[name] for name in ALIGNMENTS if results.get(name)), None)
    validated, rewarded = results.get(VALIDATE.name), results.get(REWARD.name)
    if aligned is None or validated is None:
        raise BadInput(
            f"{record.name} has no finished policy; expected a run that came past"
            f" {' or '.join(ALIGNMENTS)} (see rlhf status)."
        )
    splits = ("prompts_train", "comparisons_train")
    inputs = {name: validated.outputs[name] for name in splits if name in validated.outputs}
    inputs["policy"] = aligned.outputs["model"]
    if rewarded is not None and "model" in rewarded.outputs:
        inputs["reward"] = rewarded.outputs["model"]
    elif recipe.has_reward and recipe.model.reward:
        inputs["reward"] = Artifact.of(Path(recipe.model.reward).expanduser())
    # prompts held out with new comparisons are those whose later labels measure: they are asked for
    measured = (kind for kind in HELDOUT_FOR["comparisons"] if kind != NEW_COMPARISONS)
    names = (f"{kind}_heldout" for kind in measured)
    heldout = tuple(validated.outputs[name] for name in names if name in validated.outputs)
    return RunModels(record, recipe, inputs, heldout)


def picked_pairs(
    models: RunModels, wanted: WantedPairs, workspace: Workspace, asked: Collection[str] = ()
) -> list[LabelPair]:
    """Return the pairs to label: make candidates in a stage process, then pick among them.

    asked: identities of pairs that have labels already, which are left out. Raises BadInput for a
    source that the run has not, or that gives no pair, and what the stage raises.
    """
    _require_models(models, wanted.sources)
    spec = _spec(models, wanted)
    done = run_stage(spec, workspace.run_dir(spec), distributed=models.recipe.distributed)
    file = done.run_dir / done.result.files["candidates"]
    rows = [json.loads(line) for line in file.open(encoding="utf-8")]
    rows = unasked(rows, asked)
    found = pools(rows, wanted.sources, wanted.total)
    return choose(found, wanted.total, wanted.how, wanted.seed)


def _require_models(models: RunModels, sources: Sequence[PairSource]) -> None:
    if "mistakes" in sources and "reward" not in models.inputs:
        raise BadInput(
            f"--from mistakes asks for a reward model, and {models.record.name} has none; expected"
            " a run with one, or other sources."
        )
    if "mistakes" in sources and "comparisons_train" not in models.inputs:
        raise BadInput(
            f"--from mistakes asks for training comparisons, and {models.record.name} has none,"
            " only feedback; expected a run with data.comparisons, or other sources."
        )


def _spec(models: RunModels, wanted: WantedPairs) -> StageSpec[LabelPairsStageConfig]:
    """Return the spec of the stage, which reads no held-out prompt and no held-out pair."""
    recipe, sources = models.recipe, set(wanted.sources)
    fresh = bool(sources & {"onpolicy", "contested"})
    training = "comparisons_train" in models.inputs and bool(sources & {"contested", "mistakes"})
    # nobody else asks the judge, whose answers cost something
    judge = recipe.evaluate.judge if "contested" in sources else None
    section = Evaluate(
        sampling=recipe.evaluate.sampling,
        micro_batch_tokens=recipe.evaluate.micro_batch_tokens,
        frozen=recipe.evaluate.frozen,
        judge=judge,
    )
    check(section)
    sharded = section.frozen == "sharded"
    config = LabelPairsStageConfig(
        evaluate=section,
        prompts=min(PROMPTS_PER_PAIR * wanted.total, MOST_PROMPTS) if fresh else 0,
        comparisons=min(PAIRS_PER_PAIR * wanted.total, MOST_PAIRS) if training else 0,
        dtype=recipe.model.dtype,
        frozen_dtype=recipe.model.frozen_dtype,
        logits_mib=recipe.model.logits_mib,
        ranks=recipe.distributed.world_size if sharded else 1,
    )
    inputs = dict(models.inputs)
    return StageSpec(
        stage=LABEL_PAIRS.name, seed=wanted.seed, config=config, inputs=inputs, code=code_digest()
    )


def gold_items(file: Path) -> list[LabelPair]:
    """Return the gold items of a file: lines {"prompt", "chosen", "rejected"}.

    The better reply is reply a or b by the pair's digest. Raises BadInput naming the line.
    """
    if not file.is_file():
        raise BadInput(
            f"--gold is {file}, which is no file; expected JSON Lines. Correct the path."
        )
    found = []
    for number, line in enumerate(file.open(encoding="utf-8"), 1):
        if line.strip():
            found.append(_gold(f"{file} line {number}", line))
    if not found:
        raise BadInput(f"--gold is {file}, which holds no items; expected one per line.")
    return found


def _gold(where: str, line: str) -> LabelPair:
    try:
        row = loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not {"prompt", "chosen", "rejected"} <= row.keys():
        raise BadInput(
            f'{where} is {line.strip()!r:.60}; expected {{"prompt": "...", "chosen": "...",'
            ' "rejected": "..."}.'
        )
    prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
    if not all(isinstance(text, str) and text for text in (chosen, rejected)) or chosen == rejected:
        raise BadInput(f"{where}: chosen and rejected must be two different texts.")
    messages: Messages = (
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    )
    replies = (chosen, rejected)
    right: Choice = "a"
    if int(pair_id_of(messages, *replies), 16) % 2:
        replies, right = replies[::-1], "b"
    return LabelPair(
        pair_id=pair_id_of(messages, *replies),
        prompt=messages,
        reply_a=replies[0],
        reply_b=replies[1],
        source="gold",
        gold=right,
    )
