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
    return float((standardized(x_N) * standardized(y_N)).mean())


def spearman(x_N: Tensor, y_N: Tensor) -> float:
    """Return Spearman's rank correlation; ties get their mean rank."""
    return pearson(_ranks(x_N), _ranks(y_N))


def _ranks(values_N: Tensor) -> Tensor:
    ordered_N = values_N.sort().values
    below_N = torch.searchsorted(ordered_N, values_N)
    up_to_N = torch.searchsorted(ordered_N, values_N, right=True)
    return (below_N + up_to_N).double() / 2


def is_constant(values_N: Tensor) -> bool:
    """Return True when all values are equal."""
    return bool((values_N == values_N[0]).all())
