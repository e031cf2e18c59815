"""Votes without people: of a judge, and of functions that stand in for annotators."""

import json
from dataclasses import asdict

import pytest

from rlhf_core.config import Judge
from rlhf_core.config.stage_configs import LabelVotesStageConfig
from rlhf_core.errors import BadInput
from rlhf_core.judging.judge import asking
from rlhf_core.labels.outcome import lines
from rlhf_core.labels.vote_stage import FILE, JUDGE, annotators_votes, judge_votes, run
from rlhf_core.labels.votes import read_pairs, read_vote_lines
from rlhf_core.rundir import Artifact, RunDir, StageSpec


def by_length(prompts, replies_a, replies_b, seed):
    """Have two annotators vote for the longer reply, the second one by the seed."""
    return [
        {"ann": "a" if len(a) >= len(b) else "b", "bob": "same" if seed else "both_bad"}
        for a, b in zip(replies_a, replies_b, strict=True)
    ]


def test_each_annotator_gives_a_vote_on_each_pair(make_pair):
    pairs = [make_pair(1), make_pair(2)]
    votes = annotators_votes(by_length, pairs, 7)
    assert [(vote.pair_id, vote.annotator) for vote in votes] == [
        (pair.pair_id, name) for pair in pairs for name in ("ann", "bob")
    ]
    assert {vote.choice for vote in votes if vote.annotator == "bob"} == {"same"}
    assert {vote.choice for vote in annotators_votes(by_length, pairs, 0)} >= {"both_bad"}


def test_a_function_that_asks_for_messages_gets_them(make_pair):
    def by_role(prompts, replies_a, replies_b, messages, seed):
        assert [one[-1]["content"] for one in messages] == prompts
        return [{"ann": "a"}] * len(prompts)

    assert annotators_votes(by_role, [make_pair(1)], 1)[0].choice == "a"


@pytest.mark.parametrize("answer", [1.0, {"ann": "left"}, {"": "a"}, {1: "a"}])
def test_an_answer_that_is_no_choice_is_refused_with_its_pair(make_pair, answer):
    def wrong(prompts, replies_a, replies_b, seed):
        return [{"ann": "a"}, answer]

    with pytest.raises(BadInput, match=r"for pair 1; expected the choices by annotator's name"):
        annotators_votes(wrong, [make_pair(1), make_pair(2)], 1)


def test_a_pair_on_which_nobody_votes_has_no_vote(make_pair):
    def one_of_two(prompts, replies_a, replies_b, seed):
        return [{"ann": "a"}, {}]

    pairs = [make_pair(1), make_pair(2)]
    assert [vote.pair_id for vote in annotators_votes(one_of_two, pairs, 1)] == [pairs[0].pair_id]


def test_a_function_without_a_seed_is_refused(make_pair):
    with pytest.raises(BadInput, match="function of annotators failed with TypeError"):
        annotators_votes(lambda prompts, a, b: [{"ann": "a"}], [make_pair(1)], 1)


def test_a_judge_that_favours_a_position_gives_no_preference(make_pair):
    pairs = [make_pair(1)]
    (vote,) = judge_votes(asking(lambda prompts, a, b: [1.0]), pairs)
    assert (vote.annotator, vote.choice) == (JUDGE, "same")
    first = pairs[0].reply_a
    (vote,) = judge_votes(asking(lambda prompts, a, b: [float(a[0] == first)]), pairs)
    assert vote.choice == "a"
    (vote,) = judge_votes(asking(lambda prompts, a, b: [float(b[0] == first)]), pairs)
    assert vote.choice == "b"


def test_the_stage_writes_the_votes_of_the_quickstarts_annotators(tmp_path, make_pair):
    prompt = [{"role": "user", "content": "how do i clean the table ?"}]
    good, bad = "let us clean the table .", "let us paint the chair ."
    pair = make_pair(1)
    row = asdict(pair) | {"prompt": prompt, "reply_a": good, "reply_b": bad}
    file = tmp_path / "pairs.jsonl"
    file.write_text(lines([row]))
    assert read_pairs(file)[0].prompt == prompt

    def votes(name, **config):
        spec = StageSpec(
            stage="label-votes",
            seed=3,
            config=LabelVotesStageConfig(**config),
            inputs={"pairs": Artifact.of(file)},
            code="c",
        )
        assert run(spec, RunDir(tmp_path / name)).files == {"votes": FILE}
        return read_vote_lines(tmp_path / name / FILE)

    simulated = votes("simulated", annotators="rlhf_core.quickstart.annotators:votes")
    assert len(simulated) == 3 and {vote.pair_id for vote in simulated} == {pair.pair_id}
    judged = votes("judge", judge=Judge(function="rlhf_core.quickstart.annotators:label"))
    assert len(judged) == 1 and judged[0].annotator == JUDGE
    assert json.loads((tmp_path / "judge" / FILE).read_text())["choice"] in ("a", "b")
