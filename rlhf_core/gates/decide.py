"""Gates decide whether the next stage may run.

They fail closed: a value that is missing, not finite, on too few samples or of other bytes is
refused. A gate is decided from a finished stage's result each time it is needed, and never cached.
A changed threshold therefore repeats no training, and a stale verdict is never read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rlhf_core.config import Recipe
from rlhf_core.config.decidable import own_gates
from rlhf_core.config.gate_rules import Bound, GateRule, GateValue, Override
from rlhf_core.errors import BadInput
from rlhf_core.evidence.item_metrics import is_against_champion
from rlhf_core.gates.contest_evidence import CONTEST, ContestEvidence
from rlhf_core.rundir import Artifact, Frozen, StageResult, StageSpec
from rlhf_core.stage_catalogue import STAGES, gated_stages

if TYPE_CHECKING:
    from rlhf_core.gates.measure import MeasuredMetric

LIMITS = "limits."  # begins the names of the gates on what a run takes
VERDICTS = ("refused", "overridden", "warning", "passed")  # the worst first


# fields of a rule that its decision repeats
_COPIED = {"metric", "bound", "threshold", "of", "minus", "versus", "method", "min_n", "severity"}


class Gate(GateRule):
    """A rule with its name."""

    name: str


@dataclass(frozen=True)
class Subject:
    """A finished stage to decide on, its spec, its run directory, and the deciding commit."""

    result: StageResult
    spec: StageSpec
    run_dir: Path
    commit: str = ""

    @property
    def model(self) -> Artifact | None:
        """The model that passes or fails: the stage's output, or the given one that it measured."""
        inputs, stage = self.spec.inputs, STAGES.get(self.spec.stage)
        if stage and not stage.makes:
            return inputs.get("policy") or inputs.get("model")
        return self.result.outputs.get("model") or inputs.get("given")

    @property
    def data(self) -> dict[str, Artifact]:
        """The data measured on: held-out splits, or the training split of a stage without any."""
        splits = {
            name: item
            for name, item in self.spec.inputs.items()
            if name.endswith(("_heldout", "_train"))
        }
        return {name: item for name, item in splits.items() if name.endswith("_heldout")} or splits

    def mismatch(self) -> str | None:
        """Read the bytes again, and return why the result is not theirs; None when it is."""
        if self.result.digest != self.spec.digest:
            return (
                f"the result is of another spec: digest {self.result.digest[:12]}, expected"
                f" {self.spec.digest[:12]}"
            )
        if self.model is None or not self.data:
            return "the stage names no model or no data, so nothing says what was measured"
        try:
            for item in (self.model, *self.data.values()):
                item.verified()
        except BadInput as error:
            return str(error).rstrip(".")
        return None


class Decision(Frozen):
    """A gate's verdict and its evidence.

    value: the estimate. of: the part of it that was compared with the threshold.
    """

    stage: str
    gate: str
    metric: str
    value: float | None
    n: int | None
    n_prompts: int | None = None  # different prompts of the n items, where items share prompts
    interval: tuple[float, float] | None
    bound: Bound
    threshold: float
    passed: bool
    reason: str
    override: Override | None = None
    of: GateValue = "estimate"
    minus: str | None = None
    versus: str | None = None
    method: str = "auto"
    how: str = ""  # the interval, in words
    confidence: float | None = None  # of the interval
    min_n: int | None = None
    severity: Literal["error", "warning"] = "error"
    model_digest: str | None = None
    data_digests: dict[str, str] = Field(default_factory=dict)
    champion_digest: str | None = None
    code: str = ""
    commit: str = ""
    decided_at: str = ""
    contest: ContestEvidence | None = None  # of a contest with the champion

    @property
    def is_contest(self) -> bool:
        """True for the contest with the champion, which no stage's gate is."""
        return (self.stage, self.gate) == CONTEST

    @property
    def is_limit(self) -> bool:
        """True for a limit on what the run takes, which says nothing about a model."""
        return self.gate.startswith(LIMITS)

    @property
    def verdict(self) -> str:
        """One of VERDICTS.

        'passed'; 'overridden': passed only because of a recorded override; 'warning': failed, but
        stops nothing; 'refused'.
        """
        if not self.passed:
            return "refused" if self.severity == "error" else "warning"
        return "overridden" if self.override else "passed"

    @property
    def rule(self) -> str:
        """The requirement, e.g. 'lower 95% bound more than 0.5'."""
        return f"{_end(self.of, self.confidence)}{self.bound} {self.threshold:g}"

    @property
    def quantity(self) -> str:
        """The number that the gate looked at, e.g. 'eval/score_policy - champion'."""
        return _quantity(self.metric, self.minus, self.versus, self.method)


def refused(decisions: Iterable[Decision]) -> list[Decision]:
    """Return the decisions that stop flow and promotion: failed, and not of severity 'warning'."""
    return [decision for decision in decisions if decision.verdict == "refused"]


def worst_verdict(decisions: Iterable[Decision]) -> str:
    """Return the worst verdict among decisions, '' without any."""
    found = {decision.verdict for decision in decisions}
    return next((verdict for verdict in VERDICTS if verdict in found), "")


