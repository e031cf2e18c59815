"""Answers of verl's core_algos and rollout_corr_helper."""

from functools import partial
from types import SimpleNamespace

import numpy as np
from cases import GROUPS, SETTINGS, Cases, record, scalar
from published import load
from torch import Tensor

MODES = (
    "token-mean",
    "token-sum",
    "seq-mean-token-mean",
    "seq-mean-token-sum",
    "seq-mean-token-sum-norm",
)
GLOBAL = {
    "batch_num_tokens": SETTINGS["tokens"],
    "global_batch_size": SETTINGS["sequences"],
    "loss_scale_factor": SETTINGS["horizon"],
}
BY_TOKEN = SETTINGS["clip_low"], SETTINGS["clip_high"]  # clips of a token's ratio
BY_SEQUENCE = SETTINGS["gspo_clip_low"], SETTINGS["gspo_clip_high"]  # of a response's
NO_DUAL_CLIP = 1e9  # verl's dual clip cannot be switched off


def verl_cases(x: Cases) -> Cases:
    """Return every case of the package."""
    core, cases = load("verl.trainer.ppo.core_algos"), {}
    for add in (
        _gae,
        _policy,
        _gspo_and_cispo,
        _aggregation,
        _value,
        _divergence,
        _advantages,
        _adaptive_kl,
    ):
        add(cases, core, x)
    _importance(cases, load("verl.trainer.ppo.rollout_corr_helper"), x)
    return cases


def _gae(cases: Cases, core, x: Cases) -> None:
    for name in ("mask", "mask_holes"):
        rewards, mask = x["rewards"] * x[name], x[name].double()
        result = core.compute_gae_advantage_return(
            rewards, x["old_values"], mask, SETTINGS["gamma"], SETTINGS["lam"]
        )
        cases[f"gae/{name}/advantages"], cases[f"gae/{name}/returns"] = result


def _policy(cases: Cases, core, x: Cases) -> None:
    """Record PPO's clipped surrogate, by every aggregation and with importance weights."""

    def add(
        name: str, mode: str, dual_clip: float, *, counts: dict, weights: Tensor | None = None
    ) -> None:
        config = _clips(core, BY_TOKEN, counts, dual_clip=dual_clip)
        function = partial(
            core.compute_policy_loss_vanilla,
            **_given(x, mode),
            config=config,
            rollout_is_weights=weights,
        )
        record(cases, name, function, log_prob=x["new_logprobs"])

    weights = _weights(x)
    add("policy/clip", "token-mean", NO_DUAL_CLIP, counts={})
    add("policy/importance", "token-mean", SETTINGS["dual_clip"], counts={}, weights=weights)
    for mode in MODES:
        add(f"policy/dual/{mode}", mode, SETTINGS["dual_clip"], counts=GLOBAL)


def _gspo_and_cispo(cases: Cases, core, x: Cases) -> None:
    """Record GSPO and CISPO, by two aggregations and with importance weights.

    "below" swaps old and new, so that ratios are below 1. "unbounded" has no lower bound.
    """
    sequences, tokens = "seq-mean-token-mean", "token-mean"
    unbounded = 10.0, SETTINGS["clip_high"]
    variants = {
        "gspo/sequences": (sequences, BY_SEQUENCE, None),
        "gspo/tokens": (tokens, BY_SEQUENCE, None),
        "gspo/below": (sequences, BY_SEQUENCE, None),
        "gspo/importance": (sequences, BY_SEQUENCE, _weights(x)),
        "cispo/tokens": (tokens, BY_TOKEN, None),
        "cispo/sequences": (sequences, BY_TOKEN, None),
        "cispo/unbounded": (tokens, unbounded, None),
        "cispo/importance": (tokens, BY_TOKEN, _weights(x)),
    }
    for name, (mode, clips, weights) in variants.items():
        old, new = x["old_logprobs"], x["new_logprobs"]
        old, new = (new, old) if name.endswith("below") else (old, new)
        function = partial(
            getattr(core, f"compute_policy_loss_{name.partition('/')[0]}"),
            **_given(x, mode) | {"old_log_prob": old},
            config=_clips(core, clips, GLOBAL),
            rollout_is_weights=weights,
        )
        record(cases, f"policy/{name}", function, log_prob=new)


def _weights(x: Cases) -> Tensor:
    return (x["old_logprobs"] - x["sampler_logprobs"]).exp().clamp(max=SETTINGS["cap"])


def _given(x: Cases, mode: str) -> dict:
    """Return what every policy loss takes besides the new log-probabilities and its clips."""
    return {
        "old_log_prob": x["old_logprobs"],
        "advantages": x["advantages"],
        "response_mask": x["mask"].double(),
        "loss_agg_mode": mode,
    }


