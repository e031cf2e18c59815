"""Correlations against hand-computed values."""

import pytest
import torch

from rlhf_core.statistics.correlation import pearson, spearman, standardized


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_correlations_by_hand():
    """With x = 1, 2, 3, 4 and y = 1, 2, 3, 10, r = 14 / sqrt(5 * 50); the ranks agree."""
    assert pearson(tensor(1, 2, 3, 4), tensor(1, 2, 3, 10)) == pytest.approx(14 / 250**0.5)
    assert spearman(tensor(1, 2, 3, 4), tensor(1, 2, 3, 10)) == pytest.approx(1)
    assert pearson(tensor(1, 2, 3), tensor(3, 2, 1)) == pytest.approx(-1)


def test_tied_values_have_their_mean_rank():
    """Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: r = 4.5 / sqrt(4.5 * 5)."""
    assert spearman(tensor(5, 7, 7, 9), tensor(1, 2, 3, 4)) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_a_constant_correlates_with_nothing():
    assert pearson(tensor(0.1, 0.1, 0.1), tensor(1, 2, 3)) == 0
    assert spearman(tensor(1, 2, 3), tensor(4, 4, 4)) == 0


def test_correlations_are_those_of_their_formulas_on_many_values():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, generator=generator).double().round(decimals=1)  # with ties
    y = (x + torch.randn(500, generator=generator)).round(decimals=1)
    assert pearson(x, y) == pytest.approx(float((standardized(x) * standardized(y)).mean()))
    assert pearson(tensor(3.0), tensor(1.0)) == spearman(tensor(3.0), tensor(1.0)) == 0
    assert -1 <= spearman(x, y) <= 1 and spearman(x, x.exp()) == pytest.approx(1)
