"""Dynamic sampling: which groups stay, how far the prompts go on, and what is reported."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch import tensor

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import DynamicSampling, load_recipe
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.ppo.dynamic_sampling import RewardedRollout, Wanted, fill_batch, have_spread
from rlhf_core.ppo.rollout import Rollout

ROOT = Path(__file__).parents[3]


def rewarded(number: int, cursor: int, groups: int) -> RewardedRollout:
    """Return pairs of responses to the prompts from `cursor` on; even ones have no spread.

    A response has one token more than its prompt's number; scores are 1 and 1, or 1 and 2.
    """
    prompts = [cursor + place // 2 for place in range(2 * groups)]
    sequences = [Sequence([prompt], [row % 2] * (prompt + 1)) for row, prompt in enumerate(prompts)]
    scores = [1.0 + (row % 2) * (prompt % 2) for row, prompt in enumerate(prompts)]
    rollout = Rollout(
        sequences,
        [[-1.0] * len(s.response) for s in sequences],
        [prompt < 5 for prompt in prompts],
        seconds=2.0,
        records=tuple({"prompt": prompt} for prompt in prompts),
        cursor=cursor + groups,
    )
    return RewardedRollout(
        rollout, tensor(scores), tensor(scores), [scores, [[s] for s in scores]], 0.5
    )


def wanted(groups: int, **options) -> Wanted:
    return Wanted(7, groups, 2, DynamicSampling(**options))


def test_a_group_stays_if_its_rewards_differ_by_more_than_the_least_spread():
    reward_B = tensor([1.0, 1.0, 0.0, 1.0, 3.0, 3.0 + 1e-3])
    assert have_spread(reward_B, 2, 1e-6) == [False, True, True]
    assert have_spread(reward_B, 2, 1e-2) == [False, True, False]
    assert have_spread(reward_B, 3, 0.0) == [True, True]


def test_the_batch_is_filled_by_rounds_of_as_many_groups_as_are_missing_by_hand():
    """Three groups from prompt 4 on: 4 5 6, then 7 8, then 9. 5, 7 and 9 stay; 4, 6 and 8 go."""
    batch = fill_batch(wanted(3), 4, rewarded)
    assert [s.prompt[0] for s in batch.sequences] == [5, 5, 7, 7, 9, 9]
    assert [s.response for s in batch.sequences[:2]] == [[0] * 6, [1] * 6]
    assert [record["prompt"] for record in batch.records] == [5, 5, 7, 7, 9, 9]
    assert batch.ended == [False] * 6 and len(batch.sampler_logprobs[-1]) == 10
    assert batch.cursor == 10 and batch.seconds == 6.0
    found = batch.selection
    assert found.functions == [[1.0, 2.0] * 3, [[1.0], [2.0]] * 3]
    assert (found.rounds, found.groups_dropped, found.seconds) == (3, 3, 1.5)
    assert found.tokens_dropped == 2 * (5 + 7 + 9)
    assert found.score_mean == pytest.approx((6 * 1 + 3 * (1 + 2)) / 12)


def test_a_batch_that_is_full_at_once_takes_one_round():
    def every_second(number: int, cursor: int, groups: int) -> RewardedRollout:
        return rewarded(number, 2 * cursor + 1, 1)

    batch = fill_batch(wanted(1), 0, every_second)
    assert (batch.selection.rounds, batch.selection.tokens_dropped, batch.cursor) == (1, 0, 2)


def test_after_the_last_round_the_step_goes_on_with_what_is_there():
    batch = fill_batch(wanted(3, max_rounds=2), 4, rewarded)
    assert [s.prompt[0] for s in batch.sequences] == [5, 5, 7, 7]
    assert (batch.selection.rounds, batch.cursor) == (2, 9)


def test_a_step_without_any_spread_is_refused_with_what_was_tried():
    def equal(number: int, cursor: int, groups: int) -> RewardedRollout:
        return rewarded(number, 0, 1)

    with pytest.raises(BadInput, match=r"step 7: in none of 4 groups \(4 rounds\).*2 responses"):
        fill_batch(wanted(3, max_rounds=4), 0, equal)


RANKS = """
import sys
import torch
import torch.distributed as dist
rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
from dataclasses import replace
from test_dynamic_sampling import fill_batch, rewarded, wanted

def of_rank(number, cursor, groups):
    found = rewarded(number, cursor, groups)
    noise = torch.arange(2.0 * groups) * rank  # rank 1 alone would keep every group
    return replace(found, reward_B=found.reward_B + noise)

batch = fill_batch(wanted(3), 4, of_rank)
print([s.prompt[0] for s in batch.sequences], batch.selection.rounds, batch.cursor)
"""


@pytest.mark.slow
def test_all_ranks_take_the_same_rounds_and_groups(tmp_path):
    """Two processes over gloo, whose own rewards would lead to different decisions."""
    folders = [ROOT, Path(__file__).parent]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, str(rank), str(tmp_path / "meeting")],
            env={
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "PYTHONPATH": ":".join(map(str, folders)),
                "PATH": "",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in started]
    assert said == ["[5, 5, 7, 7, 9, 9] 3 10"] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "advantage 'gae' compares no group; expected one of grpo, dr_grpo"),
        (["ppo.advantage='reinforce++'"], "'reinforce\\+\\+' compares no group"),
        (
            [
                "ppo.advantage='grpo'",
                "ppo.group_size=4",
                "ppo.max_rollout_age=1",
                "ppo.importance_cap=2.0",
            ],
            "with max_rollout_age 1.*set max_rollout_age to 0",
        ),
        (["ppo.dynamic_sampling.max_rounds=0"], "greater than 0"),
        (["ppo.dynamic_sampling.min_spread=-1"], "greater than or equal to 0"),
    ],
)
def test_dynamic_sampling_that_cannot_work_is_refused(settings, message):
    given = ["ppo.critic_warmup_steps=0", "ppo.dynamic_sampling.max_rounds=3", *settings]
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", given)


def test_dynamic_sampling_is_off_by_default_and_taken_where_it_fits():
    assert load_recipe("quickstart", []).ppo.dynamic_sampling is None
    settings = ["advantage='grpo'", "group_size=4", "critic_warmup_steps=0"]
    settings += ["dynamic_sampling.max_rounds=3"]
    found = load_recipe("quickstart", [f"ppo.{setting}" for setting in settings]).ppo
    assert found.dynamic_sampling == DynamicSampling(max_rounds=3)
