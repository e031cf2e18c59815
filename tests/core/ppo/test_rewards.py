"""The rewards of PPO: functions and reward model weighed, process rewards, shaping.

And what each option leaves alone.
"""

import math
import sys
from dataclasses import replace
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import FixedEngine, answering
from published_answers import FIXTURES
from safetensors.torch import load_file
from torch import Tensor, tensor
from transformers import AutoConfig, LlamaForTokenClassification

from rlhf_core.batching.batch import Batch, Sequence, collate
from rlhf_core.config import PPO, RewardFunction, Rewards, Sampling, load_recipe
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.metrics import require_declared
from rlhf_core.modeling.models import load_scalar
from rlhf_core.objectives.advantages import merge_moments, token_rewards
from rlhf_core.ppo.experience import Experience, make_experience
from rlhf_core.ppo.metrics import step_metrics
from rlhf_core.ppo.rewards import (
    NO_SCORES,
    RewardModelScores,
    ShapedRewards,
    load_functions,
    model_rewards,
    normalise,
    overlong_penalty,
    score_moments,
    shape_rewards,
)
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.scoring import Models

PROMPTS = ("w1", "w3 w2")
REPLIES = (("w4 w5", True), ("w6 w7 w8", False))
FUNCTIONS = """
def length(prompts, replies):
    return [len(reply.split()) for reply in replies]

def echo(prompts, replies):
    return [float(prompt.split()[0][1:]) for prompt in prompts]

def exact(prompts, replies, answer):
    return [float(reply == wanted) for reply, wanted in zip(replies, answer)]

def even(prompts, replies, tokens):
    return [[float(token[-1] in "02468") for token in own] for own in tokens]

def one_short(prompts, replies, tokens):
    return [[0.0] * (len(own) - 1) for own in tokens]

def crashes(prompts, replies):
    raise ZeroDivisionError("a verifier's bug")

def not_a_number(prompts, replies):
    return [1.0, float("nan")]

def too_few(prompts, replies):
    return [1.0]

def words(prompts, replies):
    return [float(len(prompt.split())) for prompt in prompts]

def turns(prompts, replies, messages):
    return [float(sum(m["role"] == "user" for m in own)) for own in messages]

def turns_of_tokens(prompts, replies, tokens, messages, level):
    return [[float(len(m) + l)] * len(own) for own, m, l in zip(tokens, messages, level)]
"""


@pytest.fixture
def rollout(tiny_model, tmp_path, monkeypatch) -> Rollout:
    """Two responses, and a module `rules` of reward functions that can be imported."""
    (tmp_path / "rules.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rules", raising=False)
    tokenizer = load_tokenizer(tiny_model)
    sequences = [
        Sequence(
            tokenizer(prompt)["input_ids"],
            tokenizer(reply)["input_ids"] + [tokenizer.eos_token_id] * ended,
        )
        for prompt, (reply, ended) in zip(PROMPTS, REPLIES, strict=True)
    ]
    records = [
        {"prompt": [{"role": "user", "content": text}], "meta": {"answer": "w4 w5", "level": 3}}
        for text in PROMPTS
    ]
    logprobs = [[-1.0] * len(s.response) for s in sequences]
    return Rollout(sequences, logprobs, [ended for _, ended in REPLIES], 0.0, tuple(records))


@pytest.fixture
def made(tiny_model, rollout):
    """A function from options of ppo.reward to the rollout's experience.

    The reward model scores 10 + 100 * row + t after t tokens.
    """
    tokenizer = load_tokenizer(tiny_model)

    policy = answering(lambda batch: torch.zeros(*batch.response_mask_BR.shape, 62))

    def scalar(batch: Batch) -> Tensor:
        rows, places = (
            torch.arange(len(batch.mask_BL)),
            torch.arange(batch.response_mask_BR.shape[1] + 1),
        )
        return 10.0 + 100 * rows[:, None] + places

    def make(*, without_model: bool = False, running=NO_SCORES, **options) -> Experience:
        config = PPO(
            reward=Rewards(**options), missing_eos_penalty=0.5, rollout_batch=2, minibatches=1
        )
        functions = load_functions(config.reward.functions, rollout.records, tokenizer)
        rewards = () if without_model else (scalar,)
        models = Models(FixedEngine(policy), FixedEngine(scalar), policy, rewards, functions)
        return make_experience(rollout, models, config, beta=0.1, pad_id=0, running=running)

    return make


