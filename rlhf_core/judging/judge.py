"""The judge that a recipe configures: a function, or an endpoint."""

from functools import partial
from pathlib import Path

from rlhf_core.batching.batch import subset
from rlhf_core.config import Judge
from rlhf_core.errors import BadInput
from rlhf_core.judging.functions import JudgeFunction, call
from rlhf_core.judging.verdicts import AskJudge, JudgeAnswer
from rlhf_core.named_functions import JUDGES, load_function

OUTCOMES = (0.0, 0.5, 1.0)


def load_judge(config: Judge, folder: Path | None = None) -> AskJudge:
    """Return the configured judge.

    folder: the run directory, where an endpoint's answers are kept for a further try. Raises
    BadInput for a function that does not exist, or an endpoint's key that is not set.
    """
    if config.function:
        return asking(load_function(config.function, "judge", JUDGES))
    from rlhf_core.judging.judge_endpoint import endpoint_judge

    return endpoint_judge(config, folder)


def asking(function: JudgeFunction) -> AskJudge:
    """Return the judge that calls the function."""
    return partial(_ask_function, function)


def _ask_function(
    function: JudgeFunction, prompts: list[str], replies_a: list[str], replies_b: list[str]
) -> list[JudgeAnswer]:
    values = call(function, "judge", prompts, replies_a, replies_b)
    if wrong := [value for value in values if value not in OUTCOMES]:
        raise BadInput(
            f"the judge gave {wrong[0]:g}; expected 1 (a is better), 0.5 (tie) or 0 (b is better)"
        )
    return [JudgeAnswer(value) for value in values]


def judged_rows(count: int, limit: int, *, seed: int) -> list[int]:
    """Return which of `count` pairs are judged: all, or `limit` of them drawn by seed."""
    return subset(list(range(count)), limit, seed=seed)
