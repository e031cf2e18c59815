"""The section registry.contest: what may decide, and the earlier key of its threshold."""

import pytest
from pydantic import ValidationError

from rlhf_core.config import Contest, Registry


@pytest.mark.parametrize("metric", ["eval/length_ratio", "eval/prompts", "none"])
def test_a_metric_without_a_winner_against_the_champion_decides_nothing(metric):
    with pytest.raises(ValidationError, match=r"expected 'auto' or one of .*eval/score_policy"):
        Contest(metric=metric)


@pytest.mark.parametrize("metric", ["auto", "eval/judge_win_rate_vs_champion", "eval/score_policy"])
def test_a_metric_with_a_winner_for_each_prompt_may_decide(metric):
    assert Contest(metric=metric).metric == metric


@pytest.mark.parametrize("value", [{"min_effect": 0.5}, {"confidence": 1.0}, {"of": "upper"}])
def test_what_no_candidate_could_reach_is_refused(value):
    with pytest.raises(ValidationError):
        Contest(**value)


def test_the_earlier_key_gives_the_threshold():
    assert Registry(name="a").contest_in_force == Contest()
    old = Registry(name="a", min_win_rate_vs_champion=0.6)
    assert old.contest_in_force == Contest(min_effect=0.1)
    assert old.contest_in_force.threshold == 0.6
    assert Registry(name="a", min_win_rate_vs_champion=0.5).contest_in_force == Contest()


def test_two_thresholds_are_refused():
    with pytest.raises(ValidationError, match=r"earlier name of contest\.min_effect 0\.1"):
        Registry(name="a", min_win_rate_vs_champion=0.6, contest=Contest(min_effect=0.2))
    with pytest.raises(ValidationError, match="no candidate can win more"):
        Registry(name="a", min_win_rate_vs_champion=1.0)
