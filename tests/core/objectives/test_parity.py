"""The losses equal those of verl, openrlhf and trl, in values and gradients.

The differences that infra/parity/README.md lists are configured away. infra/parity/make_fixtures.py
made the fixtures.
"""

import math

import pytest
import torch
from published_answers import (
    CLOSE,
    EPS,
    MASK,
    PACKAGES,
    PAIRS,
    SEQUENCES,
    TOKENS,
    S,
    X,
    assert_parity,
    made_by,
    theirs,
)
from torch import Tensor

from rlhf_core.objectives.importance import truncated_weights
from rlhf_core.objectives.losses import (
    bradley_terry,
    clipped_importance,
    clipped_surrogate,
    clipped_value_error,
    dpo,
    ipo,
    masked_sum,
    probability_ratio,
    sequence_mean_token_mean,
    sequence_mean_token_sum,
    sequence_ratio,
    token_entropy,
    token_mean,
)


def surrogate(
    new_logprobs: Tensor, dual_clip: float | None, clip_high: float = S["clip_high"]
) -> Tensor:
    ratio = probability_ratio(new_logprobs, X["old_logprobs"], MASK)
    return clipped_surrogate(
        ratio, X["advantages"], clip_low=S["clip_low"], clip_high=clip_high, dual_clip=dual_clip
    )


def aggregate(mode: str, loss: Tensor, *, tokens: int, sequences: int, horizon: int) -> Tensor:
    if mode == "token-mean":
        return token_mean(loss, MASK, tokens)
    if mode == "token-sum":
        return masked_sum(loss, MASK)
    if mode == "seq-mean-token-mean":
        length = MASK.double().sum(-1, keepdim=True)
        return sequence_mean_token_mean(loss * length / (length + EPS), MASK, sequences)
    return sequence_mean_token_sum(
        loss, MASK, sequences, length=horizon if mode.endswith("norm") else 1.0
    )


LOCAL = {"tokens": TOKENS, "sequences": SEQUENCES, "horizon": MASK.shape[1]}
GLOBAL = {name: S[name] for name in LOCAL}
MODES = (
    "token-mean",
    "token-sum",
    "seq-mean-token-mean",
    "seq-mean-token-sum",
    "seq-mean-token-sum-norm",
)


@pytest.mark.parametrize("package", ["inputs", *PACKAGES])
def test_fixtures_say_what_made_them(package):
    expected = {"verl": "0.9.1", "openrlhf": "0.11.2", "trl": "0.11.4"}
    found = made_by(package)
    assert (
        expected.items() <= found["versions"].items() and found["seed"] == made_by("inputs")["seed"]
    )


# Policy loss


@pytest.mark.parametrize(
    ("package", "case", "argument", "dual_clip", "clip_high"),
    [
        ("verl", "policy/clip", "log_prob", None, S["clip_high"]),
        ("openrlhf", "policy/clip", "log_probs", None, S["clip_high"]),
        ("openrlhf", "policy/dual", "log_probs", S["dual_clip"], S["clip_high"]),
        ("trl", "policy", "logprobs", None, S["clip_low"]),
    ],
)
def test_policy_loss(package, case, argument, dual_clip, clip_high):
    def ours(**inputs):
        return token_mean(surrogate(inputs[argument], dual_clip, clip_high), MASK, TOKENS)

    assert_parity(package, case, ours, **{argument: X["new_logprobs"]})


@pytest.mark.parametrize("mode", MODES)
def test_policy_loss_under_every_aggregation_of_verl(mode):
    def ours(log_prob):
        return aggregate(mode, surrogate(log_prob, S["dual_clip"]), **GLOBAL)

    assert_parity("verl", f"policy/dual/{mode}", ours, log_prob=X["new_logprobs"])


def test_policy_loss_by_sequence_of_openrlhf():
    def ours(log_probs):
        return aggregate("seq-mean-token-mean", surrogate(log_probs, None), **LOCAL)

    assert_parity("openrlhf", "policy/sequence", ours, log_probs=X["new_logprobs"])


@pytest.mark.parametrize(
    ("package", "argument", "dual_clip"),
    [("verl", "log_prob", S["dual_clip"]), ("openrlhf", "log_probs", None)],
)
def test_policy_loss_with_truncated_importance_weights(package, argument, dual_clip):
    weights = truncated_weights(X["old_logprobs"], X["sampler_logprobs"], MASK, cap=S["cap"])

    def ours(**inputs):
        return token_mean(weights * surrogate(inputs[argument], dual_clip), MASK, TOKENS)

    assert_parity(package, "policy/importance", ours, **{argument: X["new_logprobs"]})


