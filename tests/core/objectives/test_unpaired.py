"""KTO and binary cross-entropy: by hand, as trl has them, and whatever the split of a step."""

import json
import math

import pytest
import torch
from published_answers import CLOSE, FIXTURES
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rlhf_core.objectives.unpaired import kto, label_loss, label_weights, mismatched_kl

FOUND = load_file(FIXTURES / "trl_kto.safetensors")
UP = torch.tensor([True, False, True])


def made_by() -> dict:
    with safe_open(FIXTURES / "trl_kto.safetensors", "pt") as file:
        return json.loads(file.metadata()["made_by"])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("kind", ["near", "away"])
@pytest.mark.parametrize("labels", ["mixed", "up", "down"])
@pytest.mark.parametrize("setting", ["plain", "weighted", "rarer"])
def test_loss_gradient_and_reference_kl_are_those_of_trl(setting, labels, kind):
    beta, *weights = made_by()["settings"][setting]
    x = {name.removeprefix("inputs/"): v for name, v in FOUND.items() if name.startswith("inputs")}
    policy = x["policy"].clone().requires_grad_()
    reference = x["reference_mismatched"]
    z0 = mismatched_kl((x["mismatched"] if kind == "near" else reference - 1.0) - reference)
    up = FOUND[f"labels/{labels}"]
    loss = kto(
        policy - x["reference"], up, len(up), beta=beta, reference_kl=z0, weights=tuple(weights)
    )
    loss.backward()
    theirs = {name: FOUND[f"{setting}/{labels}/{kind}/{name}"] for name in ("loss", "gradient")}
    torch.testing.assert_close(loss.detach(), theirs["loss"], **CLOSE)
    torch.testing.assert_close(policy.grad, theirs["gradient"], **CLOSE)
    assert z0 == pytest.approx(float(FOUND[f"{setting}/{labels}/{kind}/kl"]), abs=1e-9)
    assert (z0 == 0) == (kind == "away")


def test_the_fixture_says_what_made_it():
    assert made_by()["versions"]["trl"] == "1.16.0" and FOUND["inputs/policy"].dtype.itemsize == 8


def test_kto_by_hand():
    """Log-ratios 2, 1 and -1 nats, z0 0.5, beta 0.5, thumbs up, down, up."""
    ratios = torch.tensor([2.0, 1.0, -1.0], dtype=torch.float64)
    values = (sigmoid(0.75), sigmoid(-0.25), sigmoid(-0.75))
    expected = (3.0 * (1 - values[0]) + 2.0 * (1 - values[1]) + 3.0 * (1 - values[2])) / 4
    found = kto(ratios, UP, 4, beta=0.5, reference_kl=0.5, weights=(3.0, 2.0))
    assert float(found) == pytest.approx(expected)


def test_binary_cross_entropy_by_hand_and_as_torch_has_it():
    scores = torch.tensor([2.0, 1.0, -1.0], dtype=torch.float64)
    hand = -(3.0 * math.log(sigmoid(2.0)) + math.log(sigmoid(-1.0)) + 3.0 * math.log(sigmoid(-1.0)))
    assert float(label_loss(scores, UP, 2, weights=(3.0, 1.0))) == pytest.approx(hand / 2)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(scores, UP.double())
    assert float(label_loss(scores, UP, 3)) == pytest.approx(float(theirs))


@pytest.mark.parametrize("loss", ["kto", "labels"])
def test_a_step_in_parts_has_the_same_loss_and_gradient(loss):
    def value(rows: list[int], leaf: Tensor) -> Tensor:
        if loss == "labels":
            return label_loss(leaf[rows], UP[rows], 3, weights=(1.0, 2.0))
        return kto(leaf[rows], UP[rows], 3, beta=0.3, reference_kl=0.2, weights=(1.0, 2.0))

    whole, parts = (torch.tensor([0.4, -1.0, 3.0]).double().requires_grad_() for _ in range(2))
    value([0, 1, 2], whole).backward()
    for rows in ([2, 0], [1]):
        value(rows, parts).backward()
    torch.testing.assert_close(whole.grad, parts.grad)


def test_the_reference_kl_is_not_negative():
    assert mismatched_kl(torch.tensor([-1.0, -3.0])) == 0
    assert mismatched_kl(torch.tensor([-1.0, 3.0])) == 1.0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1.0, 3.0)),
        ({"desirable": 2.0}, (2.0, 6.0)),
        ({"undesirable": 1.0}, (pytest.approx(1 / 3), 1.0)),
        ({"desirable": 2.0, "undesirable": 5.0}, (2.0, 5.0)),
    ],
)
def test_labels_weigh_the_same_in_all_unless_both_weights_are_given(given, expected):
    assert label_weights(30, 10, **given) == expected
