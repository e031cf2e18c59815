"""Learning from labels with strengths and votes: by hand, and for any microbatches."""

import math

import pytest
import torch
from torch import tensor

from rlhf_core.config import Reward, load_recipe
from rlhf_core.data.columns import CANONICAL
from rlhf_core.data.normalise import normalise
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.objectives.losses import bradley_terry
from rlhf_core.reward.labels import Labels, labels_of
from rlhf_core.reward.steps import pair_objective

# pairs (1, .5), (-.25, 2), (0, 0)
SCORES = tensor([1.0, 0.5, -0.25, 2.0, 0.0, 0.0], dtype=torch.float64)
ROWS = [
    {"votes_for": 3, "votes_against": 0, "strength": 3.0},
    {"votes_for": 2, "votes_against": 1, "strength": 0.0},
    {"votes_for": None, "votes_against": None, "strength": 1.0},
]


def nats(difference: float, smoothing: float) -> float:
    """-(1 - s) log sigmoid(d) - s log sigmoid(-d)."""
    return (1 - smoothing) * math.log1p(math.exp(-difference)) + smoothing * math.log1p(
        math.exp(difference)
    )


def test_strengths_become_margins_and_votes_smoothing():
    found = labels_of(
        ROWS, Reward(margin_scale=0.5, smoothing_from_votes=True, label_smoothing=0.1)
    )
    assert found.margin_N.tolist() == [1.5, 0.0, 0.5]
    assert found.smoothing_N.tolist() == pytest.approx([0.0, 1 / 3, 0.1])
    assert labels_of(ROWS, Reward()) == Labels(0.0, 0.0)
    assert labels_of(ROWS, Reward(label_smoothing=0.2)) == Labels(0.0, 0.2)


def test_votes_against_the_label_smooth_by_more_than_a_half():
    rows = [{"votes_for": 1, "votes_against": 2}]
    assert labels_of(rows, Reward(smoothing_from_votes=True)).smoothing_N.tolist() == pytest.approx(
        [2 / 3]
    )


def test_objective_by_hand():
    labels = Labels(
        tensor([1.5, 0.0, 0.5], dtype=torch.float64), tensor([0.0, 1 / 3, 0.1], dtype=torch.float64)
    )
    loss, parts = pair_objective(SCORES, labels, Reward(centring=0.01), 3)
    expected = (nats(0.5 - 1.5, 0.0) + nats(-2.25, 1 / 3) + nats(0.0 - 0.5, 0.1)) / 3
    squares = (1.5**2 + 1.75**2) / 3
    assert parts == pytest.approx({"loss": expected, "centring": squares})
    assert float(loss) == pytest.approx(expected + 0.01 * squares)


def test_without_options_it_is_bradley_terry_bit_for_bit():
    loss, parts = pair_objective(SCORES.float(), Labels(), Reward(), 3)
    assert loss.equal(bradley_terry(SCORES[0::2].float(), SCORES[1::2].float(), 3)) and parts == {
        "loss": float(loss)
    }


def test_microbatches_of_pairs_add_up_to_the_step():
    labels, config = (
        labels_of(ROWS, Reward(margin_scale=0.5, smoothing_from_votes=True)),
        Reward(centring=0.1),
    )
    whole = pair_objective(SCORES, labels, config, 3)[0]
    order = [2, 0, 1]
    parts = [pair_objective(SCORES[2 * i : 2 * i + 2], labels.of([i]), config, 3)[0] for i in order]
    assert float(sum(parts)) == pytest.approx(float(whole))


def test_a_new_pairs_weight_stays_with_it_in_every_order_and_microbatch():
    """Weights by hand: two old pairs and a new one of double weight, 3/4, 3/4 and 6/4."""
    config = Reward(centring=0.1, new_weight=2.0)
    labels = labels_of([{}, {}, {}], config, new=1)
    assert labels.weight_N.tolist() == pytest.approx([0.75, 0.75, 1.5])
    assert labels.of([2, 0]).weight_N.tolist() == pytest.approx([1.5, 0.75])
    loss, parts = pair_objective(SCORES, labels, config, 3)
    expected = (0.75 * nats(0.5, 0.0) + 0.75 * nats(-2.25, 0.0) + 1.5 * nats(0.0, 0.0)) / 3
    squares = (0.75 * 1.5**2 + 0.75 * 1.75**2) / 3
    assert parts == pytest.approx({"loss": expected, "centring": squares})
    assert float(loss) == pytest.approx(expected + 0.1 * squares)
    each = [
        pair_objective(SCORES[2 * i : 2 * i + 2], labels.of([i]), config, 3)[0] for i in (2, 0, 1)
    ]
    assert float(sum(each)) == pytest.approx(float(loss))


def test_a_step_of_the_stage_uses_each_pairs_own_label(tiny_model, monkeypatch):
    """Microbatches go by length, so that pairs change their order: each must keep its label."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from rlhf_core.batching.batch import Sequence, collate
    from rlhf_core.engine.deepspeed import DeepSpeedEngine
    from rlhf_core.modeling.models import final_scores, load_scalar
    from rlhf_core.reward.steps import Comparisons, accumulator

    sequences = [Sequence([2, 3], [6 + i] * (7 - i) + [1]) for i in range(6)]
    config = Reward(
        margin_scale=1.0, smoothing_from_votes=True, centring=0.5, micro_batch_tokens=20
    )
    engine = DeepSpeedEngine(
        load_scalar(tiny_model, new_head=True, seed=1), config, dtype="float32"
    )
    accumulate = accumulator(engine, Comparisons(sequences, labels_of(ROWS, config)), config, 0)
    scores = torch.cat(
        [
            final_scores(engine.infer(b), b.response_mask_BR)
            for b in (collate([s], 0) for s in sequences)
        ]
    )
    order = [2, 0, 1]
    shuffled = torch.cat([scores[2 * i : 2 * i + 2] for i in order])
    _, expected = pair_objective(shuffled, labels_of([ROWS[i] for i in order], config), config, 3)
    found = accumulate(order, 1).metrics
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("row", "strength"),
    [
        ({"strength": 2}, 2.0),
        ({"margin": "0.5"}, 0.5),
        ({"strength": "much better", "margin": 1}, 1.0),
        ({"strength": -1}, None),
        ({"strength": True}, None),
        ({}, None),
        ({"margin": float("nan")}, None),
    ],
)
def test_a_comparisons_strength_is_a_number_of_zero_or_more(row, strength):
    record = normalise(
        "comparisons",
        ("prompt", "chosen", "rejected"),
        {"prompt": "p", "chosen": "c", "rejected": "r"} | row,
    )
    assert record.get("strength") == strength and ("strength" in record) == (strength is not None)
    assert set(record["meta"]) == set(row)  # what the column said stays known
    assert "strength" in CANONICAL


def test_data_that_lack_what_the_recipe_asks_for_are_refused():
    with pytest.raises(BadInput, match="1 of 4 comparisons have no strength"):
        labels_of([*ROWS, {}], Reward(margin_scale=1.0))
    with pytest.raises(BadInput, match="none of 2 comparisons has votes"):
        labels_of([{}, {"votes_for": 0, "votes_against": 0}], Reward(smoothing_from_votes=True))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("reward.label_smoothing=0.5", "less than 0.5"),
        ("reward.margin_scale=-1", "greater than or equal to 0"),
        ("reward.centring=-0.1", "greater than or equal to 0"),
    ],
)
def test_values_out_of_bounds_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", [setting])
