"""The decision of a gate that passed, for registered versions."""

from rlhf_core.gates.decide import Decision

DECISION = Decision(
    stage="reward",
    gate="accuracy",
    metric="reward/accuracy",
    value=0.8,
    n=400,
    interval=(0.76, 0.84),
    bound="at least",
    threshold=0.7,
    passed=True,
    reason="reward/accuracy is 0.8, required at least 0.7",
)
