"""The losses of actor and critic, by every option that changes them.

Each option changes what it says and nothing else.
"""

import math

import pytest
import torch
from ppo_batch import BATCH, LOGITS, MASK, experience, seeded
from ranks_of_step import microbatches_of_ranks
from torch import Tensor, tensor

from rlhf_core.config import PPO, Sampling, load_recipe
from rlhf_core.errors import ConfigError
from rlhf_core.modeling.token_scores import TokenScores, scores_of
from rlhf_core.objectives.losses import tempered, token_entropy, token_logprobs
from rlhf_core.ppo.experience import ExperienceRows
from rlhf_core.ppo.objective import (
    Denominators,
    clipped_share,
    policy_objective,
    policy_query,
    value_objective,
)

LOGPROBS = token_logprobs(LOGITS, BATCH.response_ids_BR)
TOKENS = int(MASK.sum())


def part(**changes) -> ExperienceRows:
    """Old log-probabilities of which some make the ratio leave the clip range on either side."""
    tensors = {
        "old_logprobs_BR": LOGPROBS + 0.6 * seeded(*MASK.shape, seed=1) - 0.5,
        "ref_logprobs_BR": LOGPROBS + seeded(*MASK.shape, seed=2),
        "values_BR": torch.zeros(MASK.shape),
        "returns_BR": torch.zeros(MASK.shape),
        "advantages_BR": seeded(*MASK.shape, seed=3),
        "importance_BR": MASK.double(),
    }
    return ExperienceRows(batch=BATCH, beta=0.5, **tensors | changes)


def scores(config: PPO, logits_BRV: Tensor = LOGITS) -> TokenScores:
    """Return what the loss asks of an actor with these logits."""
    return scores_of(logits_BRV, BATCH.response_ids_BR, policy_query(config))


def objective(config: PPO, given: ExperienceRows | None = None) -> float:
    denominator = Denominators.of(MASK, config, read=1).policy
    return float(policy_objective(scores(config), given or part(), config, denominator)[0])


def by_hand(low: float = 0.2, high: float = 0.2, dual: float = math.inf) -> float:
    """The surrogate as a loop over tokens."""
    x, total = part(), 0.0
    for row, column in MASK.nonzero().tolist():
        advantage = float(x.advantages_BR[row, column])
        ratio = math.exp(float(LOGPROBS[row, column] - x.old_logprobs_BR[row, column]))
        loss = -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
        total += min(loss, -dual * advantage) if advantage < 0 else loss
    return total / TOKENS


def test_defaults_are_the_symmetric_clip_alone():
    assert objective(PPO()) == pytest.approx(by_hand())
    assert PPO().has_critic and PPO().group_size == 1


def test_clip_high_widens_the_upper_side_only():
    assert objective(PPO(clip_high=0.6)) == pytest.approx(by_hand(high=0.6))
    assert by_hand(high=0.6) != pytest.approx(by_hand())


def test_dual_clip_bounds_the_loss_where_the_advantage_is_negative():
    assert objective(PPO(dual_clip=1.2)) == pytest.approx(by_hand(dual=1.2))
    assert by_hand(dual=1.2) < by_hand() - 1e-3


