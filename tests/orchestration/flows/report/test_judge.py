"""The judge in a run's report: verdicts, position bias, agreement, tokens."""

from pages import Page

from flows.report.judge import judge_part, usage
from tasks.analysis.rater_agreement import rater_agreements
from tasks.analysis.run_evidence import Estimate

VERDICTS = {
    "eval/judge_win_rate": Estimate(0.61, 0.55, 0.67, 256),
    "eval/judge_ties": Estimate(0.2, None, None, 256),
    "eval/judge_first_position": Estimate(0.55, 0.52, 0.58, 256),
    "eval/judge_inconsistent": Estimate(0.12, 0.09, 0.17, 256),
}
AGREEMENT = {
    f"eval/{kind}_judge_people": Estimate(value, value - 0.1, value + 0.1, 120)
    for kind, value in (("agreement", 0.8), ("alpha", 0.6))
}


def text_of(metrics: dict[str, Estimate]) -> str:
    return Page(str(judge_part(metrics))).text


def test_the_judges_position_bias_is_shown_with_its_interval():
    text = text_of(VERDICTS)
    assert "answers for the first reply" in text and "0.55" in text and "[0.52, 0.58]" in text
    assert "SFT model" in text and "champion" not in text
    both = VERDICTS | {"eval/judge_win_rate_vs_champion": Estimate(0.5, 0.4, 0.6, 200)}
    assert "champion" in text_of(both)


def test_agreement_with_people_is_shown_raw_and_beyond_chance():
    (found,) = rater_agreements(AGREEMENT)
    assert (found.raters, found.n) == ("judge and people", 120)
    text = text_of(VERDICTS | AGREEMENT)
    assert "Krippendorff" in text and "judge and people" in text and "[0.7, 0.9]" in text
    assert "Krippendorff" not in text_of(VERDICTS)


def test_tokens_and_their_cost_are_a_sentence():
    tokens = {
        "eval/judge_prompt_tokens": Estimate(120_000.0, n=1024),
        "eval/judge_completion_tokens": Estimate(1024.0, n=1024),
    }
    said = "The judge took 120,000 prompt tokens and 1,024 completion tokens for 1,024 answers"
    assert usage(tokens) == f"{said}."
    assert usage(tokens | {"eval/judge_cost": Estimate(0.31)}) == f"{said}, which cost 0.31."
    assert usage({}) == ""


def test_a_run_without_a_judge_has_no_such_part():
    assert str(judge_part({"eval/win_rate": Estimate(0.9)})) == ""
