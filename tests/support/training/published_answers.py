"""Answers of verl, openrlhf and trl, and checks against them.

infra/parity/make_fixtures.py made the fixtures; infra/parity/README.md lists the differences.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

FIXTURES = Path(__file__).parents[2] / "core" / "objectives" / "fixtures"
PACKAGES = ("verl", "openrlhf", "trl")
FOUND = {package: load_file(FIXTURES / f"{package}.safetensors") for package in PACKAGES}
X = load_file(FIXTURES / "inputs.safetensors")
MASK = X["mask"]
TOKENS, SEQUENCES, PAIRS = int(MASK.sum()), int(MASK.any(-1).sum()), len(X["chosen"])
EPS = 1e-8  # what verl and openrlhf add to a count before dividing by it
CLOSE: dict[str, Any] = {"atol": 1e-9, "rtol": 0}


def made_by(package: str) -> dict:
    """Return versions, seed and settings of a fixture."""
    with safe_open(FIXTURES / f"{package}.safetensors", "pt") as file:
        return json.loads(file.metadata()["made_by"])


S = made_by("inputs")["settings"]


def theirs(package: str, key: str) -> Tensor:
    """Return what a package computes."""
    return FOUND[package][key]


def assert_parity(
    package: str, case: str, function: Callable[..., Tensor], **inputs: Tensor
) -> None:
    """Check that value and gradients of `function` are those of the package.

    Inputs have the names of the package's arguments.
    """
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    value = function(**leaves)
    (value if value.dim() == 0 else (value * X["projection"]).sum()).backward()
    expected = theirs(package, f"{case}/value")
    if value.dim():
        value, expected = value[MASK], expected[MASK]
    torch.testing.assert_close(value.detach(), expected, **CLOSE)
    for name, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, theirs(package, f"{case}/grad/{name}"), **CLOSE)


def assert_tokens_equal(found: Tensor, package: str, key: str, mask: Tensor = MASK) -> None:
    """Check that both are equal at real tokens, and `found` is 0 at padding."""
    torch.testing.assert_close(found[mask], theirs(package, key)[mask], **CLOSE)
    assert not found[~mask].any()
