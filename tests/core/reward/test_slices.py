"""Slices, calibration and mistakes of a reward model, against values computed by hand."""

import math

import numpy as np
import pytest
from newcombe import newcombe

from rlhf_core.reward.slices import (
    NOTHING,
    OTHERS,
    calibration,
    labelled,
    mistakes,
    quarters,
    slices,
)
from rlhf_core.statistics.intervals import wilson

N = 12
ITEMS = {
    "prompt": [f"p{i}" for i in range(N)],
    "chosen": ["good"] * N,
    "rejected": ["bad"] * N,
    "chosen_score": [1.0] * 6 + [-1.0] * 3 + [2.0, 0.0, -3.0],
    "rejected_score": [0.0] * N,
    "chosen_tokens": [5] * 4 + [3] * 4 + [4] * 4,
    "rejected_tokens": [4] * N,
    "agreement": [1.0] * 6 + [2 / 3] * 6,
    "data.domain": ["code"] * 6 + ["prose"] * 5 + [None],
    "data.id": [f"x{i}" for i in range(N)],
    "data.source": ["only"] * N,
    "data.level": [1.0, 2.0] * 6,
}


def of(column: str) -> dict[str, object]:
    return {found.value: found for found in slices(ITEMS) if found.column == column}


def test_accuracy_by_slice_with_wilson_intervals():
    assert (of("all pairs")[""].n, of("all pairs")[""].accuracy) == (12, 7 / 12)
    code, prose = of("domain")["code"], of("domain")["prose"]
    assert (code.n, code.accuracy, code.margin) == (6, 1.0, 1.0)
    assert (prose.n, prose.accuracy) == (5, 1 / 5) and (prose.low, prose.high) == wilson(1, 5)
    assert of("domain")[NOTHING].n == 1
    assert {value: found.n for value, found in of("annotator agreement").items()} == {
        "0.667": 6,
        "1": 6,
    }
    assert {value: found.accuracy for value, found in of("chosen answer is").items()} == {
        "longer": 1.0,
        "shorter": 0.5,
        "equal": 0.25,
    }
    assert {value: found.n for value, found in of("level").items()} == {"1": 6, "2": 6}


def test_of_many_slices_that_are_like_the_rest_few_look_different():
    """Bug: each was tested by itself, so that of thirty slices one or two looked different."""
    generator, called, alone, reports = np.random.default_rng(3), 0, 0, 40
    for _ in range(reports):
        n = 600
        items = {
            "prompt": [f"p{i}" for i in range(n)],
            "chosen_score": (generator.random(n) < 0.7).astype(float).tolist(),
            "rejected_score": [0.5] * n,
            "chosen_tokens": [4] * n,
            "rejected_tokens": [4] * n,
        } | {f"data.{k}": generator.choice(list("abcdef"), n).tolist() for k in range(5)}
        found = [one for one in slices(items) if one.against_rest]
        called += any(one.differs for one in found)
        alone += any(not one.against_rest[1] <= 0 <= one.against_rest[2] for one in found)
    assert len(found) == 30 and alone > 0.5 * reports
    assert called / reports <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / reports)


def test_a_slice_that_is_much_worse_is_still_found_among_many():
    n = 600
    right = [float(i % 6 != 0 or i % 5 == 0) for i in range(n)]
    items = {
        "prompt": [f"p{i}" for i in range(n)],
        "chosen_score": right,
        "rejected_score": [0.5] * n,
        "chosen_tokens": [4] * n,
        "rejected_tokens": [4] * n,
        "data.kind": ["bad" if i % 6 == 0 else f"kind {i % 6}" for i in range(n)],
    }
    found = {one.value: one for one in slices(items)}
    assert found["bad"].differs and found["bad"].p_adjusted < 1e-6


def test_an_identity_and_a_constant_are_no_slices():
    assert not of("id") and not of("source")


def test_a_slice_is_held_against_all_other_pairs():
    code = of("domain")["code"]
    assert code.against_rest == newcombe(6, 6, 1, 6) and code.differs
    assert of("all pairs")[""].against_rest is None and not of("all pairs")[""].differs
    assert not of("level")["1"].differs


def test_the_difference_of_shares_is_newcombes():
    """Newcombe 1998, table II, first example: 56/70 - 48/80 = 0.2, method 10: 0.0524 to 0.3339."""
    assert newcombe(56, 70, 48, 80) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_quarters_have_equal_counts_and_keep_equal_values_together():
    labels = quarters([*range(8), None])
    assert labels[-1] == NOTHING and [
        labels.count(name) for name in dict.fromkeys(labels[:-1])
    ] == [2, 2, 2, 2]
    assert (
        len(set(quarters([1, 1, 1, 1, 1, 2, 3, 4]))) < 4
        and len(set(quarters([1, 1, 1, 1, 1, 2, 3, 4])[:5])) == 1
    )
    assert quarters([2.0, 2.0]) == ["2", "2"]


def test_rare_names_are_one_slice_together():
    names = [f"n{i}" for i in range(25)] + [f"n{i}" for i in range(20)]
    items = {
        name: (values * 4)[:45] for name, values in ITEMS.items() if not name.startswith("data")
    } | {"data.topic": names}
    labels = labelled(items)["topic"]
    assert len(set(labels)) == 21 and labels.count(OTHERS) == 5


def test_members_that_disagree_make_a_slice():
    spread = [0.0, 1.0] * 6
    members = {
        "chosen_member_1": spread,
        "rejected_member_1": [0.0] * N,
        "chosen_member_2": [-s for s in spread],
    }
    labels = labelled(ITEMS | members | {"rejected_member_2": [0.0] * N})[
        "spread of the members' margins"
    ]
    assert labels[:2] == ["0", "1"]


def test_calibration_bins_hold_every_pair_in_order_of_confidence():
    bins = calibration(ITEMS)
    assert sum(part.n for part in bins) == N and [part.confidence for part in bins] == sorted(
        p.confidence for p in bins
    )
    assert bins[-1].confidence == pytest.approx(1 / (1 + math.exp(-3))) and bins[-1].right == 0.0
    # margins 0 and 1
    assert bins[0].confidence == pytest.approx((0.5 + 1 / (1 + math.exp(-1))) / 2)


def test_calibration_of_ten_pairs_has_a_bin_for_each():
    """sigmoid(|m|) against right or wrong, the least sure first."""
    margins = [0.1, -0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    bins = calibration({"chosen_score": margins, "rejected_score": [0.0] * 10})
    assert [part.right for part in bins] == [1, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert bins[0].confidence == pytest.approx(0.524979)
    assert bins[-1].confidence == pytest.approx(0.731059)


def test_mistakes_are_the_surest_first_and_a_tie_is_none():
    found = mistakes(ITEMS, 3)
    assert [row["prompt"] for row in found] == ["p11", "p6", "p7"]
    assert (
        found[0]["confidence"] == pytest.approx(1 / (1 + math.exp(-3)))
        and found[0]["margin"] == -3.0
    )
    assert found[0]["data.domain"] is None and found[1]["agreement"] == 2 / 3
    assert len(mistakes(ITEMS, 99)) == 4


def test_pairs_that_share_a_prompt_are_counted_beside_the_pairs_of_a_slice():
    prompts = [f"p{place // 3}" for place in range(N)]
    alone = slices({name: ITEMS[name] for name in ITEMS if name != "prompt"})[0]
    shared = slices(ITEMS | {"prompt_id": prompts})[0]
    assert alone.prompts == N and shared.prompts == len(set(prompts)) < shared.n == N
    assert shared.high - shared.low > alone.high - alone.low and shared.accuracy == alone.accuracy