def test_importance_weighs_each_tokens_surrogate():
    weights = torch.rand(
        MASK.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )
    singles = [
        objective(
            PPO(),
            part(importance_BR=(MASK & (torch.arange(MASK.numel()).view_as(MASK) == i)).double()),
        )
        for i in range(MASK.numel())
    ]
    expected = (tensor(singles).view_as(MASK) * weights).sum()
    assert objective(PPO(), part(importance_BR=weights)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_kl_in_the_loss_adds_beta_times_the_mean_token_kl(estimator):
    difference = (LOGPROBS - part().ref_logprobs_BR)[MASK]
    mean = {"k2": (difference**2 / 2).mean(), "k3": ((-difference).exp() - 1 + difference).mean()}[
        estimator
    ]
    found = objective(PPO(kl_in="loss", kl_estimator=estimator))
    assert found - objective(PPO()) == pytest.approx(0.5 * float(mean))


def test_entropy_bonus_is_taken_off():
    expected = objective(PPO()) - 0.3 * float(token_entropy(LOGITS)[MASK].mean())
    assert objective(PPO(entropy_coef=0.3)) == pytest.approx(expected)


def test_temperature_reaches_the_update():
    config = PPO(sampling=Sampling(temperature=0.5))
    _, _, found = policy_objective(scores(config), part(), config, TOKENS)
    torch.testing.assert_close(found, token_logprobs(tempered(LOGITS, 0.5), BATCH.response_ids_BR))


# Aggregation

GROUPS = {"rollout_batch": 4, "group_size": 2, "minibatches": 2}
BY_ADVANTAGE = {
    "gae": "tokens",
    "rloo": "tokens",
    "reinforce++": "tokens",
    "reinforce++-baseline": "tokens",
    "grpo": "sequences",
    "dr_grpo": "constant",
}
LENGTHS = MASK.sum(-1).tolist()  # 3, 2, 4, 1
# the weight of each response's tokens, by hand: 10 tokens, 4 responses, at most 8 tokens each
WEIGHTS = {
    "tokens": [1 / 10, 1 / 10, 1 / 10, 1 / 10],
    "sequences": [1 / 12, 1 / 8, 1 / 16, 1 / 4],
    "constant": [1 / 32, 1 / 32, 1 / 32, 1 / 32],
}


def aggregating(kind: str, **changes) -> PPO:
    return PPO(loss_aggregation=kind, sampling=Sampling(max_new_tokens=8), **changes)


@pytest.mark.parametrize("advantage", BY_ADVANTAGE)
def test_the_aggregation_is_that_of_the_advantages_paper_unless_the_recipe_has_another(advantage):
    assert PPO(advantage=advantage, **GROUPS).aggregation == BY_ADVANTAGE[advantage]
    assert PPO(advantage=advantage, loss_aggregation="tokens", **GROUPS).aggregation == "tokens"


@pytest.mark.parametrize("kind", WEIGHTS)
def test_each_token_weighs_what_its_aggregation_says(kind):
    """The gradient of the loss by a token's importance is -advantage times its weight."""
    weight_BR = tensor(WEIGHTS[kind], dtype=torch.float64)[:, None].expand(MASK.shape)
    importance_BR = MASK.double().requires_grad_()
    given = part(importance_BR=importance_BR, old_logprobs_BR=LOGPROBS)  # every ratio is 1
    config = aggregating(kind)
    denominator = Denominators.of(MASK, config, read=1).policy
    policy_objective(scores(config), given, config, denominator)[0].backward()
    expected_BR = torch.where(MASK, -given.advantages_BR * weight_BR, 0.0)
    torch.testing.assert_close(importance_BR.grad, expected_BR)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_an_aggregation_equals_its_papers_sum_with_kl_and_entropy_in_it(kind):
    """Loop over responses and their tokens: DeepSeekMath's eq. 3 has the KL inside its means."""
    config = aggregating(kind, kl_in="loss", kl_estimator="k3", entropy_coef=0.3)
    x, entropy_BR, total = part(), token_entropy(LOGITS), 0.0
    for row, length in enumerate(LENGTHS):
        of_response = 0.0
        for t in range(length):
            advantage = float(x.advantages_BR[row, t])
            ratio = math.exp(float(LOGPROBS[row, t] - x.old_logprobs_BR[row, t]))
            gap = float(LOGPROBS[row, t] - x.ref_logprobs_BR[row, t])
            clipped = min(max(ratio, 0.8), 1.2)
            of_response += max(-ratio * advantage, -clipped * advantage)
            of_response += 0.5 * (math.exp(-gap) - 1 + gap) - 0.3 * float(entropy_BR[row, t])
        total += {
            "tokens": of_response / sum(LENGTHS),
            "sequences": of_response / length / 4,
            "constant": of_response / (8 * 4),
        }[kind]
    assert objective(config) == pytest.approx(total)


def test_by_a_constant_a_token_of_a_short_minibatch_weighs_as_much_as_one_of_a_long_one():
    """Bug: under dr_grpo one of 10 tokens weighed 20 times as much as one of 200."""
    config = PPO(advantage="dr_grpo", **GROUPS)

    def weight(tokens: int) -> float:
        mask_BR = torch.arange(60) < torch.full((4, 1), tokens // 4)
        return 1 / Denominators.of(mask_BR, config, read=1).policy

    assert weight(8) == weight(200) == 1 / (64 * 4)


def test_a_response_without_real_tokens_counts_only_by_the_constant():
    mask_BR = torch.cat([MASK, torch.zeros_like(MASK[:1])])
    found = {kind: Denominators.of(mask_BR, aggregating(kind), read=1).policy for kind in WEIGHTS}
    assert found == {"tokens": 10, "sequences": 4, "constant": 40}
    empty = torch.zeros_like(MASK)
    found = {kind: Denominators.of(empty, aggregating(kind), read=1) for kind in WEIGHTS}
    assert found == {"tokens": (1, 1, 1), "sequences": (1, 1, 1), "constant": (1, 32, 1)}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize(("budget", "ranks"), [(1, 1), (20, 1), (1, 3), (20, 2)])
def test_microbatches_and_ranks_change_no_gradient(models, kind, budget, ranks):
    config = aggregating(kind, kl_in="loss", kl_estimator="k3", entropy_coef=0.1)
    made, policy = experience(models, config), models[0]
    denominator = Denominators.of(made.batch.response_mask_BR, config, read=1).policy

    def gradient(plan: list[tuple[list[int], bool]]) -> Tensor:
        policy.requires_grad_(True).zero_grad()
        for indices, counted in plan:
            rows = made.rows(indices)
            asked = policy(rows.batch, query=policy_query(config))
            loss = policy_objective(asked, rows, config, denominator)[0]
            (loss * counted).backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])

    whole = gradient([(list(range(8)), True)])
    plans = microbatches_of_ranks(made.batch.sizes, budget, ranks)
    assert whole.abs().max() > 1e-3 and sum(map(len, plans)) > 1
    torch.testing.assert_close(sum(map(gradient, plans)), whole, atol=1e-6, rtol=1e-4)


