"""Answers of trl's PPOTrainer."""

from types import SimpleNamespace

from cases import LENGTHS, SETTINGS, Cases, record
from published import load
from torch import Tensor


def trl_cases(x: Cases) -> Cases:
    """Return every case of the package."""
    kind, cases = load("trl.trainer.ppo_trainer").PPOTrainer, {}
    _rewards(cases, kind, x)
    _gae(cases, kind, x)
    _loss(cases, kind, x)
    return cases


def _trainer(kind: type, **changes):
    """Return a PPOTrainer without running its constructor.

    The methods under comparison read `config` and `kl_ctl` only.
    """
    settings = {
        "gamma": SETTINGS["gamma"],
        "lam": SETTINGS["lam"],
        "cliprange": SETTINGS["clip_low"],
        "cliprange_value": SETTINGS["value_clip"],
        "vf_coef": 1.0,
        "ratio_threshold": 10.0,
        "whiten_rewards": False,
        "kl_penalty": "kl",
    }
    trainer = object.__new__(kind)
    trainer.config = SimpleNamespace(**settings | changes)
    trainer.kl_ctl = SimpleNamespace(value=SETTINGS["beta"])
    return trainer


def _rewards(cases: Cases, kind: type, x: Cases) -> None:
    real = [row for row, length in enumerate(LENGTHS) if length]  # IndexError on a fully masked row
    tensors = [x[name][real] for name in ("scores", "old_logprobs", "ref_logprobs", "mask")]
    for penalty in ("kl", "mse"):
        rewards, *_ = _trainer(kind, kl_penalty=penalty).compute_rewards(*tensors)
        cases[f"rewards/{penalty}"] = rewards
    ref = x["ref_logits"].log_softmax(-1)

    def full(logits: Tensor) -> Tensor:
        return _trainer(kind, kl_penalty="full")._kl_penalty(logits.log_softmax(-1), ref)

    record(cases, "kl/full", full, x["projection"], logits=x["logits"])


def _gae(cases: Cases, kind: type, x: Cases) -> None:
    _, advantages, returns = _trainer(kind).compute_advantages(
        x["old_values"], x["rewards"], x["mask"].double()
    )
    cases |= {"gae/advantages": advantages, "gae/returns": returns}


def _loss(cases: Cases, kind: type, x: Cases) -> None:
    mask = x["mask"].double()

    def losses(logprobs: Tensor, vpreds: Tensor) -> tuple[Tensor, Tensor, dict]:
        return _trainer(kind).loss(
            x["old_logprobs"],
            x["old_values"],
            x["logits"],
            vpreds,
            logprobs,
            mask,
            x["advantages"],
            x["returns"],
        )

    record(
        cases,
        "policy",
        lambda logprobs: losses(logprobs, x["new_values"])[0],
        logprobs=x["new_logprobs"],
    )
    record(
        cases, "value", lambda vpreds: losses(x["new_logprobs"], vpreds)[1], vpreds=x["new_values"]
    )
    stats = losses(x["new_logprobs"], x["new_values"])[2]
    cases |= {
        f"stats/{name}": stats[f"policy/{name}"] for name in ("entropy", "approxkl", "policykl")
    }
