"""Metrics of a judge's verdicts, by hand."""

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.judging.judge_metrics import judge_output
from rlhf_core.judging.verdicts import JudgeAnswer, JudgeVerdict
from rlhf_core.metrics import require_declared
from rlhf_core.rundir import Output
from rlhf_core.statistics.intervals import wilson


def verdict(ours_first: float | None, theirs_first: float | None) -> JudgeVerdict:
    return JudgeVerdict(JudgeAnswer(ours_first), JudgeAnswer(theirs_first))


WIN, LOSS, TIE = verdict(1.0, 0.0), verdict(0.0, 1.0), verdict(0.5, 0.5)
ALWAYS_A, ALWAYS_B, UNREAD = verdict(1.0, 1.0), verdict(0.0, 0.0), verdict(None, 0.0)


def by_name(output: Output) -> dict[str, float]:
    require_declared(output.metrics)
    return {
        name.removeprefix("eval/judge_").replace("_vs_champion", ""): value
        for name, value in output.metrics.items()
    }


def test_judge_metrics_by_hand():
    """Win, tie, tie by a flip, loss, unreadable: (1 + 0.5 + 0.5 + 0) / 4, and one flip in four."""
    output = judge_output([WIN, TIE, ALWAYS_A, LOSS, UNREAD], "_vs_champion")
    found = by_name(output)
    assert found["win_rate"] == 0.5 and found["ties"] == 0.5 and found["position_bias"] == 0.25
    assert found["inconsistent"] == 0.25
    assert found["first_position"] == 5 / 8  # of eight answers, ties counting one half
    assert found["unreadable"] == pytest.approx(0.2)
    # Wilson, 2 of 4
    assert output.intervals["eval/judge_win_rate_vs_champion"] == pytest.approx(
        (0.1500, 0.8500), abs=5e-5
    )
    assert output.counts["eval/judge_win_rate_vs_champion"] == 4
    assert output.counts["eval/judge_unreadable_vs_champion"] == 5


def test_a_judge_that_always_names_the_first_is_said_to():
    found = by_name(judge_output([ALWAYS_A] * 50))
    assert found["first_position"] == 1.0 and found["first_position_lower"] > 0.9
    assert found["inconsistent"] == 1.0 and found["inconsistent_lower"] == wilson(50, 50)[0]


def test_few_flips_to_one_side_are_a_bias_and_as_many_to_either_are_none():
    """Of 256 pairs 26 are flipped; all to the first position, or half of them to the second."""
    to_first = by_name(judge_output([WIN, LOSS] * 115 + [ALWAYS_A] * 26))
    assert to_first["first_position"] == pytest.approx(0.5 + 26 / 256 / 2)
    assert 0.52 < to_first["first_position_lower"] < to_first["first_position_upper"] < 0.58
    both = by_name(judge_output([WIN, LOSS] * 115 + [ALWAYS_A, ALWAYS_B] * 13))
    assert both["first_position"] == 0.5
    assert both["first_position_lower"] < 0.5 < both["first_position_upper"]
    assert both["inconsistent"] == to_first["inconsistent"] == both["position_bias"]


def test_no_flip_at_all_does_not_prove_that_there_is_no_bias():
    found = by_name(judge_output([WIN, LOSS] * 20))
    assert found["first_position"] == 0.5
    assert 0.4 < found["first_position_lower"] < 0.5 < found["first_position_upper"] < 0.6


def test_pairs_that_share_a_prompt_widen_the_intervals():
    verdicts = ([ALWAYS_A] * 4 + [WIN] * 4) * 10
    alone = by_name(judge_output(verdicts))
    shared = by_name(judge_output(verdicts, "", [str(i // 4) for i in range(80)]))
    for name in ("first_position", "inconsistent", "win_rate"):
        assert shared[name] == alone[name]
        assert shared[f"{name}_lower"] < alone[f"{name}_lower"]


def test_a_judge_that_decides_nothing_is_refused():
    with pytest.raises(BadInput, match="all 3 pairs without a verdict"):
        judge_output([UNREAD] * 3)