def test_by_default_the_score_is_the_reward_models_at_the_last_token(made):
    x = made()
    assert x.rewards.score_B.tolist() == x.reward_model.score_B.tolist() == [13.0, 113.0]
    assert (
        x.estimates.rewards_BR.tolist() == [[0, 0, 13], [0, 0, 112.5]]
        and not x.rewards.process_BR.any()
    )
    assert x.rewards.function_scores_BF.shape == (2, 0)


def test_functions_see_every_message_of_the_prompt_with_its_role(rollout, tiny_model):
    """A system message and an earlier turn: 'system: w9', 'user: w1', 'assistant: w2' and w3 w2."""
    dialogue = [
        {"role": "system", "content": "w9"},
        {"role": "user", "content": "w1"},
        {"role": "assistant", "content": "w2"},
        rollout.records[1]["prompt"][0],
    ]
    records = (rollout.records[0], rollout.records[1] | {"prompt": dialogue})
    functions = [
        RewardFunction(function="rules:words"),
        RewardFunction(function="rules:turns"),
        RewardFunction(function="rules:turns_of_tokens", per_token=True, columns=["level"]),
    ]
    score = load_functions(functions, list(records), load_tokenizer(tiny_model))
    found = score(replace(rollout, records=records))
    assert found[:2] == [[1.0, 2 * 4 + 1], [1.0, 2.0]]
    assert found[2] == [[1.0 + 3] * 3, [4.0 + 3] * 3]


def test_functions_are_weighed_together_with_the_reward_model(made):
    functions = ["rules:length", {"function": "rules:echo", "weight": -2}]
    x = made(model_weight=0.5, functions=functions)
    assert x.rewards.function_scores_BF.tolist() == [
        [2, 1],
        [3, 3],
    ] and x.reward_model.score_B.tolist() == [13.0, 113.0]
    assert x.rewards.score_B.tolist() == [0.5 * 13 + 2 - 2 * 1, 0.5 * 113 + 3 - 2 * 3]
    assert x.reward_B.tolist() == [4 + 2.5, 3 + 50 + 0.5 - 0.5]
    found = step_metrics(x, PPO(reward=Rewards(model_weight=0.5, functions=functions)))
    assert (
        found["ppo/function_1_mean"],
        found["ppo/function_2_mean"],
        found["ppo/model_score_mean"],
    ) == (2.5, 2.0, 63.0)
    assert found["ppo/score_mean"] == pytest.approx((6.5 + 53.5) / 2)


def test_functions_alone_need_no_reward_model(made):
    x = made(without_model=True, model_weight=0, functions=["rules:length"])
    assert x.rewards.score_B.tolist() == [2.0, 3.0] and not x.reward_model.score_B.any()


def test_a_verifier_gets_the_columns_of_the_prompts(made, rollout, tiny_model):
    function = {"function": "rules:exact", "columns": ["answer"]}
    assert made(
        without_model=True, model_weight=0, functions=[function]
    ).rewards.score_B.tolist() == [1.0, 0.0]
    missing = [*rollout.records, {"prompt": [], "meta": {}}]
    with pytest.raises(
        BadInput, match="'rules:exact' needs the column 'answer', which 1 of 3 prompts have not"
    ):
        load_functions([RewardFunction(**function)], missing, load_tokenizer(tiny_model))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crashes", "'rules:crashes' failed with ZeroDivisionError: a verifier's bug"),
        ("not_a_number", "gave nan for reply 1"),
        ("too_few", "gave 1 values for 2 replies"),
        ("missing", "'rules:missing' cannot be imported"),
    ],
)
def test_a_function_that_fails_ends_the_stage_and_is_not_a_score_of_zero(made, name, message):
    with pytest.raises(BadInput, match=message):
        made(functions=[f"rules:{name}"])


def test_a_function_per_token_rewards_each_token(made):
    function = {"function": "rules:even", "per_token": True, "weight": 3}
    x = made(without_model=True, model_weight=0, functions=[function])
    assert x.rewards.process_BR.tolist() == [
        [3, 0, 0],
        [3, 0, 3],
    ] and x.rewards.function_scores_BF.tolist() == [[1], [2]]
    assert x.rewards.score_B.tolist() == [3.0, 6.0] and x.estimates.rewards_BR.tolist() == [
        [3, 0, 0],
        [3, 0, 2.5],
    ]
    with pytest.raises(BadInput, match="gave 2 values for the 3 tokens of reply 0"):
        made(functions=[{"function": "rules:one_short", "per_token": True}])


