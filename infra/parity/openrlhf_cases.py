"""Answers of openrlhf's loss.py and utils.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from cases import SETTINGS, Cases, record
from published import load


def openrlhf_cases(x: Cases) -> Cases:
    """Return every case of the package."""
    loss, utils, cases = load("openrlhf.models.loss"), load("openrlhf.models.utils"), {}
    with _float_keeps_float64():
        _policy(cases, loss, x)
        _value(cases, loss, x)
        _preferences(cases, loss, x)
        _divergence(cases, utils, x)
    for estimator in ("k1", "k2", "k3"):  # as published: in float32
        value = utils.compute_approx_kl(
            x["new_logprobs"], x["ref_logprobs"], kl_estimator=estimator
        )
        cases[f"kl_float32/{estimator}/value"] = value
    return cases


@contextmanager
def _float_keeps_float64() -> Iterator[None]:
    """Leave float64 alone while openrlhf's code runs.

    It widens bfloat16 with `.float()`, which would narrow float64.
    """
    original = torch.Tensor.float
    torch.Tensor.float = lambda self: self if self.dtype == torch.float64 else original(self)
    try:
        yield
    finally:
        torch.Tensor.float = original


def _policy(cases: Cases, loss, x: Cases) -> None:
    clip = {"clip_eps_low": SETTINGS["clip_low"], "clip_eps_high": SETTINGS["clip_high"]}
    variants = {
        "clip": {},
        "dual": {"dual_clip": SETTINGS["dual_clip"]},
        "sequence": {"token_level_loss": False},
        "importance": {
            "is_correction_level": "token",
            "is_correction_mode": "clip",
            "is_correction_threshold": (0.0, SETTINGS["cap"]),
        },
    }
    for name, settings in variants.items():
        function = partial(
            loss.PolicyLoss(**clip, **settings),
            old_log_probs=x["old_logprobs"],
            advantages=x["advantages"],
            action_mask=x["mask"].double(),
            rollout_log_probs=x["sampler_logprobs"],
        )
        record(cases, f"policy/{name}", function, log_probs=x["new_logprobs"])


def _value(cases: Cases, loss, x: Cases) -> None:
    given = {
        "old_values": x["old_values"],
        "returns": x["returns"],
        "action_mask": x["mask"].double(),
    }
    for name, clip in (("clip", SETTINGS["value_clip"]), ("plain", None)):
        record(
            cases, f"value/{name}", partial(loss.ValueLoss(clip), **given), values=x["new_values"]
        )


def _preferences(cases: Cases, loss, x: Cases) -> None:
    pair = {"chosen_reward": x["chosen"], "reject_reward": x["rejected"]}
    record(cases, "pairwise/plain", loss.PairWiseLoss(), **pair)
    record(cases, "pairwise/margin", partial(loss.PairWiseLoss(), margin=x["margin"]), **pair)
    reference = {
        "reference_chosen_logps": x["ref_chosen"],
        "reference_rejected_logps": x["ref_rejected"],
    }
    policy = {
        "policy_chosen_logps": x["policy_chosen"],
        "policy_rejected_logps": x["policy_rejected"],
    }
    variants = {
        "plain": {},
        "smoothed": {"label_smoothing": SETTINGS["smoothing"]},
        "ipo": {"ipo": True},
    }
    for name, settings in variants.items():
        record(
            cases,
            f"dpo/{name}",
            partial(loss.DPOLoss(SETTINGS["beta"], **settings), **reference),
            **policy,
        )


def _divergence(cases: Cases, utils, x: Cases) -> None:
    for estimator in ("k1", "k2", "k3"):
        function = partial(
            utils.compute_approx_kl, log_probs_base=x["ref_logprobs"], kl_estimator=estimator
        )
        record(cases, f"kl/{estimator}", function, x["projection"], log_probs=x["new_logprobs"])
        cases[f"far/{estimator}"] = utils.compute_approx_kl(
            x["far"], 0 * x["far"], kl_estimator=estimator
        )
    function = partial(utils.compute_reward, kl_coef=SETTINGS["beta"], action_mask=x["mask"])
    kl = x["old_logprobs"] - x["ref_logprobs"]
    record(cases, "rewards", function, x["projection"], r=x["scores"], kl=kl)
