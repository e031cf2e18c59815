"""The rows shown of a stage are those that the stage reads: its own batches, token for token."""

import pytest
from recipes import tiny_recipe
from stages import section_spec, splits_of

from rlhf_core import sft
from rlhf_core.batching.batch import Batch
from rlhf_core.config import PPO, SFT, Evaluate, Reward, Sampling
from rlhf_core.data.splits import SPLITS
from rlhf_core.inspection.shown import InspectedRow, InspectedStage, ReadModels
from rlhf_core.inspection.stages import inspect_stages
from rlhf_core.ppo import trainer
from rlhf_core.reward import stage as reward_stage
from rlhf_core.reward import steps
from rlhf_core.rundir import RunDir

FEW = {"max_train": 8, "max_heldout": 10, "epochs": 1, "batch_size": 8, "lr": 1e-3}
DATA = {"demonstrations": "d", "comparisons": "c"}


@pytest.fixture
def shown(tiny_model, tiny_splits):
    """Show rows of a recipe's stages on the tiny model and splits, by stage."""

    def show(rows: int = 3, **changes) -> dict[str, InspectedStage]:
        recipe = tiny_recipe(**changes)
        splits = splits_of(tiny_splits, *SPLITS)
        found = inspect_stages(recipe, ReadModels(tiny_model), splits, rows)
        return {one.stage: one for one in found}

    return show


@pytest.mark.parametrize(
    ("stage", "given"), [("reward", None), ("reward", "g"), ("dpo", None), ("kto", None)]
)
def test_later_labels_are_shown_where_a_stage_reads_them(
    tiny_model, tiny_splits, tmp_path, stage, given
):
    """Bug: rows of data.new_comparisons were never shown."""
    aligned = {} if stage == "reward" else {"align": stage}
    recipe = tiny_recipe(
        data=DATA | {"new_comparisons": "n"},
        model={"base": "b", "reward": given},
        evaluate={"independent_scorer": "m:f"},
        **aligned,
    )
    side = "heldout" if given else "train"
    new = f"new_comparisons_{side}"
    lines = (tiny_splits / f"comparisons_{side}.jsonl").read_text().splitlines()[-3:]
    (tmp_path / "new.jsonl").write_text("\n".join(lines) + "\n")
    splits = splits_of(tiny_splits, *SPLITS) | {new: tmp_path / "new.jsonl"}
    found = inspect_stages(recipe, ReadModels(tiny_model), splits, 2)
    shown = {one.split: one for one in found if one.stage == stage}
    assert list(shown) == [f"comparisons_{side}", new]
    assert shown[new].count == 3 and len(shown[new].rows) == 4  # two answers of two pairs


@pytest.fixture
def batches(monkeypatch):
    """Note every batch that a module collates, and go on with it."""

    def noted(module) -> list[Batch]:
        found: list[Batch] = []
        real = module.collate

        def collate(*args) -> Batch:
            found.append(real(*args))
            return found[-1]

        monkeypatch.setattr(module, "collate", collate)
        return found

    return noted


def of_batches(batches: list[Batch]) -> set[tuple]:
    """Return the ids of each row of the batches, and which of them are response tokens."""
    rows = set()
    for batch in batches:
        width = batch.response_mask_BR.shape[1]
        for ids_L, mask_L, response_R in zip(
            batch.ids_BL, batch.mask_BL, batch.response_mask_BR, strict=True
        ):
            response_L = mask_L.clone()
            response_L[:-width] = False
            response_L[-width:] = response_R
            rows.add((tuple(ids_L[mask_L].tolist()), tuple(response_L[mask_L].tolist())))
    return rows


def of_rows(rows: tuple[InspectedRow, ...]) -> set[tuple]:
    return {(tuple(row.ids), tuple(row.trained)) for row in rows}