SCORES = tensor([[1.0, 2.0, 4.0, 8.0], [3.0, 5.0, 6.0, 9.0]])
MASK = tensor([[True, True, True], [True, True, False]])


@pytest.mark.parametrize(
    ("at", "final", "process"),
    [
        ("last", [8.0, 6.0], [[0.0] * 3] * 2),
        ("every", [0.0, 0.0], [[2.0, 4.0, 8.0], [5.0, 6.0, 0.0]]),
        ("difference", [0.0, 0.0], [[1.0, 2.0, 4.0], [2.0, 1.0, 0.0]]),
    ],
)
def test_a_token_level_reward_model_pays_at_each_token(at, final, process):
    found = model_rewards(SCORES, MASK, at)
    assert (found[0].tolist(), found[1].tolist()) == (final, process)


def test_differences_add_up_to_the_last_score_less_the_prompts(made):
    x = made(model_at="difference")
    assert x.rewards.score_B.tolist() == [3.0, 3.0] and x.estimates.rewards_BR.tolist() == [
        [1, 1, 1],
        [1, 1, 0.5],
    ]


def test_a_token_classifier_is_a_reward_model_with_its_bias(tiny_model, tmp_path):
    config = AutoConfig.from_pretrained(tiny_model, num_labels=1)
    saved = LlamaForTokenClassification(config).eval()
    saved.score.bias.data.fill_(2.5)
    saved.save_pretrained(tmp_path)
    batch = collate([Sequence([7, 8], [9, 10]), Sequence([7], [9])], 0)
    with torch.no_grad():
        expected = saved(
            input_ids=batch.ids_BL[:1], attention_mask=batch.mask_BL[:1].long()
        ).logits[0, 1:, 0]
        found = load_scalar(tmp_path).eval()(batch)
    torch.testing.assert_close(found[0], expected)


# Shaping


def rewarded_alone(score_B: Tensor, **options) -> ShapedRewards:
    """Rewards of responses of 1, 2, ... tokens with these scores by the reward model."""
    mask_BR = torch.arange(len(score_B)) <= torch.arange(len(score_B))[:, None]
    config = PPO(reward=Rewards(**options), missing_eos_penalty=0.0)
    ended_B = torch.ones(len(score_B), dtype=torch.bool)
    model = RewardModelScores(score_B, torch.zeros(mask_BR.shape), spread_B=None)
    return shape_rewards(model, [], mask_BR, ended_B, config, NO_SCORES)


def test_centring_scaling_and_clipping_by_hand():
    score_B = tensor([1.0, 2.0, 6.0])  # mean 3, squared deviations 4, 1, 9
    std = math.sqrt(14 / 3)
    for options, expected in (
        ({}, [1, 2, 6]),
        ({"centre": True}, [-2, -1, 3]),
        ({"scale": True}, [1 / std, 2 / std, 6 / std]),
        ({"centre": True, "scale": True}, [-2 / std, -1 / std, 3 / std]),
        ({"clip": 1.5}, [1, 1.5, 1.5]),
        ({"centre": True, "clip": 1.5}, [-1.5, -1, 1.5]),
        ({"centre": True, "scale": True, "clip": 1.0}, [-2 / std, -1 / std, 1]),
    ):
        rewards = rewarded_alone(score_B, **options)
        torch.testing.assert_close(rewards.final_B, tensor(expected, dtype=torch.float32))
        assert rewards.score_B.equal(score_B)  # what is reported stays what was said


def test_process_rewards_are_scaled_and_clipped_but_not_centred():
    final_B, process_BR = normalise(
        tensor([4.0]),
        tensor([[2.0, -6.0]]),
        score_moments(tensor([1.0, 5.0])),
        Rewards(centre=True, scale=True, clip=2.0),
    )
    assert (final_B.tolist(), process_BR.tolist()) == ([0.5], [[1.0, -2.0]])


def test_scores_that_do_not_differ_are_not_blown_up():
    assert rewarded_alone(tensor([1.0, 1.0]), scale=True).final_B.tolist() == [1.0, 1.0]
    assert rewarded_alone(tensor([1.0]), scale=True, centre=True).final_B.tolist() == [0.0]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12), st.data())
