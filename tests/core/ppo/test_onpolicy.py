"""The reward model on the policy's own replies: how pairs are made, labelled and counted.

And the simulated annotators.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from newcombe import newcombe
from plain import PlainEngine, PlainSampler, no_functions

from rlhf_core.config import PPO, Judge, RewardCheck, Sampling, load_recipe
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine.base import Forward
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.judging.judge import asking
from rlhf_core.judging.onpolicy_pairs import (
    check_output,
    ranked_as_labelled,
    read_checks,
    with_labels,
)
from rlhf_core.judging.verdicts import JudgeAnswer
from rlhf_core.metrics import require_declared
from rlhf_core.modeling.models import inference, load_policy, load_scalar
from rlhf_core.ppo.onpolicy import Checker
from rlhf_core.ppo.scoring import Models
from rlhf_core.ppo.trainer import Trainer
from rlhf_core.quickstart.annotators import label
from rlhf_core.quickstart.utility import score as true_utility
from rlhf_core.sampling.base import Sample
from rlhf_core.statistics.clusters import wilson_clustered
from rlhf_core.statistics.intervals import wilson


class CountedSampler(PlainSampler):
    """A sampler that counts the calls."""

    calls = 0

    def generate(self, prompts: list[list[int]], *, seeds: list[int], eos_id: int) -> list[Sample]:
        self.calls += 1
        return super().generate(prompts, seeds=seeds, eos_id=eos_id)


@pytest.fixture
def trainer(tiny_model) -> Trainer:
    def member(seed: int) -> Forward:
        return inference(load_scalar(tiny_model, new_head=True, seed=seed), dtype="float32")

    policy = load_policy(tiny_model)
    config = PPO(sampling=Sampling(max_new_tokens=4))
    return Trainer(
        models=Models(
            actor=PlainEngine(policy),
            critic=None,
            reference=inference(load_policy(tiny_model), dtype="float32"),
            rewards=(member(1), member(2)),
            functions=no_functions,
        ),
        sampler=CountedSampler(load_policy(tiny_model), config.sampling),
        tokenizer=load_tokenizer(tiny_model),
        prompts=[],
        config=config,
        seed=1,
    )


ROWS = [{"prompt": [{"role": "user", "content": f"w{i} w{i + 1}"}]} for i in range(8)]


def shorter(prompts, ours, theirs) -> list[float]:
    return [
        0.5 if len(a) == len(b) else float(len(a) < len(b))
        for a, b in zip(ours, theirs, strict=True)
    ]


def test_a_check_scores_two_fresh_replies_a_prompt_and_is_not_made_twice(trainer, tmp_path):
    checker = Checker(RewardCheck(every=2), asking(shorter), ROWS, tmp_path / "onpolicy")
    checker.start(trainer)
    assert checker.after(trainer, 1, 5) == {}
    metrics = checker.after(trainer, 2, 5)
    assert trainer.sampler.calls == 2
    assert checker.after(trainer, 2, 5) == metrics and trainer.sampler.calls == 2  # a resumed stage
    require_declared(metrics)
    found = read_checks(tmp_path / "onpolicy")
    assert list(found) == [0, 2] and len(found[0]) == 8
    replies = {(p["reply_a"], p["reply_b"]) for pairs in found.values() for p in pairs}
    assert len(replies) == 16 and all(a != b for a, b in replies)
    assert len({pair["id"] for pairs in found.values() for pair in pairs}) == 16
    assert all(
        pair["label"] == shorter([""], [pair["reply_a"]], [pair["reply_b"]])[0] for pair in found[2]
    )
    assert checker.after(trainer, 5, 5)  # after the last step, whatever `every`
    output = checker.output(5, tmp_path)
    assert (
        output.files == {"onpolicy_pairs": "onpolicy.jsonl"}
        and len((tmp_path / "onpolicy.jsonl").open().readlines()) == 24
    )


def test_an_endpoints_tokens_are_summed_over_all_checks_and_its_reasons_kept(trainer, tmp_path):
    def ask(prompts, ours, theirs) -> list[JudgeAnswer]:
        return [JudgeAnswer(1.0, "why", (10, 2)) for _ in prompts]

    judge = Judge(endpoint="http://x/v1", model="m", prompt_price=100.0, completion_price=1000.0)
    checker = Checker(RewardCheck(every=2, judge=judge), ask, ROWS, tmp_path / "onpolicy")
    checker.start(trainer)
    metrics = checker.after(trainer, 2, 5)
    require_declared(metrics)
    assert metrics["ppo/onpolicy_judge_prompt_tokens"] == 2 * 2 * 8 * 10
    assert metrics["ppo/onpolicy_judge_completion_tokens"] == 2 * 2 * 8 * 2
    assert metrics["ppo/onpolicy_judge_cost"] == pytest.approx((320 * 100 + 64 * 1000) / 1e6)
    assert checker._found(0).metrics["ppo/onpolicy_judge_prompt_tokens"] == 160
    (first, *_) = read_checks(tmp_path / "onpolicy")[2]
    assert first["judge_reasons"] == ["why", "why"] and first["label"] == 0.5  # A both times


def test_scores_are_the_mean_over_the_members(trainer, tmp_path):
    Checker(RewardCheck(), None, ROWS[:2], tmp_path / "both").start(trainer)
    single = [
        replace(trainer, models=replace(trainer.models, rewards=(member,)))
        for member in trainer.models.rewards
    ]
    for place, one in enumerate(single):
        Checker(RewardCheck(), None, ROWS[:2], tmp_path / str(place)).start(one)
    both, first, second = (read_checks(tmp_path / name)[0] for name in ("both", "0", "1"))
    for pair, a, b in zip(both, first, second, strict=True):
        assert pair["score_a"] == pytest.approx((a["score_a"] + b["score_a"]) / 2, abs=1e-5)
        assert pair["label"] is None


def pair(name: str, a: float, b: float, label: float | None) -> dict:
    return {
        "id": name,
        "step": 0,
        "prompt": f"prompt {name}",
        "reply_a": "x",
        "reply_b": "y",
        "score_a": a,
        "score_b": b,
        "label": label,
    }


PAIRS = [
    pair("0", 2, 1, 1.0),
    pair("1", 2, 1, 0.0),
    pair("2", 1, 2, 0.0),
    pair("3", 1, 1, 1.0),
    pair("4", 2, 1, 0.5),
    pair("5", 3, 1, None),
]


def test_ties_and_unlabelled_pairs_count_for_nothing_and_equal_scores_as_wrong():
    assert ranked_as_labelled(PAIRS) == (2, 4)
    start = [pair(str(number), 2, 1, 1.0) for number in range(10)]
    found = check_output({0: start, 8: PAIRS}, 8)
    assert (
        found.metrics["ppo/onpolicy_accuracy"] == 0.5 and found.counts["ppo/onpolicy_accuracy"] == 4
    )
    assert (
        found.metrics["ppo/onpolicy_accuracy_start"] == 1.0
        and found.counts["ppo/onpolicy_accuracy_start"] == 10
    )
    fall, low, high = newcombe(10, 10, 2, 4)
    assert found.metrics["ppo/onpolicy_fall"] == fall == 0.5 and found.intervals[
        "ppo/onpolicy_fall"
    ] == (low, high)
    assert found.intervals["ppo/onpolicy_accuracy"] == wilson(2, 4)
    assert (
        found.metrics["ppo/onpolicy_margin"] == pytest.approx(6 / 6)
        and found.counts["ppo/onpolicy_margin"] == 6
    )


def test_pairs_that_share_a_prompt_are_sampled_as_one():
    alone = [pair(str(number), 2, 1, float(number % 3 > 0)) for number in range(30)]
    shared = [one | {"prompt": f"prompt {place // 3 // 2}"} for place, one in enumerate(alone)]
    found = check_output({0: shared, 8: shared}, 8)
    right, clusters = np.array([one["label"] for one in shared]), np.arange(30) // 6
    wide = wilson_clustered(right, np.ones(30), clusters)
    assert found.intervals["ppo/onpolicy_accuracy"] == wide
    apart = check_output({0: alone, 8: alone}, 8)
    assert apart.intervals["ppo/onpolicy_accuracy"] == wilson(20, 30)
    low, high = found.intervals["ppo/onpolicy_fall"]
    assert found.metrics["ppo/onpolicy_fall"] == 0.0 and low < 0.0 < high


def test_without_labels_there_is_a_margin_and_no_accuracy():
    found = check_output({0: [pair("0", 2, 1, None)], 4: [pair("1", 4, 1, None)]}, 4)
    assert found.metrics == {"ppo/onpolicy_margin": 3.0}


def test_a_persons_labels_are_put_in_later(tmp_path):
    file = tmp_path / "labels.jsonl"
    file.write_text(
        '{"id": "5", "label": "b"}\n\n{"id": "1", "label": 1}\n{"id": "0", "label": "Tie"}\n'
    )
    found = with_labels({0: PAIRS}, file)
    assert [p["label"] for p in found[0]] == [0.5, 1.0, 0.0, 1.0, 0.5, 0.0]
    assert PAIRS[5]["label"] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "9", "label": "a"}', "id '9' is no pair of this run"),
        ('{"id": "5", "label": "better"}', 'line 1: .*expected {"id"'),
        ("a,b", "line 1"),
        ("", "holds no labels"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path, line, message):
    (tmp_path / "labels.jsonl").write_text(line + "\n")
    with pytest.raises(BadInput, match=message):
        with_labels({0: PAIRS}, tmp_path / "labels.jsonl")


def test_simulated_annotators_say_the_same_in_both_orders_and_mostly_prefer_what_is_worth_more():
    from rlhf_core.quickstart.corpus import corpus

    rows = corpus(3, 3)["comparisons_heldout"][:200]
    prompts, chosen, rejected = (
        [row[name] for row in rows] for name in ("prompt", "chosen", "rejected")
    )
    one, other = label(prompts, chosen, rejected), label(prompts, rejected, chosen)
    assert all(a == 1 - b for a, b in zip(one, other, strict=True)) and set(one) == {0.0, 1.0}
    worth = [
        a - b
        for a, b in zip(true_utility(prompts, chosen), true_utility(prompts, rejected), strict=True)
    ]
    agreed = [(gap > 0) == bool(vote) for gap, vote in zip(worth, one, strict=True) if gap]
    assert 0.7 < sum(agreed) / len(agreed) < 0.97


def test_the_quickstart_can_be_watched_by_its_annotators():
    name = "rlhf_core.quickstart.annotators:label"
    recipe = load_recipe(
        "quickstart", [f"ppo.reward_check={{every=4, judge={{function='{name}'}}}}"]
    )
    assert recipe.ppo.reward_check.judge.function == name
    with pytest.raises(ConfigError, match="either function or endpoint"):
        load_recipe("quickstart", ["ppo.reward_check={judge={}}"])


def test_pairs_are_written_as_lines_of_json(trainer, tmp_path):
    Checker(RewardCheck(), asking(shorter), ROWS[:1], tmp_path / "onpolicy").start(trainer)
    (line,) = (tmp_path / "onpolicy" / "step-000000.jsonl").read_text().splitlines()
    assert set(json.loads(line)) == set(PAIRS[0])