def test_a_demonstration_has_the_ids_and_trained_tokens_of_the_batch_that_sft_trains_on(
    shown, batches, tiny_model, tiny_splits, tmp_path
):
    section = SFT(**FEW)
    found = batches(sft)
    inputs = {"model": tiny_model} | splits_of(
        tiny_splits, "demonstrations_train", "demonstrations_heldout"
    )
    spec = section_spec("sft", section, inputs, train=True)
    config = sft.SFTStageConfig.model_validate(spec.config)
    sft.run(spec.model_copy(update={"config": config}), RunDir(tmp_path))
    stage = shown(8, sft=FEW)["sft"]
    assert stage.count == len(stage.rows) == 8
    assert of_rows(stage.rows) <= of_batches(found)
    assert all(row.ends_at == len(row.ids) - 1 and row.ids[-1] == 1 for row in stage.rows)
    trained = ReadModels(tiny_model, sft=tmp_path / "model")  # reads what the base model does
    splits = splits_of(tiny_splits, *SPLITS)
    after = {one.stage: one for one in inspect_stages(tiny_recipe(), trained, splits, 3)}
    for name, before in shown().items():
        assert [row.ids for row in before.rows] == [row.ids for row in after[name].rows]


def test_a_pair_has_the_ids_of_the_batch_that_the_reward_model_trains_on(
    shown, batches, tiny_model, tiny_splits, tmp_path
):
    found = batches(steps)
    inputs = {"model": tiny_model} | splits_of(
        tiny_splits, "comparisons_train", "comparisons_heldout"
    )
    spec = section_spec("reward", Reward(**FEW), inputs, train=True)
    config = reward_stage.RewardStageConfig.model_validate(spec.config)
    reward_stage.run(spec.model_copy(update={"config": config}), RunDir(tmp_path))
    limits = FEW | {"gate": {"min_pairs": 1}}
    stage = shown(8, reward=limits)["reward"]
    read = {ids for ids, _ in of_batches(found)}
    assert {tuple(row.ids) for row in stage.rows} == read and len(stage.rows) == 16
    assert [row.kind for row in stage.rows[:2]] == ["chosen", "rejected"]
    assert all(row.score_at == len(row.ids) - 1 for row in stage.rows)
    assert not any(any(row.trained) for row in stage.rows)


def test_a_prompt_has_the_ids_that_ppo_and_the_evaluation_give_to_their_samplers(
    shown, tiny_model, tiny_splits, tmp_path
):
    sampling = Sampling(engine="transformers", max_new_tokens=4)
    section = PPO(sampling=sampling, reward={"model_weight": 0, "functions": ["math:prod"]})
    inputs = {"policy": tiny_model} | splits_of(tiny_splits, "prompts_train")
    spec = section_spec("ppo", section, inputs)
    config = trainer.PPOStageConfig.model_validate(spec.config)
    given = spec.model_copy(update={"config": config})
    asked = trainer.build(given, RunDir(tmp_path / "run")).prompts
    found = shown(5)
    assert [row.ids for row in found["ppo"].rows] == [prompt.ids for prompt in asked[:5]]
    assert found["evaluate"].split == "prompts_heldout"
    assert found["evaluate"].count == min(64, Evaluate().max_prompts)


def test_dpo_trains_on_the_response_tokens_of_both_answers(shown):
    found = shown(align="dpo", evaluate={"independent_scorer": "rules:exact"})
    assert list(found) == ["sft", "dpo", "evaluate"]
    for row in found["dpo"].rows:
        assert row.trained == [place >= row.prompt for place in range(len(row.ids))]
        assert row.score_at is None


def test_a_model_that_is_given_is_shown_on_what_measures_it(shown, tiny_model):
    recipe = tiny_recipe(model={"base": "b", "sft": "s", "reward": "r"})
    assert recipe.runs("reward")
    found = shown(model={"base": "b", "sft": "s", "reward": "r"})
    assert found["sft"].split == "demonstrations_heldout"
    assert found["reward"].split == "comparisons_heldout"