def test_running_moments_do_not_depend_on_how_responses_came(values, data):
    """In one rollout, in several, or from several ranks: the same mean and deviation."""
    score_B = tensor(values, dtype=torch.float64)
    cut = data.draw(st.integers(1, len(values) - 1))
    parts = [score_moments(part) for part in (score_B[:cut], score_B[cut:])]
    merged = reduce(merge_moments, parts, NO_SCORES)
    assert float(merged.n) == len(values)
    torch.testing.assert_close(merged.mean, score_B.mean(), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(merged.std(), score_B.std(correction=0), atol=1e-6, rtol=1e-9)


def test_running_moments_grow_from_step_to_step(made):
    first = made(centre=True, scale=True)
    second = made(centre=True, scale=True, running=first.rewards.running)
    assert float(second.rewards.running.n) == 4 and float(first.rewards.running.n) == 2
    torch.testing.assert_close(second.rewards.running.mean, tensor(63.0, dtype=torch.float64))
    found = step_metrics(second, PPO(reward=Rewards(scale=True)))
    assert (found["ppo/score_running_mean"], found["ppo/score_running_std"]) == (63.0, 50.0)


def test_length_penalty_is_the_soft_overlong_punishment_of_dapo():
    limit, cache = 5, 3
    rewards = rewarded_alone(
        torch.zeros(limit), length_penalty=1 / cache, length_free=limit - cache
    )
    lengths = range(1, limit + 1)
    # eq. 13 within the limit
    expected = [0.0 if n <= limit - cache else ((limit - cache) - n) / cache for n in lengths]
    assert rewards.final_B.tolist() == pytest.approx(expected)
    mask_BR = torch.arange(limit) < torch.arange(1, limit + 1)[:, None]
    assert token_rewards(rewards.final_B, torch.zeros(limit, limit), mask_BR, 0.0).sum(
        -1
    ).tolist() == pytest.approx(expected)


def masked(*tokens: int) -> Tensor:
    return torch.arange(max(tokens)) < tensor(tokens)[:, None]


def test_the_soft_overlong_penalty_by_hand():
    """Limit 10, buffer 4: 0 up to 6 tokens, then a quarter more for each, 1 at the limit."""
    mask_BR = masked(1, 6, 7, 8, 9, 10)
    options = {"sampling": Sampling(max_new_tokens=10), "overlong_buffer": 4}
    penalty_B = overlong_penalty(mask_BR, PPO(**options))
    assert penalty_B.tolist() == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0]
    assert overlong_penalty(mask_BR, PPO(**options, overlong_coef=2.0)).tolist() == [
        0.0,
        0.0,
        0.5,
        1.0,
        1.5,
        2.0,
    ]
    assert not overlong_penalty(mask_BR, PPO()).any()


def test_the_soft_overlong_penalty_is_that_of_verls_reward_manager():
    """infra/parity/verl_reward_cases.py: responses of 1 to 20 tokens, limit 20, float32."""
    published = load_file(FIXTURES / "verl_rewards.safetensors")
    assert len(published) == 3
    for case, rewards_B in published.items():
        _, buffer, factor = case.split("/")
        config = PPO(
            sampling=Sampling(max_new_tokens=20),
            overlong_buffer=int(buffer),
            overlong_coef=float(factor),
        )
        found_B = overlong_penalty(masked(*range(1, 21)), config)
        torch.testing.assert_close(-found_B, rewards_B, atol=1e-7, rtol=0)


def test_the_soft_overlong_penalty_is_subtracted_from_the_score_and_reported(rollout):
    """Responses of 3 tokens of at most 4, buffer 2: half of the coefficient."""
    config = PPO(
        sampling=Sampling(max_new_tokens=4),
        overlong_buffer=2,
        overlong_coef=3.0,
        missing_eos_penalty=0.0,
        rollout_batch=2,
        minibatches=1,
    )

    policy = answering(lambda batch: torch.zeros(*batch.response_mask_BR.shape, 62))

    def scalar(batch: Batch) -> Tensor:
        return torch.full((len(batch.mask_BL), batch.response_mask_BR.shape[1] + 1), 5.0)

    models = Models(FixedEngine(policy), FixedEngine(scalar), policy, (scalar,), lambda _: [])
    x = make_experience(rollout, models, config, beta=0.0, pad_id=0)
    assert x.rewards.score_B.tolist() == [5.0, 5.0] and x.rewards.final_B.tolist() == [3.5, 3.5]
    metrics = step_metrics(x, config)
    assert metrics["ppo/overlong_penalty_mean"] == 1.5 and metrics["ppo/reward_mean"] == 3.5
    require_declared(metrics)


