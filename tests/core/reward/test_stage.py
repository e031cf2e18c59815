"""The reward stage on models that transformers has no classifier for, or that pad with their end.

What it saves is what PPO scores with, and what plain transformers reads.
"""

from pathlib import Path

import pytest
import torch
from stages import section_spec, splits_of
from transformers import AutoModelForCausalLM, GraniteConfig

from rlhf_core.__main__ import run_stage
from rlhf_core.batching.batch import subset
from rlhf_core.config import PPO, LoRA, Reward, Sampling
from rlhf_core.data.splits import load_split
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import BadInput
from rlhf_core.modeling.models import inference, load_scalar
from rlhf_core.modeling.reading import own_reading
from rlhf_core.modeling.smoke import smoke
from rlhf_core.reward.scoring import pair_sequences, score_sequences
from rlhf_core.rundir import RunDir, StageResult, StageSpec, read_result

COMPARISONS = ("comparisons_train", "comparisons_heldout")
REWARD = Reward(lr=3e-3, epochs=2, batch_size=16, max_train=48, max_heldout=32)
PPO_TINY = PPO(
    steps=2,
    rollout_batch=8,
    minibatches=2,
    epochs=1,
    policy_lr=1e-3,
    critic_lr=1e-3,
    sampling=Sampling(engine="transformers", max_new_tokens=6),
)


@pytest.fixture(scope="module")
def granite(tiny_model, tmp_path_factory) -> Path:
    """A tiny GraniteForCausalLM, of a family without a sequence classifier."""
    folder = tmp_path_factory.mktemp("granite") / "model"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    torch.manual_seed(0)
    config = GraniteConfig(
        vocab_size=62,
        max_position_embeddings=512,
        embedding_multiplier=3.0,
        **sizes,
        **heads,
        **ids,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    load_tokenizer(tiny_model).save_pretrained(folder)
    return folder


def finished(spec: StageSpec, folder: Path) -> StageResult:
    run_stage(spec, RunDir(folder))
    return read_result(folder)


@pytest.fixture
def trained(tiny_splits, tmp_path, monkeypatch):
    """Train a reward model from this model, in this process; return the stage's result."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")

    def run(model: Path, config: Reward = REWARD) -> StageResult:
        inputs = {"model": model} | splits_of(tiny_splits, *COMPARISONS)
        spec = section_spec("reward", config, inputs, train=True)
        return finished(spec, tmp_path / "reward")

    return run


def ppo(model: Path, reward: StageResult, splits: Path, folder: Path, config: PPO) -> StageResult:
    inputs = {"policy": model, "reward": reward.outputs["model"].path}
    if config.reward_trunk == "reference":
        inputs["reward_adapter"] = reward.outputs["adapter"].path
    spec = section_spec("ppo", config, inputs | splits_of(splits, "prompts_train"))
    return finished(spec, folder)


@pytest.mark.parametrize("lora", [None, LoRA(rank=4)], ids=["full", "adapter"])
def test_a_scalar_head_on_granites_backbone_is_reward_model_and_critic(
    granite, trained, tiny_splits, tmp_path, lora
):
    reward = trained(granite, REWARD.model_copy(update={"lora": lora}))
    saved = load_scalar(reward.outputs["model"].path)
    assert type(saved.model).__name__ == "GraniteForSequenceClassification"
    assert saved.model.config.architectures == ["GraniteForSequenceClassification"]
    assert saved.model.score.weight.dtype == torch.float32
    rows = subset(load_split(tiny_splits / "comparisons_heldout.jsonl"), 32, seed=1)
    sequences = pair_sequences(load_tokenizer(granite), rows)
    scores = score_sequences(inference(saved, dtype="float32"), sequences, 0, 4096)
    right = float((scores[0::2] > scores[1::2]).double().mean())
    assert right == reward.metrics["reward/accuracy"]
    smoke("reward", reward.outputs["model"].path)
    layout = {"reward_trunk": "reference", "reference": "adapter-off", "lora": lora} if lora else {}
    config = PPO_TINY.model_copy(update=layout)
    result = ppo(granite, reward, tiny_splits, tmp_path / "ppo", config)
    assert result.metrics["ppo/kl_per_response"] == pytest.approx(0, abs=1.0)
    AutoModelForCausalLM.from_pretrained(result.outputs["model"].path)


def test_a_reward_model_from_a_base_that_pads_with_its_end_gets_padding_of_its_own(
    padding_with, trained, tiny_splits, tmp_path
):
    base = padding_with("<eos>")
    reward = trained(base)
    folder = reward.outputs["model"].path
    smoke("reward", folder)
    assert load_tokenizer(folder).pad_token == "<|pad|>" and len(load_tokenizer(folder)) == 63
    assert own_reading(folder, load_tokenizer(base)) is None  # PPO scores the policy's ids
    result = ppo(base, reward, tiny_splits, tmp_path / "ppo", PPO_TINY)
    policy = load_tokenizer(result.outputs["model"].path)
    assert policy.get_vocab() == load_tokenizer(base).get_vocab()


def test_missing_strengths_are_refused_before_the_work_of_encoding(trained, tiny_model, tmp_path):
    """Bug: with later labels the rows were encoded first."""
    with pytest.raises(BadInput, match="comparisons have no strength"):
        trained(tiny_model, REWARD.model_copy(update={"margin_scale": 1.0}))
    assert not RunDir(tmp_path / "reward").tokens.exists()
