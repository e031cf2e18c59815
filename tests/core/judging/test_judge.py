"""The judge of a recipe: the pairs it is asked about, and what a judging function may return."""

import pytest

from rlhf_core.config import Judge
from rlhf_core.errors import BadInput
from rlhf_core.judging.judge import judged_rows, load_judge

PROMPTS = [f"prompt {i}" for i in range(4)]
GOOD, BAD = ["good"] * 4, ["bad"] * 4


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
