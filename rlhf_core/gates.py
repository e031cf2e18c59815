"""Gates: whether a stage may follow. Fails closed: a missing or non-finite value is refused.

A gate is decided from a finished stage's result each time it is needed, never cached, so that a changed threshold
repeats no training and a stale verdict is never read.
"""

import math
from typing import Literal

from rlhf_core.config import EvaluateGate, Override, PPOGate, Recipe, RewardGate, SFTGate
from rlhf_core.errors import ConfigError
from rlhf_core.rundir import Frozen, StageResult

Bound = Literal["at least", "more than", "at most"]


class Gate(Frozen):
    """One bound on one metric."""

    name: str
    metric: str
    bound: Bound
    threshold: float


class Decision(Frozen):
    """What a gate said, and on what evidence."""

    stage: str
    gate: str
    metric: str
    value: float | None
    n: int | None
    interval: tuple[float, float] | None
    bound: Bound
    threshold: float
    passed: bool
    reason: str
    override: Override | None = None

    @property
    def verdict(self) -> str:
        """'passed', 'overridden' (passed only because of a recorded override) or 'refused'."""
        if not self.passed:
            return "refused"
        return "overridden" if self.override else "passed"


def _sft(gate: SFTGate) -> list[Gate]:
    return [_gate("improvement", "sft/heldout_improvement", "more than", gate.min_improvement)]


def _reward(gate: RewardGate) -> list[Gate]:
    return [
        _gate("pairs", "reward/heldout_pairs", "at least", gate.min_pairs),
        _gate("accuracy", "reward/accuracy", "at least", gate.min_accuracy),
        _gate("lower_bound", "reward/accuracy_lower", "at least", gate.min_lower_bound),
        _gate("length_baseline", "reward/accuracy_over_length", "more than", gate.min_over_length),
    ]


def _ppo(gate: PPOGate) -> list[Gate]:
    return [_gate("kl", "ppo/kl_per_response", "at most", gate.max_kl_per_response)]


def _evaluate(gate: EvaluateGate) -> list[Gate]:
    gain = gate.min_independent_gain
    independent = [] if gain is None else [_gate("independent", "eval/independent_gain_lower", "more than", gain)]
    return [
        *independent,
        _gate("prompts", "eval/prompts", "at least", gate.min_prompts),
        _gate("win_rate", "eval/win_rate_lower", "more than", gate.min_win_rate_lower),
        _gate("kl", "eval/kl_per_response", "at most", gate.max_kl_per_response),
        _gate("length", "eval/length_ratio", "at most", gate.max_length_ratio),
        _gate("repetition", "eval/repetition_increase", "at most", gate.max_repetition_increase),
        _gate("alignment_tax", "eval/alignment_tax", "at most", gate.max_alignment_tax),
    ]


def _gate(name: str, metric: str, bound: Bound, threshold: float) -> Gate:
    return Gate(name=name, metric=metric, bound=bound, threshold=threshold)


def gates_of(recipe: Recipe, stage: str) -> tuple[list[Gate], dict[str, Override]]:
    """The gates of a stage and the recipe's recorded overrides; none for stages without a gate."""
    makers = {"sft": _sft, "reward": _reward, "ppo": _ppo, "evaluate": _evaluate}
    if stage not in makers:
        return [], {}
    config = getattr(recipe, stage).gate
    return makers[stage](config), config.overrides


def check_overrides(recipe: Recipe) -> None:
    """Raise ConfigError for an override of a gate that does not exist: it would silently override nothing."""
    for stage in ("sft", "reward", "ppo", "evaluate"):
        gates, overrides = gates_of(recipe, stage)
        names = [gate.name for gate in gates]
        if unknown := sorted(set(overrides) - set(names)):
            raise ConfigError(f"{stage}.gate.overrides has {unknown}; the gates of {stage} are {names}")


def decide(gate: Gate, result: StageResult, override: Override | None = None) -> Decision:
    """Compare one metric of a result with its bound; the override's threshold counts when the gate's own fails."""
    value = result.metrics.get(gate.metric)
    passed = _holds(value, gate.bound, gate.threshold)
    used = override if override and not passed and _holds(value, gate.bound, override.threshold) else None
    return Decision(
        stage=result.stage, gate=gate.name, metric=gate.metric, value=value if _is_finite(value) else None,
        n=result.counts.get(gate.metric), interval=result.intervals.get(gate.metric), bound=gate.bound,
        threshold=gate.threshold, passed=passed or used is not None, reason=_reason(gate, value, used), override=used,
    )  # fmt: skip


def decide_all(recipe: Recipe, result: StageResult) -> list[Decision]:
    """Every gate of the result's stage."""
    gates, overrides = gates_of(recipe, result.stage)
    return [decide(gate, result, overrides.get(gate.name)) for gate in gates]


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _holds(value: float | None, bound: Bound, threshold: float) -> bool:
    if not _is_finite(value) or not math.isfinite(threshold):
        return False
    return {"at least": value >= threshold, "more than": value > threshold, "at most": value <= threshold}[bound]


def _reason(gate: Gate, value: float | None, used: Override | None) -> str:
    if not _is_finite(value):
        return f"{gate.metric} is {value}; expected a finite number {gate.bound} {gate.threshold:g}"
    text = f"{gate.metric} is {value:.4g}, required {gate.bound} {gate.threshold:g}"
    return f"{text}; allowed down to {used.threshold:g} by {used.by}: {used.reason}" if used else text
