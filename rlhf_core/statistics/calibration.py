"""Calibration of the probabilities that a reward model states."""

import numpy as np
from torch import Tensor


def calibration_error(margins_N: Tensor, bins: int = 10) -> float:
    """Return the expected calibration error of P(label right) = sigmoid(margin).

    Bins have equal counts of confidence. margins_N: score(chosen) - score(rejected). Confidence is
    sigmoid(|margin|); a pair is right when margin > 0.
    """
    confidence = margins_N.abs().sigmoid()
    right = (margins_N > 0).double()
    order = confidence.argsort()
    gaps = [
        (len(part), abs(float(confidence[part].mean() - right[part].mean())))
        for part in order.chunk(bins)
    ]
    return sum(n * gap for n, gap in gaps) / len(margins_N)


def probability_error(probabilities_N: np.ndarray, up_N: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error of P(thumbs up) over bins of equal count.

    up_N: True for thumbs up.
    """
    parts = np.array_split(np.argsort(probabilities_N, kind="stable"), bins)
    gaps = [
        len(part) * abs(float(probabilities_N[part].mean() - up_N[part].mean()))
        for part in parts
        if len(part)
    ]
    return sum(gaps) / len(probabilities_N)
