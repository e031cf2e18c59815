"""Divergences, rewards, advantages and importance weights equal those of verl, openrlhf and trl.

The last tests show the differences that infra/parity/README.md lists.
"""

import pytest
import torch
from published_answers import (
    CLOSE,
    EPS,
    MASK,
    TOKENS,
    S,
    X,
    assert_parity,
    assert_tokens_equal,
    theirs,
)
from torch import Tensor

from rlhf_core.objectives.advantages import (
    at_tokens,
    discounted_returns,
    gae,
    grpo_advantages,
    masked_moments,
    reinforce_plus_plus_advantages,
    rloo_advantages,
    standardise,
    token_rewards,
    whiten,
)
from rlhf_core.objectives.importance import mismatch, truncated_weights
from rlhf_core.objectives.kl import adapt_beta, exact_kl, token_kl
from rlhf_core.objectives.losses import token_mean


def whitened_as(package: str, values: Tensor, mask: Tensor) -> Tensor:
    """Unbiased variance, with 1e-8 inside the root; verl divides by n + 1e-8."""
    moments = masked_moments(values, mask)
    shrink = moments.n / (moments.n + EPS) if package == "verl" else 1.0
    std = (moments.std(correction=1) ** 2 * shrink + 1e-8).sqrt()
    return standardise(values, mask, mean=moments.mean * shrink, std=std)


# Divergence


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize(("package", "argument"), [("verl", "logprob"), ("openrlhf", "log_probs")])
def test_kl_estimators(package, argument, estimator):
    def ours(**inputs):
        return token_kl(inputs[argument], X["ref_logprobs"], MASK, estimator)

    assert_parity(package, f"kl/{estimator}", ours, **{argument: X["new_logprobs"]})


def test_kl_over_the_vocabulary():
    assert_parity(
        "trl", "kl/full", lambda logits: exact_kl(logits, X["ref_logits"], MASK), logits=X["logits"]
    )


def test_kl_of_an_update():
    new, old = X["new_logprobs"], X["old_logprobs"]
    for name, found in (
        ("approxkl", token_kl(new, old, MASK, "k2")),
        ("policykl", token_kl(old, new, MASK, "k1")),
    ):
        torch.testing.assert_close(
            token_mean(found, MASK, TOKENS), theirs("trl", f"stats/{name}"), **CLOSE
        )


def test_adaptive_kl():
    beta = S["beta"]
    for kl, expected in zip(
        X["observed_kl"].tolist(), theirs("verl", "adaptive_kl/value").tolist(), strict=True
    ):
        beta = adapt_beta(
            beta, kl, target=S["kl_target"], horizon=S["kl_horizon"], responses=S["kl_responses"]
        )
        assert beta == pytest.approx(expected, abs=1e-12)


# Rewards and advantages


def test_token_rewards_of_openrlhf():
    assert_parity(
        "openrlhf",
        "rewards",
        lambda r, kl: token_rewards(r, kl, MASK, S["beta"]),
        r=X["scores"],
        kl=X["old_logprobs"] - X["ref_logprobs"],
    )


@pytest.mark.parametrize(("name", "estimator"), [("kl", "k1"), ("mse", "k2")])
def test_token_rewards_of_trl(name, estimator):
    kl = token_kl(X["old_logprobs"], X["ref_logprobs"], MASK, estimator)
    found = token_rewards(X["scores"], kl, MASK, S["beta"])
    real = MASK.any(-1)  # trl raises IndexError on a fully masked row
    assert_tokens_equal(found[real], "trl", f"rewards/{name}", MASK[real])


def test_token_rewards_of_verl():
    kl = X["old_logprobs"] - X["ref_logprobs"]
    found = X["rewards"] + token_rewards(torch.zeros_like(X["scores"]), kl, MASK, S["beta"])
    assert_tokens_equal(found, "verl", "rewards/value")


@pytest.mark.parametrize("name", ["mask", "mask_holes"])
def test_gae_of_verl(name):
    mask = X[name]
    advantages, returns = gae(X["rewards"], X["old_values"], mask, gamma=S["gamma"], lam=S["lam"])
    assert_tokens_equal(
        whitened_as("verl", advantages, mask), "verl", f"gae/{name}/advantages", mask
    )
    assert_tokens_equal(returns, "verl", f"gae/{name}/returns", mask)


def test_gae_of_trl():
    advantages, returns = gae(X["rewards"], X["old_values"], MASK, gamma=S["gamma"], lam=S["lam"])
    assert_tokens_equal(whitened_as("trl", advantages, MASK), "trl", "gae/advantages")
    assert_tokens_equal(returns, "trl", "gae/returns")


