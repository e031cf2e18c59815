"""The verdict of a contest: the comparisons that decide it, and the one that counts."""

from dataclasses import dataclass

from rlhf_core.benchmarks.names import input_name, parse
from rlhf_core.config import Contest, Evaluate
from rlhf_core.config.registry import AUTO
from rlhf_core.contest.power import p_value
from rlhf_core.contest.prompts import looked_at
from rlhf_core.contest.spending import is_nearly_spent, level, spent_share
from rlhf_core.digest import digest_file
from rlhf_core.gates.contest_evidence import (
    CONTEST,
    ContestBasis,
    ContestComparison,
    ContestEvidence,
)
from rlhf_core.gates.decide import Decision, Gate, Subject, decide
from rlhf_core.rundir import Artifact, StageSpec

BY_REWARD = "eval/win_rate_vs_champion"
BY_CHAMPIONS_REWARD = "eval/win_rate_vs_champion_by_its_reward"
BY_SCORER = "eval/independent_win_rate_vs_champion"
BY_JUDGE = "eval/judge_win_rate_vs_champion"


@dataclass(frozen=True)
class Look:
    """One look at held-out prompts. note: on the reward models that took part."""

    number: int = 1
    note: str = ""


def deciding_metrics(contest: Contest, config: Evaluate, inputs: set[str]) -> list[str]:
    """Return the metrics that decide; `inputs` are the names of the evaluation's inputs.

    A metric that the recipe names decides alone, a benchmark's for example. Else a scorer or a
    judge from outside decides where there is one: a reward model that a policy was
    trained against cannot tell its errors from its gains. Else both reward models decide.
    """
    if contest.metric != AUTO:
        return [contest.metric]
    scored = config.independent_scorer or {"reward_2"} & inputs or "reward" not in inputs
    outside = [BY_SCORER] if scored else []
    outside += [BY_JUDGE] if config.judge else []
    own = [BY_REWARD] + ([BY_CHAMPIONS_REWARD] if "champion_reward" in inputs else [])
    return outside or own


def contest_items(contest: Contest, spec: StageSpec) -> Artifact:
    """Return the items that the contest looks at: the benchmark that decides, else the prompts."""
    benchmark = parse(contest.metric)
    return spec.inputs[input_name(benchmark.task) if benchmark else "prompts_heldout"]


def contest_prompts(contest: Contest, subject: Subject) -> tuple[str, ...]:
    """Return the sample of prompts looked at, or of the items of the benchmark that decides."""
    benchmark = parse(contest.metric)
    return looked_at(subject.result, subject.run_dir, benchmark.task if benchmark else None)


def decision_rule(contest: Contest, metrics: list[str]) -> str:
    """Return the rule of a contest as text: bound, metrics, threshold, smallest n."""
    bound = f"lower {100 * contest.confidence:.6g}% bound" if contest.of == "lower" else contest.of
    return (
        f"{bound} of {' and '.join(metrics)} more than {contest.threshold:.12g}, n at least"
        f" {contest.min_n}"
    )


def contest_basis(contest: Contest, config: Evaluate, subject: Subject) -> ContestBasis:
    """Return the data and the rule of a contest, from the evaluation that `config` is of."""
    items = subject.result.files.get("items")
    metrics = deciding_metrics(contest, config, set(subject.spec.inputs))
    return ContestBasis(
        heldout=contest_items(contest, subject.spec).digest,
        evaluation=subject.result.digest,
        rule=decision_rule(contest, metrics),
        items=digest_file(subject.run_dir / items) if items else "",
        prompts=contest_prompts(contest, subject),
    )


def decide_contest(contest: Contest, config: Evaluate, subject: Subject, look: Look) -> Decision:
    """Return the decision of a contest, from the items of the evaluation that `config` is of.

    Every deciding comparison must pass at the level of this look, and the worst one is the
    decision. A policy that is not better by one of them passes with at most that level's
    probability, so that no further correction is needed (intersection-union test, Berger 1982,
    Technometrics 24).
    """
    at = level(look.number, contest.confidence) if contest.of == "lower" else None
    names = deciding_metrics(contest, config, set(subject.spec.inputs))
    gates = [Gate(name=CONTEST[1], **dict(contest.rule(name, at))) for name in names]
    decisions = [decide(gate, subject) for gate in gates]
    found = [_comparison(decision) for decision in decisions]
    worst = max(range(len(found)), key=lambda index: _badness(found[index]))
    evidence = ContestEvidence(
        **dict(contest_basis(contest, config, subject)),
        look=look.number,
        level=at,
        spent=spent_share(look.number),
        comparisons=found,
        note=look.note,
    )
    decision = decisions[worst]
    reason = f"{decision.reason}; {describe_look(evidence)}"
    changes = {"stage": CONTEST[0], "reason": reason, "contest": evidence}
    return decision.model_copy(update=changes)


def describe_look(evidence: ContestEvidence) -> str:
    """Return which contest this is on the same held-out prompts, and what of the budget is left."""
    if evidence.level is None:
        return (
            f"contest {evidence.look} on these held-out prompts, not corrected for the earlier"
            " ones, because the estimate decides"
        )
    text = (
        f"contest {evidence.look} on these held-out prompts, {evidence.spent:.0%} of their error"
        " budget spent"
    )
    if is_nearly_spent(evidence.look):
        text += (
            "; the same effect needs twice the prompts by now: take other held-out prompts (rlhf"
            " heldout rotate)"
        )
    return text


def _comparison(decision: Decision) -> ContestComparison:
    share, n, p = decision.value, decision.n, None
    # items that share a prompt are not independent: their interval has no such simple p-value
    if share is not None and n is not None and decision.n_prompts is None:
        p = p_value(round(share * n), n, decision.threshold)
    return ContestComparison(
        metric=decision.metric,
        share=share,
        n=n,
        interval=decision.interval,
        p_value=p,
        passed=decision.passed,
    )


def _badness(found: ContestComparison) -> tuple[bool, bool, float]:
    return not found.passed, found.p_value is None, found.p_value or 0.0
