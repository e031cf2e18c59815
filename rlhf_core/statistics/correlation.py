"""Correlation of two variables: Pearson's and Spearman's coefficients."""

import torch
from torch import Tensor


def standardized(values_N: Tensor) -> Tensor:
    """Return (x - mean) / std, population form; zeros where all values are equal."""
    if is_constant(values_N):
        return torch.zeros_like(values_N)
    return (values_N - values_N.mean()) / values_N.std(correction=0)


def pearson(x_N: Tensor, y_N: Tensor) -> float:
    """Return Pearson's correlation; 0 when either is constant, since it then explains nothing."""
    from scipy.stats import pearsonr  # half a second, which most commands need not wait for

    if is_constant(x_N) or is_constant(y_N):
        return 0.0
    return float(pearsonr(x_N.double().numpy(), y_N.double().numpy()).statistic)


def spearman(x_N: Tensor, y_N: Tensor) -> float:
    """Return Spearman's rank correlation; ties get their mean rank, and a constant gives 0."""
    from scipy.stats import spearmanr

    if is_constant(x_N) or is_constant(y_N):
        return 0.0
    return float(spearmanr(x_N.double().numpy(), y_N.double().numpy()).statistic)


def is_constant(values_N: Tensor) -> bool:
    """Return True when all values are equal."""
    return bool((values_N == values_N[0]).all())