# GSPO and CISPO


def test_the_default_clips_and_aggregation_are_those_of_the_losses_papers():
    found = {name: PPO(policy_loss=name) for name in ("clip", "gspo", "cispo")}
    assert {name: config.clip_range for name, config in found.items()} == {
        "clip": (0.2, 0.2),
        "gspo": (3e-4, 4e-4),
        "cispo": (math.inf, 4.0),
    }
    assert PPO(clip=0.1).clip_range == (0.1, 0.1)
    assert PPO(clip_high=0.28).clip_range == (0.2, 0.28)
    assert PPO(policy_loss="cispo", clip=0.1).clip_range == (0.1, 0.1)
    assert PPO(policy_loss="cispo", clip_high=1.0).clip_range == (math.inf, 1.0)
    assert PPO(policy_loss="gspo", clip_high=5e-4).clip_range == (3e-4, 5e-4)
    for advantage in ("grpo", "dr_grpo", "rloo"):
        kinds = {
            name: PPO(policy_loss=name, advantage=advantage, **GROUPS).aggregation
            for name in ("gspo", "cispo")
        }
        assert kinds == {"gspo": "sequences", "cispo": "tokens"}
    assert PPO(policy_loss="gspo", loss_aggregation="tokens").aggregation == "tokens"


@pytest.mark.parametrize("name", ["gspo", "cispo"])
def test_a_policy_loss_equals_its_papers_sum(name):
    """Loop over responses and tokens, with importance weights; the share of clipped tokens too."""
    config = PPO(policy_loss=name, clip=0.1, clip_high=0.09)
    weights = torch.rand(MASK.shape, generator=torch.Generator().manual_seed(4)).double()
    old_BR = LOGPROBS + 0.15 * seeded(*MASK.shape, seed=1)  # some ratios within the range
    x, total, clipped = part(importance_BR=weights, old_logprobs_BR=old_BR), 0.0, 0
    for row, length in enumerate(LENGTHS):
        gaps = [float(LOGPROBS[row, t] - x.old_logprobs_BR[row, t]) for t in range(length)]
        for t in range(length):
            ratio = math.exp(sum(gaps) / length if name == "gspo" else gaps[t])
            within = min(max(ratio, 0.9), 1.09)
            clipped += ratio != within
            advantage, weight = float(x.advantages_BR[row, t]), float(weights[row, t])
            if name == "gspo":
                total -= weight * min(ratio * advantage, within * advantage) / length / 4
            else:
                total -= weight * within * advantage * float(LOGPROBS[row, t]) / 10
    assert objective(config, x) == pytest.approx(total)
    assert clipped_share(LOGPROBS, x, config, TOKENS) == pytest.approx(clipped / 10)
    assert 0 < clipped < 10