@pytest.mark.parametrize("case", ["sequences", "tokens", "below", "importance"])
def test_gspo(case):
    old, new = X["old_logprobs"], X["new_logprobs"]
    old, new = (new, old) if case == "below" else (old, new)
    mode = "token-mean" if case == "tokens" else "seq-mean-token-mean"
    weights = 1.0
    if case == "importance":
        weights = truncated_weights(X["old_logprobs"], X["sampler_logprobs"], MASK, cap=S["cap"])

    def ours(log_prob):
        ratio = sequence_ratio(log_prob, old, MASK)
        clips = {"clip_low": S["gspo_clip_low"], "clip_high": S["gspo_clip_high"]}
        return aggregate(
            mode, weights * clipped_surrogate(ratio, X["advantages"], **clips), **GLOBAL
        )

    assert_parity("verl", f"policy/gspo/{case}", ours, log_prob=new)


@pytest.mark.parametrize("case", ["tokens", "sequences", "unbounded", "importance"])
def test_cispo(case):
    mode = "seq-mean-token-mean" if case == "sequences" else "token-mean"
    low = math.inf if case == "unbounded" else S["clip_low"]
    weights = 1.0
    if case == "importance":
        weights = truncated_weights(X["old_logprobs"], X["sampler_logprobs"], MASK, cap=S["cap"])

    def ours(log_prob):
        ratio = probability_ratio(log_prob, X["old_logprobs"], MASK)
        clips = {"clip_low": low, "clip_high": S["clip_high"]}
        loss = clipped_importance(log_prob, ratio, X["advantages"], MASK, **clips)
        return aggregate(mode, weights * loss, **GLOBAL)

    assert_parity("verl", f"policy/cispo/{case}", ours, log_prob=X["new_logprobs"])


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("mode", MODES)
def test_aggregation(mode, scope):
    counts = LOCAL if scope == "local" else GLOBAL
    assert_parity(
        "verl",
        f"aggregate/{mode}/{scope}",
        lambda loss_mat: aggregate(mode, loss_mat, **counts),
        loss_mat=X["loss"],
    )


# Value loss, entropy


@pytest.mark.parametrize(
    ("package", "case", "argument", "clip"),
    [
        ("verl", "value", "vpreds", S["value_clip"]),
        ("openrlhf", "value/clip", "values", S["value_clip"]),
        ("openrlhf", "value/plain", "values", None),
        ("trl", "value", "vpreds", S["value_clip"]),
    ],
)
def test_value_loss(package, case, argument, clip):
    def ours(**inputs):
        error = clipped_value_error(
            inputs[argument], X["old_values"], X["returns"], MASK, clip=clip
        )
        return token_mean(error, MASK, TOKENS)

    assert_parity(package, case, ours, **{argument: X["new_values"]})


def test_entropy():
    assert_parity(
        "verl",
        "entropy",
        lambda logits: token_mean(token_entropy(logits), MASK, TOKENS),
        logits=X["logits"],
    )
    found = token_mean(token_entropy(X["logits"]), MASK, TOKENS)
    torch.testing.assert_close(found, theirs("trl", "stats/entropy"), **CLOSE)


# Preferences


def test_pairwise_loss():
    pair = {"chosen_reward": X["chosen"], "reject_reward": X["rejected"]}
    for case, margin in (("plain", 0.0), ("margin", X["margin"])):

        def ours(chosen_reward, reject_reward, margin=margin):
            return bradley_terry(chosen_reward, reject_reward, PAIRS, margin=margin)

        assert_parity("openrlhf", f"pairwise/{case}", ours, **pair)


@pytest.mark.parametrize(
    ("case", "function", "settings"),
    [("plain", dpo, {}), ("smoothed", dpo, {"smoothing": S["smoothing"]}), ("ipo", ipo, {})],
)
def test_dpo(case, function, settings):
    def ours(policy_chosen_logps, policy_rejected_logps):
        ratios = policy_chosen_logps - X["ref_chosen"], policy_rejected_logps - X["ref_rejected"]
        return function(*ratios, PAIRS, beta=S["beta"], **settings)

    policy = {
        "policy_chosen_logps": X["policy_chosen"],
        "policy_rejected_logps": X["policy_rejected"],
    }
    assert_parity("openrlhf", f"dpo/{case}", ours, **policy)
