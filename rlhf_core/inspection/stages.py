"""The first rows that each stage of a recipe reads, rendered by the stages' own functions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import encode_demonstrations, subset
from rlhf_core.config import Recipe
from rlhf_core.config.data.section import NEW_COMPARISONS
from rlhf_core.config.decidable import measured_kinds
from rlhf_core.data.render import render_prompt
from rlhf_core.data.splits import load_split
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.inspection.findings import ModelFinding
from rlhf_core.inspection.model import inspect_model
from rlhf_core.inspection.rows import RowUse, prompt_row, rows_of_batch
from rlhf_core.inspection.shown import InspectedRow, InspectedStage, ReadModels
from rlhf_core.reward.labelled_replies import reply_sequences
from rlhf_core.reward.scoring import pair_sequences
from rlhf_core.stage_catalogue import NEW_PAIRS, NEW_TRAIN
from rlhf_core.template_date import template_date

Render = Callable[[PreTrainedTokenizerBase, list[dict]], list[InspectedRow]]
ANSWERS = ("chosen", "rejected")
MEANINGS = {
    "sft": "The loss is the cross-entropy of the trained tokens.",
    "reward": "The loss compares the two scores, each read at one token.",
    "ppo": "The policy answers these prompts; the reward model's score is read at a reply's end.",
    "kto": "The loss compares each sum of log-probabilities with the reference's.",
    "dpo": "The loss compares the two sums of log-probabilities over the trained tokens.",
    "evaluate": "Policy, SFT model and champion answer these prompts.",
}


@dataclass(frozen=True)
class _Reading:
    """A stage's tokenizer, its split with the limit of rows, and how it renders a row."""

    stage: str
    model: Path
    split: str
    limit: int | None
    render: Render


def inspect_with_models(
    recipe: Recipe, models: ReadModels, splits: dict[str, Path], rows: int, *, date: str | None
) -> tuple[list[InspectedStage], dict[Path, list[ModelFinding]]]:
    """Return the stages as `inspect_stages` does, and the findings on the models that they read.

    date: the day that the chat templates print, as in the stages.
    """
    with template_date(date):
        stages = inspect_stages(recipe, models, splits, rows)
    read = dict.fromkeys(stage.model for stage in stages)
    return stages, {folder: inspect_model(folder) for folder in read}


def inspect_stages(
    recipe: Recipe, models: ReadModels, splits: dict[str, Path], rows: int
) -> list[InspectedStage]:
    """Return each stage of the recipe with its first rows, and once more with those of new pairs.

    splits: the files of the validate stage by name.
    """
    return [
        _inspected(recipe, reading, splits[reading.split], rows)
        for reading in _readings(recipe, models)
        if reading.split not in NEW_PAIRS or splits[reading.split].stat().st_size
    ]


def _readings(recipe: Recipe, models: ReadModels) -> Iterator[_Reading]:
    given, sft = recipe.model, models.sft or models.base
    side = "heldout" if given.sft else "train"
    limit = recipe.sft.max_heldout if given.sft else recipe.sft.max_train
    yield _Reading("sft", models.base, f"demonstrations_{side}", limit, _demonstrations(recipe))
    if recipe.runs("reward"):
        side = "heldout" if given.reward else "train"
        limit = recipe.reward.max_heldout if given.reward else recipe.reward.max_train
        folder = models.reward or sft
        kind = measured_kinds(recipe)[0]
        render = _pairs(scores=True) if kind == "comparisons" else _replies(scores=True)
        yield _Reading("reward", folder, f"{kind}_{side}", limit, render)
        if recipe.data.new_comparisons and kind == "comparisons":
            most = limit if side == "heldout" else None
            yield _Reading("reward", folder, f"{NEW_COMPARISONS}_{side}", most, render)
    if recipe.runs("ppo"):
        yield _Reading("ppo", sft, "prompts_train", None, _prompts)
    if recipe.runs("dpo"):
        limit = recipe.dpo.max_train
        yield _Reading("dpo", sft, "comparisons_train", limit, _pairs(scores=False))
        if recipe.data.new_comparisons:
            yield _Reading("dpo", sft, NEW_TRAIN, None, _pairs(scores=False))
    if recipe.runs("kto"):
        has_feedback = recipe.data.feedback and recipe.kto.learn_from != "comparisons"
        split = "feedback_train" if has_feedback else "comparisons_train"
        render = _replies(scores=False) if has_feedback else _pairs(scores=False)
        yield _Reading("kto", sft, split, recipe.kto.max_train, render)
        if recipe.data.new_comparisons and "comparisons" in measured_kinds(recipe, "kto"):
            yield _Reading("kto", sft, NEW_TRAIN, None, _pairs(scores=False))
    yield _Reading("evaluate", sft, "prompts_heldout", recipe.evaluate.max_prompts, _prompts)


def _inspected(recipe: Recipe, reading: _Reading, file: Path, rows: int) -> InspectedStage:
    is_heldout = reading.split.endswith("_heldout")
    seed = recipe.data.split_seed if is_heldout else recipe.seed
    taken = subset(load_split(file), reading.limit, seed=seed)
    shown = reading.render(load_tokenizer(reading.model), taken[:rows])
    return InspectedStage(
        reading.stage,
        reading.split,
        len(taken),
        reading.model,
        MEANINGS[reading.stage],
        tuple(shown),
    )


def _demonstrations(recipe: Recipe) -> Render:
    kinds = [RowUse("demonstration", trains=True)]

    def render(tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> list[InspectedRow]:
        encoded = [
            (row["id"], sequence)
            for row in rows
            for sequence in encode_demonstrations(tokenizer, [row], recipe.sft.train_on)
        ]
        names, sequences = zip(*encoded, strict=True)
        return rows_of_batch(tokenizer, sequences, list(names), kinds)

    return render


def _pairs(*, scores: bool) -> Render:
    """Return how a stage renders comparisons; scores: by scores, and not by log-probabilities."""
    kinds = [RowUse(name, trains=not scores, scores=scores) for name in ANSWERS]

    def render(tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> list[InspectedRow]:
        names = [row["id"] for row in rows for _ in ANSWERS]
        return rows_of_batch(tokenizer, pair_sequences(tokenizer, rows), names, kinds)

    return render


def _replies(*, scores: bool) -> Render:
    """Return how a stage renders labelled replies; scores: as of `_pairs`."""

    def render(tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> list[InspectedRow]:
        shown: list[InspectedRow] = []
        for row in rows:
            name = "thumbs up" if row["label"] else "thumbs down"
            kind = RowUse(name, trains=not scores, scores=scores)
            shown += rows_of_batch(
                tokenizer, reply_sequences(tokenizer, [row]), [row["id"]], [kind]
            )
        return shown

    return render


def _prompts(tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> list[InspectedRow]:
    return [
        prompt_row(tokenizer, render_prompt(tokenizer, row["prompt"]), row["id"]) for row in rows
    ]
