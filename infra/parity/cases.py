"""Inputs that every package gets, settings that every call uses, and the record of an answer."""

from collections.abc import Callable

import torch
from torch import Tensor

SEED = 20250601
LENGTHS = (9, 1, 5, 7, 3, 8, 0, 4)  # tokens; one row is fully masked
GROUPS = (0, 0, 1, 1, 1, 2, 2, 2)
R, V, PAIRS = 9, 11, 12
SETTINGS = {
    "clip_low": 0.2,
    "clip_high": 0.28,
    "gspo_clip_low": 0.3,  # half of the inputs' responses have a ratio beyond
    "gspo_clip_high": 0.5,
    "dual_clip": 3.0,
    "value_clip": 0.15,
    "gamma": 0.97,
    "lam": 0.9,
    "beta": 0.1,
    "cap": 1.5,
    "smoothing": 0.2,
    "tokens": 100,
    "sequences": 16,
    "horizon": 20,
    "kl_target": 6.0,
    "kl_horizon": 1000,
    "kl_responses": 64,
}
OBSERVED_KL = (6.0, 12.0, 6.6, 0.0, 5.4)
FAR = (-15.0, 0.5, 15.0)  # log-ratios beyond the packages' clamps
LONE_GROUPS = (0, 1, 1, 1, 1, 1, 1, 1)  # the first response has no other to compare with

Cases = dict[str, Tensor]


def make_inputs() -> Cases:
    """Return seeded float64 tensors.

    Padding holds finite junk, except in rewards, which every package expects to be 0 there.
    """
    generator = torch.Generator().manual_seed(SEED)
    rows = len(LENGTHS)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.arange(R) < torch.tensor(LENGTHS)[:, None]
    holes = mask.clone()
    holes[0, 3:5] = holes[3, 1] = holes[5, 0] = False
    old = -normal(rows, R).abs() - 0.05
    new = old + 0.4 * normal(rows, R)
    # ratios that dual clipping cuts
    new[:, ::4] = old[:, ::4] + torch.tensor(4.0, dtype=torch.float64).log()
    inputs = {
        "mask": mask,
        "mask_holes": holes,
        "groups": torch.tensor(GROUPS),
        "old_logprobs": old,
        "new_logprobs": new,
        "ref_logprobs": old + 0.5 * normal(rows, R),
        "sampler_logprobs": old + 0.3 * normal(rows, R),
        "rewards": normal(rows, R) * mask,
        "projection": normal(rows, R) * mask,
        "scores": normal(rows),
        "logits": normal(rows, R, V),
        "ref_logits": normal(rows, R, V),
        "observed_kl": scalar(OBSERVED_KL),
        "far": scalar([FAR]),
        "lone_groups": torch.tensor(LONE_GROUPS),
    }
    inputs |= {
        name: normal(rows, R)
        for name in ("advantages", "returns", "old_values", "new_values", "loss")
    }
    inputs |= {name: normal(PAIRS) for name in ("chosen", "rejected", "margin")}
    return inputs | {
        f"{who}_{what}": normal(PAIRS) - 10
        for who in ("policy", "ref")
        for what in ("chosen", "rejected")
    }


def record(
    cases: Cases, name: str, function: Callable, projection: Tensor | None = None, **inputs: Tensor
) -> None:
    """Store `NAME/value`, and `NAME/grad/INPUT` for each input.

    The value is what `function` gives at `inputs` (the first of several). Where the value is a
    matrix, the gradient is that of its product with `projection`.
    """
    leaves = {key: value.clone().requires_grad_() for key, value in inputs.items()}
    value = function(**leaves)
    value = value[0] if isinstance(value, tuple) else value
    (value if projection is None else (value * projection).sum()).backward()
    cases[f"{name}/value"] = value.detach()
    cases.update({f"{name}/grad/{key}": leaf.grad for key, leaf in leaves.items()})


def scalar(value: object) -> Tensor:
    """Return a number, or a list of them, as a float64 tensor."""
    return torch.tensor(value, dtype=torch.float64)
