"""Comparability of two runs' metrics: values without a common scale are not compared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlhf_core.benchmarks.names import GAIN, PREFIX, WINS, parse
from rlhf_core.config.judge import TOKENS, TOKENS_WITH_REASON
from tasks.analysis.run_evidence import RunEvidence

_NO_VERDICT = {  # settings of a judge that change no verdict
    "timeout_s",
    "retries",
    "parallel",
    "prompt_price",
    "completion_price",
    "agreement_pairs",
    "traces",
}
_WITH_REWARD = ("judge_reward", "reward_people")
_SCORED = (  # prefixes of metrics on the reward model's scale
    "eval/score",
    "eval/reward_",
    "eval/length_correlation",
    "eval/kl_per_reward",
    "eval/win_rate",
    "ppo/score",
    "ppo/reward_mean",
    "ppo/value_loss",
    "ppo/critic",
)
_RELATIVE = (  # prefixes of metrics measured relative to the SFT model
    "eval/kl",
    "ppo/kl",
    "eval/score_gain",
    "eval/win_rate",
    "eval/alignment_tax",
    "eval/independent_gain",
    "eval/judge_win_rate",
    "dpo/",
    "kto/",
    "eval/length_ratio",
    "eval/repetition_increase",
    "eval/distinct_2_ratio",
    "eval/distinct_3_ratio",
    "eval/distinct_2_cut",
    "eval/distinct_3_cut",
    "eval/first_word_rise",
    "eval/prompt_retrieval_loss",
)


def no_common_scale(metric: str, first: RunEvidence, second: RunEvidence) -> str | None:
    """Return why two values of a metric cannot be compared; None when they can."""
    return next((rule.reason for rule in _RULES if rule.forbids(metric, first, second)), None)


def same_model(name: str, first: RunEvidence, second: RunEvidence) -> bool:
    """Check that both runs have the same model of that name, or both have none."""
    return first.model(name) == second.model(name)


def same_scorer(first: RunEvidence, second: RunEvidence) -> bool:
    """Check that both evaluations used the same independent scorer.

    It is the same function, or the same further reward models.
    """
    return _same_function("independent_scorer", first, second) or _same_function(
        "reward_2", first, second
    )


def same_judge(first: RunEvidence, second: RunEvidence) -> bool:
    """Check that both evaluations used the same judge with the same settings.

    What only says how it is asked, counted or shown may differ.
    """
    return _same_function("judge", first, second)


def _verdict_settings(judge: Any) -> Any:
    """Return the settings of a judge that may change a verdict; other values as they are.

    Keys of this version count as their defaults where a record of an earlier one lacks them.
    """
    if not isinstance(judge, dict):
        return judge
    kept = {name: value for name, value in judge.items() if name not in _NO_VERDICT}
    reasons = judge.get("reasons", False)
    tokens = judge.get("max_tokens") or (TOKENS_WITH_REASON if reasons else TOKENS)
    return kept | {"reasons": reasons, "max_tokens": tokens}


def _same_function(name: str, first: RunEvidence, second: RunEvidence) -> bool:
    """Check that a function has the same settings and, where both have one, the same digest."""
    if not all("evaluate" in run.stages for run in (first, second)):
        return False
    stages = [run.stages["evaluate"] for run in (first, second)]
    config, other = (
        _verdict_settings(stage.config.get("evaluate", {}).get(name)) for stage in stages
    )
    digest, other_digest = (stage.input(name) for stage in stages)
    return (
        config == other
        and (config or digest) is not None
        and (digest == other_digest or None in (digest, other_digest))
    )


@dataclass(frozen=True)
class _Rule:
    """A condition on two runs without which the metrics that it covers cannot be compared."""

    covers: Callable[[str], bool]
    holds: Callable[[RunEvidence, RunEvidence], bool]
    reason: str

    def forbids(self, metric: str, first: RunEvidence, second: RunEvidence) -> bool:
        """Check whether the rule covers the metric and its condition is broken."""
        return self.covers(metric) and not self.holds(first, second)


def same_benchmarks(first: RunEvidence, second: RunEvidence) -> bool:
    """Check that both evaluations gave their benchmarks' items in the same way, of one version."""
    if not all("evaluate" in run.stages for run in (first, second)):
        return False
    stages = [run.stages["evaluate"] for run in (first, second)]
    template, other = (
        stage.config.get("evaluate", {}).get("benchmarks", {}).get("chat_template")
        for stage in stages
    )
    ours, theirs = (stage.inputs for stage in stages)
    both = [name for name in ours.keys() & theirs.keys() if name.startswith("benchmark_")]
    return template == other and all(ours[name] == theirs[name] for name in both)


def _is_benchmarks(of: str) -> Callable[[str], bool]:
    return lambda metric: bool((parts := parse(metric)) and parts.of == of)


def _begins(*prefixes: str) -> Callable[[str], bool]:
    return lambda metric: metric.startswith(prefixes)


def _same(model: str) -> Callable[[RunEvidence, RunEvidence], bool]:
    return lambda first, second: same_model(model, first, second)


def _scored_alike(first: RunEvidence, second: RunEvidence) -> bool:
    return first.model("reward") is not None or same_scorer(first, second)


def _is_loss_in_tokens(metric: str) -> bool:
    return "heldout_loss" in metric and metric.startswith(("sft/", "eval/"))


_RULES = (  # the first that is broken gives the reason
    _Rule(
        _begins(*_SCORED),
        _same("reward"),
        "scored by two different reward models, whose scores have no common scale",
    ),
    _Rule(_begins(*_SCORED), _scored_alike, "scored by two different independent scorers"),
    _Rule(_begins(*_RELATIVE), _same("sft"), "measured from two different SFT models"),
    _Rule(
        _begins("eval/win_rate_vs_champion"),
        _same("champion"),
        "won against two different champions",
    ),
    _Rule(
        _begins("eval/judge", "eval/agreement_judge", "eval/alpha_judge"),
        same_judge,
        "two different judges",
    ),
    _Rule(
        _begins(*(f"eval/{kind}_{of}" for kind in ("agreement", "alpha") for of in _WITH_REWARD)),
        _same("reward"),
        "two different reward models",
    ),
    _Rule(_is_benchmarks(GAIN), _same("sft"), "measured from two different SFT models"),
    _Rule(_is_benchmarks(WINS), _same("champion"), "won against two different champions"),
    _Rule(_begins(PREFIX), same_benchmarks, "two different versions or settings of the benchmark"),
    _Rule(_begins("eval/independent"), same_scorer, "two different independent scorers"),
    _Rule(
        _is_loss_in_tokens,
        _same("base"),
        "two different base models: nats per token compare only under one tokenizer",
    ),
    _Rule(
        _begins("reward/heldout_margin", "reward/score"),
        _same("reward"),
        "two reward models' scores have no common scale",
    ),
)