def test_penalties_come_after_clipping_and_keep_their_size(made):
    x = made(clip=1.0, length_penalty=0.25)
    assert x.rewards.final_B.tolist() == [1 - 0.75, 1 - 0.75 - 0.5]


@st.composite
def rewarded(draw) -> tuple:
    lengths = torch.tensor(draw(st.lists(st.integers(1, 5), min_size=2, max_size=5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    mask_BR = torch.arange(int(lengths.max())) < lengths[:, None]
    process_BR = torch.randn(mask_BR.shape, generator=generator).masked_fill(~mask_BR, 0.0)
    return torch.randn(len(lengths), generator=generator), process_BR, mask_BR


EVERYTHING = PPO(
    reward=Rewards(
        centre=True, scale=True, clip=1.0, length_penalty=0.1, length_free=1, model_at="every"
    )
)


def weighed(final_B: Tensor, process_BR: Tensor, mask_BR: Tensor) -> ShapedRewards:
    return shape_rewards(
        RewardModelScores(final_B, process_BR, spread_B=None),
        [],
        mask_BR,
        mask_BR[:, -1],
        EVERYTHING,
        score_moments(tensor([3.0, -2.0])),
    )


@settings(deadline=None, max_examples=25)
@given(rewarded(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_padding_and_order_of_rows_change_no_reward(given_rows, columns, random):
    final_B, process_BR, mask_BR = given_rows
    expected = weighed(*given_rows)
    wide_BR = torch.nn.functional.pad(process_BR, (0, columns))
    wide = shape_rewards(
        RewardModelScores(final_B, wide_BR, spread_B=None),
        [],
        torch.nn.functional.pad(mask_BR, (0, columns)),
        mask_BR[:, -1],
        EVERYTHING,
        score_moments(tensor([3.0, -2.0])),
    )
    torch.testing.assert_close(wide.final_B, expected.final_B)
    assert not wide.process_BR[:, mask_BR.shape[1] :].any()
    order = random.sample(range(len(final_B)), len(final_B))
    moved = weighed(final_B[order], process_BR[order], mask_BR[order])
    torch.testing.assert_close(moved.final_B, expected.final_B[order])
    torch.testing.assert_close(moved.process_BR, expected.process_BR[order])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model_weight=0"], "nothing is rewarded; expected functions"),
        (
            ["model_weight=0", "functions=['m:f']", "../uncertainty_penalty=0.1"],
            "model_weight 0 loads no reward model, but",
        ),
        (
            ["model_weight=0", "functions=['m:f']", "../reward_check.every=5"],
            "reward_check watches a reward model",
        ),
        (["functions=[{function='m:f', weight=0}]"], "weight 0 would run and count for nothing"),
        (["functions=['no colon']"], "String should match pattern"),
        (["functions=['m:f','m:f','m:f','m:f','m:f','m:f','m:f','m:f','m:f']"], "at most 8"),
        (["clip=0"], "greater than 0"),
        (["length_free=10"], "length_penalty is 0"),
        (
            ["length_free=48", "length_penalty=0.1"],
            "length_free 48 is no less than sampling.max_new_tokens 48.*at most 47",
        ),
        (["model_at='first'"], "'last', 'every' or 'difference'"),
        (["../overlong_buffer=49"], "49 is more than sampling.max_new_tokens 48.*at most 48"),
        (["../overlong_coef=0.5"], "overlong_buffer 0 switches the penalty off"),
        (
            ["../overlong='mask'", "../truncated='bootstrap'"],
            "'bootstrap' changes nothing; set overlong to 'keep'",
        ),
    ],
)
def test_rewards_that_make_no_sense_are_refused_with_a_reason(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(
            "quickstart",
            [f"ppo.reward.{setting}".replace("reward.../", "") for setting in settings],
        )


def test_a_plain_string_is_a_function_of_weight_one():
    found = load_recipe("quickstart", ["ppo.reward.functions=['rules:length']"]).ppo.reward
    assert found.functions == [RewardFunction(function="rules:length")]
    assert not found.has_process
