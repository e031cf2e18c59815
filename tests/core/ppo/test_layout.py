"""PPO's layouts in this process: what shares a trunk computes what separate models compute."""

import shutil
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import torch
from plain import no_functions
from torch import Tensor

from rlhf_core.batching.batch import Sequence, encode
from rlhf_core.config import PPO, LoRA, load_recipe
from rlhf_core.config.stage_configs import PPOStageConfig
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.digest import code_digest
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.modeling.lora import add_adapter, merge_adapter, save_adapter, write_origin
from rlhf_core.modeling.models import (
    PolicyModel,
    ScalarModel,
    inference,
    load_policy,
    load_scalar,
    save_model,
)
from rlhf_core.objectives.losses import clipped_value_error, token_mean
from rlhf_core.ppo import onpolicy
from rlhf_core.ppo.experience import Experience, make_experience
from rlhf_core.ppo.layout import load_models
from rlhf_core.ppo.objective import Denominators, policy_objective, policy_query
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.scoring import Models, logits_and_values
from rlhf_core.ppo.trace.observe import observed
from rlhf_core.ppo.trace.report import layout_notes
from rlhf_core.ppo.trainer import Trainer
from rlhf_core.ppo.update import _actor_backward, update
from rlhf_core.reward.scoring import pair_sequences, score_sequences
from rlhf_core.rundir import Artifact, StageSpec

LORA = LoRA(rank=4)
SMALL = {
    "rollout_batch": 8,
    "minibatches": 2,
    "epochs": 2,
    "policy_lr": 1e-2,
    "critic_lr": 1e-2,
    "micro_batch_tokens": 60,
}
generator = torch.Generator().manual_seed(0)
SEQUENCES = [
    Sequence(
        torch.randint(6, 60, (2 + i % 3,), generator=generator).tolist(),
        [*torch.randint(6, 60, (2 + i,), generator=generator).tolist(), 1],
    )
    for i in range(8)
]
ROLLOUT = Rollout(SEQUENCES, [[-4.0] * len(s.response) for s in SEQUENCES], [True] * 8, 1.0)


@pytest.fixture(scope="module")
def inputs(tiny_model, tmp_path_factory) -> dict[str, Path]:
    """The SFT model, a reward model trained from it by adapter, and that adapter."""
    folder = tmp_path_factory.mktemp("layouts")
    scalar = load_scalar(tiny_model, new_head=True, seed=3)
    add_adapter(scalar.model, LORA, seed=1)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in scalar.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    save_adapter(scalar.model, folder / "adapter")
    merge_adapter(scalar.model)
    save_model(scalar, load_tokenizer(tiny_model), folder / "reward")
    digests = {
        "base": Artifact.of(tiny_model).digest,
        "merged": Artifact.of(folder / "reward").digest,
    }
    write_origin(folder / "adapter", **digests)
    return {"policy": tiny_model, "reward": folder / "reward", "reward_adapter": folder / "adapter"}


def laid_out(
    inputs: dict[str, Path], dtype: str = "float32", frozen_dtype: str | None = None, **options
) -> tuple[Models, PPO]:
    config = PPO(**SMALL | options)
    artifacts = {name: Artifact.of(path) for name, path in inputs.items()}
    spec = StageSpec(
        stage="ppo",
        seed=1,
        config=PPOStageConfig(ppo=config, dtype=dtype, frozen_dtype=frozen_dtype),
        inputs=artifacts,
        code=code_digest(),
    )
    return load_models(spec, config, no_functions), config


def scored(models: Models, config: PPO) -> Experience:
    return make_experience(ROLLOUT, models, config, beta=0.1, pad_id=0)


def learnt(models: Models, config: PPO, step: int = 1) -> dict[str, float]:
    return update(models, scored(models, config), config, step=step, seed=1)


def same(one: Experience, other: Experience) -> bool:
    ours, theirs = tensors(one), tensors(other)
    return ours.keys() == theirs.keys() and all(ours[k].equal(theirs[k]) for k in ours)