def gates_of(recipe: Recipe, stage: str) -> list[Gate]:
    """Return the gates of a stage: its own thresholds, then the recipe's further gates.

    A stage without gates gives none.
    """
    if stage not in gated_stages():
        return []
    rules = own_gates(recipe, stage)
    rules |= {name: rule for name, rule in recipe.gates.items() if rule.stage == stage}
    return [Gate(name=name, **dict(rule)) for name, rule in rules.items()]


def decide_all(recipe: Recipe, subject: Subject) -> list[Decision]:
    """Decide every gate of the subject's stage, after reading the bytes of model and data again."""
    gates = gates_of(recipe, subject.result.stage)
    mismatch = subject.mismatch() if gates else None
    return [decide(gate, subject, mismatch) for gate in gates]


def decide(gate: Gate, subject: Subject, problem: str | None = None) -> Decision:
    """Compare the number that the gate looks at with its threshold.

    The override's threshold counts when the gate's own fails. problem: the reason why nothing may
    pass, whatever the numbers are. No override helps then, nor against missing evidence.
    """
    # imports numpy, scipy and arrow, which reading decisions does not need
    from rlhf_core.gates.measure import MeasuredMetric, measure

    champion = subject.spec.inputs.get("champion")
    if not problem and gate.versus and champion is None:
        reason = f"no champion took part, so there is nothing to compare {gate.metric} with"
        return _decision(gate, subject, MeasuredMetric(), passed=True, reason=reason)
    found = measure(gate, subject.result, subject.run_dir)
    few = _too_few(gate, found.n) if found.n else None  # says more than no interval
    if problem := problem or few or found.problem or _too_few(gate, found.n):
        required = f"required {_end(gate.of, gate.confidence)}{gate.bound} {gate.threshold:g}"
        return _decision(gate, subject, found, passed=False, reason=f"{problem} ({required})")
    passed = _holds(gate, found, gate.threshold)
    reason, override = _reason(gate, found), gate.override
    if override and not passed and _holds(gate, found, override.threshold):
        reason += f"; allowed to {override.threshold:g} by {override.by}: {override.reason}"
        return _decision(gate, subject, found, passed=True, reason=reason, override=override)
    return _decision(gate, subject, found, passed=passed, reason=reason)


def _decision(gate: Gate, subject: Subject, found: "MeasuredMetric", **outcome: object) -> Decision:
    champion = subject.spec.inputs.get("champion")
    return Decision(
        stage=subject.result.stage,
        gate=gate.name,
        value=found.value,
        n=found.n,
        n_prompts=found.n_prompts,
        interval=found.interval,
        confidence=found.confidence,
        how=found.how,
        model_digest=subject.model.digest if subject.model else None,
        data_digests={name: item.digest for name, item in subject.data.items()},
        champion_digest=champion.digest if champion and gate.versus else None,
        code=subject.spec.code,
        commit=subject.commit,
        decided_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **gate.model_dump(include=_COPIED),
        **outcome,
    )


def _too_few(gate: Gate, n: int | None) -> str | None:
    if n is None and gate.min_n > 1:  # a finite metric rests on one sample at least
        return f"{gate.metric} states no sample size; expected at least {gate.min_n}"
    if n is not None and n < gate.min_n:
        return f"{gate.metric} rests on {n} samples; expected at least {gate.min_n}"
    return None


def _number(gate: Gate, found: "MeasuredMetric") -> float:
    """Return the number to compare; `measure` states a problem where there is none."""
    if gate.of == "estimate":
        assert found.value is not None
        return found.value
    assert found.interval is not None
    return found.interval[gate.of == "upper"]


def _holds(gate: Gate, found: "MeasuredMetric", threshold: float) -> bool:
    number = _number(gate, found)
    return {
        "at least": number >= threshold,
        "more than": number > threshold,
        "at most": number <= threshold,
        "less than": number < threshold,
    }[gate.bound]


def _reason(gate: Gate, found: "MeasuredMetric") -> str:
    quantity = _quantity(gate.metric, gate.minus, gate.versus, gate.method)
    of = "" if gate.of == "estimate" else f"the {_end(gate.of, found.confidence)}of "
    shared = f" of {found.n_prompts} prompts" if found.n_prompts else ""
    evidence = f" (estimate {found.value:.4g}, n = {found.n}{shared})" if of else ""
    return (
        f"{of}{quantity} is {_number(gate, found):.4g}{evidence}, required {gate.bound}"
        f" {gate.threshold:g}"
    )


def _end(of: GateValue, confidence: float | None) -> str:
    return "" if of == "estimate" else f"{of} {100 * (confidence or 0.95):g}% bound "


def _quantity(metric: str, minus: str | None, versus: str | None, method: str) -> str:
    baseline = ""
    if minus:
        baseline = f" - {minus}"
    elif versus and not is_against_champion(metric):
        baseline = " - champion"
    return f"{metric}{baseline}" + (", share of decided items won," if method == "sign" else "")
