"""The judge: both orders, ties kept, and what a judging function may return."""

import pytest

from rlhf_core.config import Judge
from rlhf_core.errors import BadInput
from rlhf_core.judging.judge import JudgeVerdict, compare, judge_output, judged_rows, load_judge
from rlhf_core.metrics import require_declared

PROMPTS = [f"prompt {i}" for i in range(4)]
GOOD, BAD = ["good"] * 4, ["bad"] * 4


def prefers_good(prompts: list[str], replies_a: list[str], replies_b: list[str]) -> list[float]:
    return [
        0.5 if a == b else float(a == "good") for a, b in zip(replies_a, replies_b, strict=True)
    ]


def test_a_consistent_judge_is_believed_in_either_place():
    assert compare(prefers_good, PROMPTS, GOOD, BAD) == [JudgeVerdict(1.0, flipped=False)] * 4
    assert compare(prefers_good, PROMPTS, BAD, GOOD) == [JudgeVerdict(0.0, flipped=False)] * 4
    assert compare(prefers_good, PROMPTS, GOOD, GOOD) == [JudgeVerdict(0.5, flipped=False)] * 4


@pytest.mark.parametrize(
    ("ours_first", "ours_second", "verdict"),
    [
        (1.0, 0.0, JudgeVerdict(1.0, flipped=False)),  # ours both times
        (0.0, 1.0, JudgeVerdict(0.0, flipped=False)),  # theirs both times
        (1.0, 1.0, JudgeVerdict(0.5, flipped=True)),  # A both times
        (0.0, 0.0, JudgeVerdict(0.5, flipped=True)),  # B both times
        (1.0, 0.5, JudgeVerdict(0.5, flipped=False)),  # ours, then a tie: not confirmed
        (0.5, 0.5, JudgeVerdict(0.5, flipped=False)),
        (None, 0.0, JudgeVerdict(None, flipped=False)),
        (1.0, None, JudgeVerdict(None, flipped=False)),
    ],
)
def test_verdict_from_both_orders(ours_first, ours_second, verdict):
    answers = iter([[ours_first], [ours_second]])
    assert compare(lambda *_: next(answers), ["p"], ["ours"], ["theirs"]) == [verdict]


def test_judge_metrics_by_hand():
    """Win, tie, tie by a flip, loss, unreadable: (1 + 0.5 + 0.5 + 0) / 4, and one flip in four."""
    verdicts = [
        JudgeVerdict(1.0, False),
        JudgeVerdict(0.5, False),
        JudgeVerdict(0.5, True),
        JudgeVerdict(0.0, False),
        JudgeVerdict(None, False),
    ]
    output = judge_output(verdicts, "_vs_champion")
    require_declared(output.metrics)
    found = {
        name.removeprefix("eval/judge_").removesuffix("_vs_champion"): value
        for name, value in output.metrics.items()
    }
    assert found["win_rate"] == 0.5 and found["ties"] == 0.5 and found["position_bias"] == 0.25
    assert found["unreadable"] == pytest.approx(0.2)
    # Wilson, 2 of 4
    assert output.intervals["eval/judge_win_rate_vs_champion"] == pytest.approx(
        (0.1500, 0.8500), abs=5e-5
    )
    assert output.counts["eval/judge_win_rate_vs_champion"] == 4
    assert output.counts["eval/judge_unreadable_vs_champion"] == 5


def test_a_judge_that_decides_nothing_is_refused():
    with pytest.raises(BadInput, match="all 3 pairs without a verdict"):
        judge_output([JudgeVerdict(None, flipped=False)] * 3)


def test_judged_pairs_are_a_draw_by_seed():
    assert judged_rows(5, 10, seed=1) == [0, 1, 2, 3, 4]
    assert (
        judged_rows(100, 10, seed=1) == judged_rows(100, 10, seed=1) != judged_rows(100, 10, seed=2)
    )
    assert len(set(judged_rows(100, 10, seed=1))) == 10


@pytest.mark.parametrize("value", [2.0, -1.0, 0.7])
def test_a_judging_function_may_only_say_win_tie_or_loss(value, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"judge_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        f"def judge(prompts, a, b):\n    return [{value}] * len(a)\n"
    )
    with pytest.raises(BadInput, match=f"the judge gave {value:g}; expected 1"):
        load_judge(Judge(function=f"{name}:judge"))(PROMPTS, GOOD, BAD)