def tensors(record: object, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor in a record of records, by its path."""
    found: dict[str, Tensor] = {}
    for field in fields(record):
        value, path = getattr(record, field.name), f"{prefix}.{field.name}"
        if isinstance(value, Tensor):
            found[path] = value
        elif is_dataclass(value):
            found |= tensors(value, path)
    return found


def test_reference_by_adapter_off_gives_the_numbers_of_the_copy(inputs):
    copy, config = laid_out(inputs, lora=LORA)
    off, sharing = laid_out(inputs, lora=LORA, reference="adapter-off")
    for step in (1, 2):
        assert same(scored(copy, config), scored(off, sharing))
        ours, theirs = learnt(copy, config, step), learnt(off, sharing, step)
        assert {k: v for k, v in ours.items() if "seconds" not in k} == {
            k: v for k, v in theirs.items() if "seconds" not in k
        }
    assert float(scored(off, sharing).outputs.kl_BR.abs().max()) > 0.01
    trained = [
        {name: p for name, p in one.actor.module.named_parameters() if p.requires_grad}
        for one in (copy, off)
    ]
    assert all(p.equal(trained[1][name]) for name, p in trained[0].items())


@pytest.mark.parametrize(
    "options", [{}, {"lora": LORA, "reference": "adapter-off"}], ids=("copy", "adapter-off")
)
def test_a_reward_adapter_on_the_references_trunk_gives_the_scores_of_the_whole_model(
    inputs, options
):
    whole, shared = (
        scored(*laid_out(inputs, reward_trunk=trunk, **options)) for trunk in ("own", "reference")
    )
    torch.testing.assert_close(shared.rewards.score_B, whole.rewards.score_B, atol=1e-5, rtol=1e-5)
    assert shared.outputs.ref_logprobs_BR.equal(
        whole.outputs.ref_logprobs_BR
    ) and shared.outputs.old_logprobs_BR.equal(whole.outputs.old_logprobs_BR)
    assert float(whole.rewards.score_B.std()) > 0.1


OF_FROZEN = [{}, {"reward_trunk": "reference"}]
ON_TRUNK = ("own", "reward on the reference's trunk")


@pytest.mark.parametrize("options", OF_FROZEN, ids=ON_TRUNK)
def test_matrices_of_frozen_models_in_bfloat16_change_no_number_of_products_in_bfloat16(
    inputs, options
):
    """They are the weights that autocast rounds in each pass."""
    kept, rounded = (
        scored(*laid_out(inputs, "bfloat16", frozen_dtype, **options))
        for frozen_dtype in ("float32", None)
    )
    assert same(kept, rounded)


@pytest.mark.parametrize("options", OF_FROZEN, ids=ON_TRUNK)
def test_frozen_models_in_bfloat16_give_nearly_the_same_and_change_no_other_model(inputs, options):
    """Relative to the spread of the scores, and in nats; bfloat16 has 8 significant bits."""
    whole, half = (
        scored(*laid_out(inputs, "float32", frozen_dtype, **options))
        for frozen_dtype in (None, "bfloat16")
    )
    ours, theirs = tensors(half), tensors(whole)
    for name in ("old_logprobs_BR", "entropy_BR", "values_BR"):
        assert ours[f".outputs.{name}"].equal(theirs[f".outputs.{name}"])
    gap_BR = ours[".outputs.ref_logprobs_BR"] - theirs[".outputs.ref_logprobs_BR"]
    assert 0 < float(gap_BR.abs().max()) < 0.02
    score_B = theirs[".rewards.score_B"]
    apart = (ours[".rewards.score_B"] - score_B).abs().max() / score_B.std()
    assert 0 < float(apart) < 0.05


def test_a_shared_critic_gives_its_values_without_the_actors_logits(inputs):
    """With old_logprobs = 'sampler' the trunk runs for the values alone."""
    models, config = laid_out(inputs, critic="shared")
    learnt(models, config)  # the value head starts at 0
    whole = scored(models, config)
    quick = scored(models, PPO(**config.model_dump() | {"old_logprobs": "sampler"}))
    assert whole.outputs.values_BR.any() and quick.outputs.entropy_BR is None
    assert quick.outputs.old_logprobs_BR.equal(quick.sampler_logprobs_BR)
    assert quick.outputs.values_BR.equal(whole.outputs.values_BR)
    assert quick.outputs.end_values_B.equal(whole.outputs.end_values_B)


def test_everything_on_one_trunk_learns(inputs):
    models, config = laid_out(
        inputs, lora=LORA, reference="adapter-off", reward_trunk="reference", critic="shared"
    )
    before = scored(models, config)
    assert same(before, scored(models, config)) and models.critic is None
    metrics = learnt(models, config)
    assert metrics["ppo/value_loss"] > 0 and metrics["ppo/critic_lr"] == config.critic_lr
    after = scored(models, config)
    assert after.outputs.ref_logprobs_BR.equal(
        before.outputs.ref_logprobs_BR
    ) and after.rewards.score_B.equal(before.rewards.score_B)
    assert (
        not after.outputs.old_logprobs_BR.equal(before.outputs.old_logprobs_BR)
        and after.outputs.values_BR.any()
    )
    state = models.actor.state()
    assert all(
        ".lora_" in name or "value_head" in name for name in state if name.startswith("weights/")
    )
    assert not any(".reward." in name for name in state)


TOTALS = (
    "policy_loss",
    "value_loss",
    "value_clip_fraction",
    "policy_clip_fraction",
    "approx_kl_update",
    "ratio_max",
    "ratio_min",
)


def test_a_shared_critics_gradient_is_the_policys_and_the_weighted_value_losses(inputs):
    models, config = laid_out(inputs, critic="shared", value_coef=0.3)
    trunk = models.actor.module
    with torch.no_grad():
        trunk.value_head.weight.copy_(
            load_scalar(inputs["policy"], new_head=True, seed=3).model.score.weight
        )
    experience = scored(models, config)
    part, tokens = experience.rows([0, 1, 2, 3]), 17
    part = type(part)(**vars(part) | {"returns_BR": part.returns_BR + 1.0})
    _actor_backward(
        models.actor,
        part,
        config,
        Denominators(tokens, tokens, read=40),
        dict.fromkeys(TOTALS, 1.0),
        counts=True,
    )
    policy = PolicyModel(load_policy(inputs["policy"]).model)
    critic = ScalarModel(load_scalar(inputs["policy"], new_head=True, seed=3).model)
    scores = policy(part.batch, query=policy_query(config))
    loss, _, _ = policy_objective(scores, part, config, tokens)
    values_BR = critic(part.batch)[:, :-1]
    error_BR = clipped_value_error(
        values_BR,
        part.values_BR,
        part.returns_BR,
        part.batch.response_mask_BR,
        clip=config.value_clip,
    )
    (
        loss + config.value_coef * token_mean(error_BR, part.batch.response_mask_BR, tokens)
    ).backward()
    for name, parameter in trunk.model.named_parameters():
        own = policy.model.get_parameter(name).grad
        if name != "lm_head.weight":
            own = own + critic.model.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, own, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(
        trunk.value_head.weight.grad, critic.model.score.weight.grad, atol=1e-6, rtol=1e-4
    )


def test_in_the_critics_warm_up_only_the_value_head_of_a_shared_trunk_learns(inputs):
    models, config = laid_out(inputs, critic="shared", critic_warmup_steps=1)
    models.actor.module.value_head.weight.data.fill_(0.1)  # else nothing could reach the trunk
    before = {name: value.clone() for name, value in models.actor.module.state_dict().items()}
    metrics = learnt(models, config)
    changed = {
        name
        for name, value in models.actor.module.state_dict().items()
        if not value.equal(before[name])
    }
    assert (
        changed == {"value_head.weight"}
        and metrics["ppo/policy_lr"] == 0
        and metrics["ppo/value_loss"] > 0
    )
    learnt(models, config, step=2)
    assert not models.actor.module.model.lm_head.weight.equal(before["model.lm_head.weight"])


def test_a_separate_critic_with_lora_learns_by_adapter_and_head(inputs):
    models, config = laid_out(inputs, lora=LORA)
    learnt(models, config)
    names = {name for name in models.critic.state() if name.startswith("weights/")}
    assert "weights/model.score.weight" in names and all(
        ".lora_" in name or "score" in name for name in names
    )


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, {"actor", "critic", "reference", "reward"}),
        ({"critic": "shared"}, {"actor", "reference", "reward"}),
        ({"reward_trunk": "reference"}, {"actor", "critic", "reference", "reward"}),
        (
            {
                "lora": LORA,
                "reference": "adapter-off",
                "reward_trunk": "reference",
                "critic": "shared",
            },
            {"actor", "reference", "reward"},
        ),
    ],
)
def test_forward_passes_are_counted_by_role(inputs, options, asked):
    models, config = laid_out(inputs, **options)
    with observed({name: engine.module for name, engine in models.engines.items()}) as seen:
        scored(models, config)
    counts = {
        name: sum(one.model == name for one in seen.passes)
        for name in {one.model for one in seen.passes}
    }
    assert set(counts) == asked and len(set(counts.values())) == 1
    assert any(one.values is not None for one in seen.passes) == (config.critic == "shared")
    assert len(layout_notes(config)) == len(options)


def test_values_come_with_the_logits_or_not_at_all():
    logits, values = torch.zeros(1, 2, 3), torch.zeros(1, 3)
    assert logits_and_values(logits) == (logits, None)
    assert logits_and_values((logits, values)) == (logits, values)


def test_another_actor_than_the_reference_has_a_copy_of_it(inputs, tmp_path):
    """As in `rlhf trace --trained`: the adapter that could be switched off is no longer there."""
    moved = load_policy(inputs["policy"])
    with torch.no_grad():
        moved.model.lm_head.weight += 0.1 * torch.randn_like(moved.model.lm_head.weight)
    save_model(moved, load_tokenizer(inputs["policy"]), tmp_path / "moved")
    models, config = laid_out(
        inputs | {"policy": tmp_path / "moved", "reference": inputs["policy"]},
        lora=LORA,
        reference="adapter-off",
    )
    assert float(scored(models, config).outputs.kl_BR.abs().max()) > 0.01


def test_a_reward_adapter_of_another_model_is_refused(inputs, tmp_path):
    with pytest.raises(BadInput, match="another trunk would change its scores"):
        laid_out(inputs | {"reference": inputs["reward"]}, reward_trunk="reference")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["ppo.reference='adapter-off'"], "there is no adapter to switch off"),
        (
            [
                "ppo.critic='shared'",
                "ppo.advantage='rloo'",
                "ppo.group_size=2",
                "ppo.critic_warmup_steps=0",
            ],
            "critic 'shared', but advantage 'rloo'",
        ),
        (["ppo.reward_trunk='reference'"], "reward.lora is off"),
        (
            ["ppo.reward_trunk='reference'", "reward.lora=true", "model.reward='r'"],
            "model.reward is a given model",
        ),
        (["ppo.value_coef=0"], "greater than 0"),
        (["sft.lora.rank=0"], "sft.lora.rank.*greater than 0"),
        (["sft.lora.ranks=4"], "no such key; did you mean rank"),
    ],
)
def test_layouts_that_are_impossible_are_refused_with_the_remedy(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", settings)


def test_layouts_that_are_possible_are_taken():
    options = [
        "ppo.lora=true",
        "ppo.reference='adapter-off'",
        "reward.lora.rank=4",
        "ppo.reward_trunk='reference'",
    ]
    ppo = load_recipe("quickstart", [*options, "ppo.critic='shared'"]).ppo
    assert (
        ppo.shares_critic and ppo.lora == LoRA() and not load_recipe("quickstart").ppo.shares_critic
    )


OTHER_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' <eos> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)
PAIR = {
    "prompt": [{"role": "user", "content": "w1 w2 w3"}],
    "chosen": "w4 w6 w8",
    "rejected": "w5 w7 w9 w11",
}


@pytest.fixture(scope="module")
def own_template(inputs, tmp_path_factory) -> Path:
    """The reward model of `inputs` with a chat template of its own."""
    folder = tmp_path_factory.mktemp("own template")
    tokenizer = load_tokenizer(inputs["reward"])
    tokenizer.chat_template = OTHER_TEMPLATE
    save_model(load_scalar(inputs["reward"]), tokenizer, folder / "template")
    return folder / "template"


def answered(policy: Path, *, ended: bool = True) -> Rollout:
    """The pair's answers as a rollout of the policy's token ids, without an end if not `ended`."""
    tokenizer = load_tokenizer(policy)
    sequences = [encode(tokenizer, [PAIR], side)[0] for side in ("chosen", "rejected")]
    if not ended:
        sequences = [Sequence(one.prompt, one.response[:-1]) for one in sequences]
    logprobs = [[-4.0] * len(one.response) for one in sequences]
    return Rollout(sequences, logprobs, [ended] * 2, 1.0, records=(PAIR, PAIR))


def gate_scores(reward: Path) -> Tensor:
    """The pair's scores as the reward stage measures a given reward model."""
    forward = inference(load_scalar(reward), dtype="float32")
    return score_sequences(forward, pair_sequences(load_tokenizer(reward), [PAIR]), 0, 4096)


def test_a_pair_scores_in_ppo_what_it_scores_in_the_gate_whatever_the_templates(
    inputs, own_template
):
    """Each model reads its own rendering; read as the policy's ids the margin is another."""
    for reward in (inputs["reward"], own_template):
        models, config = laid_out(inputs | {"reward": reward})
        found = make_experience(answered(inputs["policy"]), models, config, beta=0.1, pad_id=0)
        torch.testing.assert_close(found.reward_model.score_B, gate_scores(reward))
        torch.testing.assert_close(found.rewards.score_B, gate_scores(reward))
    margins = [
        float(scores[0] - scores[1])
        for scores in (gate_scores(inputs["reward"]), gate_scores(own_template))
    ]
    assert abs(margins[0] - margins[1]) > 0.02


def test_a_truncated_reply_is_scored_at_its_last_word_without_an_end(inputs, own_template):
    models, config = laid_out(inputs | {"reward": own_template})
    rollout = answered(inputs["policy"], ended=False)
    found = make_experience(rollout, models, config, beta=0.1, pad_id=0)
    cut = [
        Sequence(one.prompt, one.response[:-1])
        for one in pair_sequences(load_tokenizer(own_template), [PAIR])
    ]
    forward = inference(load_scalar(own_template), dtype="float32")
    torch.testing.assert_close(found.reward_model.score_B, score_sequences(forward, cut, 0, 4096))
    assert (found.reward_model.score_B - gate_scores(own_template)).abs().min() > 1e-3


def test_checks_on_the_policys_own_replies_read_as_the_gate_does(inputs, own_template):
    models, config = laid_out(inputs | {"reward": own_template})
    tokenizer = load_tokenizer(inputs["policy"])
    trainer = Trainer(models, Unused(), tokenizer, [], config, seed=1)
    rollout = answered(inputs["policy"])
    found = onpolicy._scores(trainer, [PAIR["prompt"]] * 2, rollout.sequences, rollout.ended)
    assert found == pytest.approx(gate_scores(own_template).tolist(), abs=1e-5)


class Unused:
    """A sampler that no test asks."""


def test_a_critic_starts_from_a_reward_model_of_the_policys_vocabulary_only(
    inputs, own_template, tmp_path
):
    tokenizer = load_tokenizer(own_template)
    tokenizer.add_tokens(["another"])
    scalar = load_scalar(own_template)
    scalar.model.resize_token_embeddings(len(tokenizer))
    save_model(scalar, tokenizer, tmp_path / "more words")
    rows = {
        name: laid_out(inputs | {"reward": folder})[0].critic.module.model.config.vocab_size
        for name, folder in {"template": own_template, "words": tmp_path / "more words"}.items()
    }
    assert rows == {"template": 62, "words": 62}
    heads = [
        laid_out(inputs | {"reward": folder})[0].critic.module.model.score.weight
        for folder in (own_template, tmp_path / "more words")
    ]
    assert heads[0].equal(scalar.model.score.weight) and not heads[1].equal(heads[0])


def test_a_shared_trunk_is_refused_for_a_reward_model_of_another_template(inputs, tmp_path):
    """The policy differs from the reference, on whose trunk the reward model reads."""
    policy = shutil.copytree(inputs["policy"], tmp_path / "policy")
    tokenizer = load_tokenizer(policy)
    tokenizer.chat_template = OTHER_TEMPLATE
    tokenizer.save_pretrained(policy)
    with pytest.raises(BadInput, match=r"ppo.reward_trunk is 'reference', but the reward model"):
        laid_out(
            inputs | {"policy": policy, "reference": inputs["policy"]}, reward_trunk="reference"
        )