@pytest.mark.parametrize(
    ("case", "function"),
    [
        ("grpo", grpo_advantages),
        ("dr_grpo", lambda score, group: grpo_advantages(score, group, scale_by_std=False)),
        ("rloo", rloo_advantages),
        ("rloo_vectorized", rloo_advantages),
    ],
)
def test_group_advantages(case, function):
    found = at_tokens(function(X["rewards"].sum(-1), X["groups"]), MASK)
    assert_tokens_equal(found, "verl", f"{case}/value")


def test_reinforce_plus_plus():
    returns = reinforce_plus_plus_advantages(X["rewards"], MASK, gamma=S["gamma"])
    assert_tokens_equal(returns, "verl", "reinforce_plus_plus/returns")
    assert_tokens_equal(
        whitened_as("verl", returns, MASK), "verl", "reinforce_plus_plus/advantages"
    )
    assert returns.equal(discounted_returns(X["rewards"], MASK, gamma=S["gamma"]))
    centred = reinforce_plus_plus_advantages(X["rewards"], MASK, group_B=X["groups"])
    assert_tokens_equal(
        whitened_as("verl", centred, MASK), "verl", "reinforce_plus_plus_baseline/advantages"
    )


# Sampler against trainer


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_truncated_importance_weights(level):
    found = truncated_weights(
        X["old_logprobs"], X["sampler_logprobs"], MASK, cap=S["cap"], level=level
    )
    assert_tokens_equal(found, "verl", f"importance/{level}/weights")


def test_mismatch():
    found = mismatch(X["old_logprobs"], X["sampler_logprobs"], MASK, cap=S["cap"])
    shrink = TOKENS / (TOKENS + EPS)
    assert found.kl * shrink == pytest.approx(float(theirs("verl", "mismatch/kl")), abs=1e-9)
    assert found.kl_k3 * shrink == pytest.approx(float(theirs("verl", "mismatch/k3_kl")), abs=1e-9)
    mean = (
        float(truncated_weights(X["old_logprobs"], X["sampler_logprobs"], MASK, cap=S["cap"]).sum())
        / TOKENS
    )
    share = found.effective_share * (shrink + EPS / mean) ** 2 / shrink
    assert share == pytest.approx(
        float(theirs("verl", "importance/token/effective_share")), abs=1e-9
    )


# The differences themselves


def test_difference_whitening_uses_the_variance_of_the_batch_not_its_unbiased_estimate():
    advantages, _ = gae(X["rewards"], X["old_values"], MASK, gamma=S["gamma"], lam=S["lam"])
    expected = theirs("trl", "gae/advantages")[MASK] * (TOKENS / (TOKENS - 1)) ** 0.5
    torch.testing.assert_close(whiten(advantages, MASK)[MASK], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_difference_openrlhf_computes_kl_in_float32(estimator):
    error = token_kl(X["new_logprobs"], X["ref_logprobs"], MASK, estimator) - theirs(
        "openrlhf", f"kl_float32/{estimator}/value"
    )
    assert 1e-9 < float(error[MASK].abs().max()) < 1e-5


def test_difference_kl_is_not_clamped():
    far = X["far"]
    assert torch.isclose(
        token_kl(far, 0 * far, far == far, "k3")[0, 0], torch.tensor(15.0).double().exp() - 16
    )
    for estimator in ("k1", "k2", "k3"):
        found = token_kl(far, 0 * far, far == far, estimator)
        torch.testing.assert_close(
            found.clamp(-10, 10), theirs("openrlhf", f"far/{estimator}"), **CLOSE
        )
        expected = found.clamp(max=10) if estimator == "k3" else found
        torch.testing.assert_close(expected, theirs("verl", f"far/{estimator}"), **CLOSE)


def test_difference_a_lone_response_has_no_advantage():
    score = X["rewards"].sum(-1)
    for function, case, scale in (
        (grpo_advantages, "lone/grpo", 1 + 1e-6),
        (rloo_advantages, "lone/rloo", 1.0),
    ):
        found, expected = function(score, X["lone_groups"]), theirs("verl", case)
        assert found[0] == 0 and float(expected[0, 0]) == pytest.approx(float(score[0]) / scale)
        torch.testing.assert_close(at_tokens(found, MASK)[1:], expected[1:], **CLOSE)


def test_difference_a_fully_masked_row_gets_no_reward():
    row = int(MASK.any(-1).logical_not().nonzero())
    kl = X["old_logprobs"] - X["ref_logprobs"]
    assert not token_rewards(X["scores"], kl, MASK, S["beta"])[row].any()
    assert float(theirs("openrlhf", "rewards/value")[row, -1]) == pytest.approx(
        float(X["scores"][row] - S["beta"] * kl[row, -1])
    )