@pytest.mark.parametrize("name", ["gspo", "cispo"])
def test_every_policy_loss_descends_by_advantage_before_the_first_step(name):
    """At a ratio of 1 all have the same gradient, if they are added up in the same way."""
    gradients = []
    for loss in ("clip", name):
        config = PPO(policy_loss=loss, loss_aggregation="sequences")
        logits = LOGITS.clone().requires_grad_()
        given = part(old_logprobs_BR=LOGPROBS)
        policy_objective(scores(config, logits), given, config, 4)[0].backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["ppo.policy_loss='gspo'", "ppo.dual_clip=3.0"], "'gspo', which has no dual clip"),
        (["ppo.policy_loss='cispo'", "ppo.dual_clip=3.0"], "'cispo', which has no dual clip"),
        (["ppo.policy_loss='gspo'", "ppo.clip=0.2"], r"clip at 1 - 0.2 and 1 \+ 0.2: .* 0.0003"),
        (["ppo.policy_loss='gspo'", "ppo.clip_high=0.3"], r"1 - 0.0003 and 1 \+ 0.3"),
        (["ppo.policy_loss='ppo'"], "'clip', 'gspo' or 'cispo'"),
        (["ppo.loss_aggregation='mean'"], "'tokens', 'sequences' or 'constant'"),
    ],
)
def test_combinations_that_do_not_fit_are_refused_with_a_reason(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", settings)


def test_a_clip_can_be_unset_and_the_value_clip_switched_off():
    recipe = load_recipe("quickstart", ["ppo.clip=none", "ppo.value_clip=none"])
    assert recipe.ppo.clip_range == (0.2, 0.2) and recipe.ppo.value_clip is None


# The critic


def test_the_value_loss_is_a_mean_over_tokens_and_its_clip_can_be_off():
    values_BR1 = seeded(len(MASK), MASK.shape[1] + 1, seed=6)
    given = part(values_BR=torch.zeros_like(LOGPROBS), returns_BR=torch.ones_like(LOGPROBS))
    errors = {0.2: [], None: []}
    for row, column in MASK.nonzero().tolist():
        value = float(values_BR1[row, column])
        clipped = min(max(value, -0.2), 0.2)
        errors[0.2].append(max((value - 1) ** 2, (clipped - 1) ** 2) / 2)
        errors[None].append((value - 1) ** 2 / 2)
    share = float((values_BR1[:, :-1].abs() > 0.2)[MASK].double().mean())
    for clip, expected in errors.items():
        config = PPO(value_clip=clip, advantage="gae", loss_aggregation="sequences")
        loss, clipped_share = value_objective(values_BR1, given, config, TOKENS)
        assert float(loss) == pytest.approx(sum(expected) / TOKENS)
        assert clipped_share == pytest.approx(0.0 if clip is None else share)
    assert 0 < share < 1 and sum(errors[0.2]) > sum(errors[None])