def _clips(
    core, clips: tuple[float, float], counts: dict, *, dual_clip: float = NO_DUAL_CLIP
) -> object:
    """Return a configuration; its class is a stand-in's, which GSPO and CISPO ask for."""
    config, (low, high) = core.ActorConfig(), clips
    settings = {
        "clip_ratio": low,
        "clip_ratio_low": low,
        "clip_ratio_high": high,
        "clip_ratio_c": dual_clip,
        "global_batch_info": counts,
    }
    config.__dict__ |= settings | {"get": settings.get}
    return config


def _aggregation(cases: Cases, core, x: Cases) -> None:
    for mode in MODES:
        for scope, counts in (("local", {}), ("global", GLOBAL)):
            function = partial(
                core.agg_loss, loss_mask=x["mask"].double(), loss_agg_mode=mode, **counts
            )
            record(cases, f"aggregate/{mode}/{scope}", function, loss_mat=x["loss"])


def _value(cases: Cases, core, x: Cases) -> None:
    function = partial(
        core.compute_value_loss,
        returns=x["returns"],
        values=x["old_values"],
        response_mask=x["mask"].double(),
        cliprange_value=SETTINGS["value_clip"],
    )
    record(cases, "value", function, vpreds=x["new_values"])


def _divergence(cases: Cases, core, x: Cases) -> None:
    for estimator in ("k1", "k2", "k3"):
        function = partial(core.kl_penalty, ref_logprob=x["ref_logprobs"], kl_penalty=estimator)
        record(cases, f"kl/{estimator}", function, x["projection"], logprob=x["new_logprobs"])
        cases[f"far/{estimator}"] = core.kl_penalty(x["far"], 0 * x["far"], estimator)
    cases["rewards/value"] = core.compute_rewards(
        x["rewards"], x["old_logprobs"], x["ref_logprobs"], SETTINGS["beta"]
    )
    record(
        cases,
        "entropy",
        partial(core.compute_entropy_loss, response_mask=x["mask"].double()),
        logits=x["logits"],
    )


def _advantages(cases: Cases, core, x: Cases) -> None:
    given = {"token_level_rewards": x["rewards"], "response_mask": x["mask"].double()}
    grouped = given | {"index": np.array(GROUPS)}
    cases["grpo/value"] = core.compute_grpo_outcome_advantage(**grouped)[0]
    cases["dr_grpo/value"] = core.compute_grpo_outcome_advantage(
        **grouped, norm_adv_by_std_in_grpo=False
    )[0]
    cases["rloo/value"] = core.compute_rloo_outcome_advantage(**grouped)[0]
    cases["rloo_vectorized/value"] = core.compute_rloo_vectorized_outcome_advantage(**grouped)[0]
    lone = given | {"index": x["lone_groups"].numpy()}
    cases["lone/grpo"] = core.compute_grpo_outcome_advantage(**lone)[0]
    cases["lone/rloo"] = core.compute_rloo_outcome_advantage(**lone)[0]
    config = SimpleNamespace(gamma=SETTINGS["gamma"])
    advantages, returns = core.compute_reinforce_plus_plus_outcome_advantage(**given, config=config)
    cases |= {"reinforce_plus_plus/advantages": advantages, "reinforce_plus_plus/returns": returns}
    cases["reinforce_plus_plus_baseline/advantages"] = (
        core.compute_reinforce_plus_plus_baseline_outcome_advantage(**grouped)[0]
    )


def _adaptive_kl(cases: Cases, core, x: Cases) -> None:
    controller = core.AdaptiveKLController(
        SETTINGS["beta"], SETTINGS["kl_target"], SETTINGS["kl_horizon"]
    )
    cases["adaptive_kl/value"] = scalar(
        [_updated(controller, kl) for kl in x["observed_kl"].tolist()]
    )


def _updated(controller, kl: float) -> float:
    controller.update(kl, SETTINGS["kl_responses"])
    return float(controller.value)


def _importance(cases: Cases, module, x: Cases) -> None:
    log_ratio = x["old_logprobs"] - x["sampler_logprobs"]
    for level in ("token", "sequence"):
        weights, metrics = module.compute_rollout_correction_weights(
            log_ratio, x["mask"], level, SETTINGS["cap"]
        )
        cases[f"importance/{level}/weights"] = weights
        if level == "token":  # the other repeats each sequence's weight at every token
            cases["importance/token/effective_share"] = scalar(
                metrics["rollout_is_eff_sample_size"]
            )
    metrics = module.compute_offpolicy_metrics(x["old_logprobs"], x["sampler_logprobs"], x["mask"])
    cases |= {f"mismatch/{name}": scalar(metrics[name]) for name in ("kl", "k3_kl")}
