"""Calibration error of hand-made margins."""

import pytest
import torch

from rlhf_core.statistics.calibration import calibration_error


def test_calibration_error_of_a_certain_and_wrong_model_is_one():
    assert calibration_error(torch.full((20,), -50.0)) == pytest.approx(1.0)
    assert calibration_error(torch.full((20,), 50.0)) == pytest.approx(0.0)
