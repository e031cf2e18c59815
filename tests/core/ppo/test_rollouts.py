"""Rollouts in turn and ahead: order of generation and new weights, errors, the end of the thread.

The sampler draws by seed alone, and keeps an account of its calls.
"""

import json
import random
import threading
import time
from pathlib import Path

import pytest
import torch
from plain import PlainEngine, no_functions

from rlhf_core.config import PPO, Sampling
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import StageFailed
from rlhf_core.modeling.models import load_policy
from rlhf_core.objectives.advantages import Moments
from rlhf_core.ppo.prompts import Prompt
from rlhf_core.ppo.rollout import Generated, Rollout
from rlhf_core.ppo.rollouts import THREAD, Rollouts
from rlhf_core.ppo.scoring import Models
from rlhf_core.ppo.state import LoopState, Resumed
from rlhf_core.ppo.timeline import TIMELINE, Timeline
from rlhf_core.ppo.trainer import Trainer
from rlhf_core.sampling.base import Sample, Sampler
from rlhf_core.sampling.server_process import CONNECTIONS

STATE = LoopState(0.1, Moments(*torch.zeros(3, dtype=torch.float64)), cursor=0)
START = Resumed(0, STATE)
AHEAD = PPO(
    steps=4,
    rollout_batch=4,
    minibatches=1,
    max_rollout_age=1,
    importance_cap=2.0,
    checkpoint_every=1,
    sampling=Sampling(max_new_tokens=4, own_devices=1),
)
IN_TURN = AHEAD.model_copy(update={"max_rollout_age": 0})


class Account(Sampler):
    """Draw by seed; list the calls. fails_at: the number of the generation that fails."""

    ranks_each = 1
    model = None

    def __init__(self, *, fails_at: int = 0, hangs_at: int = 0):
        self.calls: list[str] = []
        self._fails_at, self._hangs_at, self._closed = fails_at, hangs_at, threading.Event()

    def generate(self, prompts: list[list[int]], *, seeds: list[int], eos_id: int) -> list[Sample]:
        self.calls.append(f"generate {seeds[0]}")
        number = sum(call.startswith("generate") for call in self.calls)
        if number == self._fails_at:
            raise StageFailed("the sampler is gone")
        if number == self._hangs_at:
            assert self._closed.wait(20)
            raise StageFailed("the sampler was closed")
        rows = [
            random.Random(seed + sum(prompt)) for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return [Sample([rng.randint(6, 60), eos_id], [-rng.random(), -0.5], True) for rng in rows]

    def sleep(self) -> None:
        pass

    def sync(self, weights) -> float:
        self.calls.append("sync")
        return 0.25

    def close(self) -> None:
        self.calls.append("close")
        self._closed.set()


@pytest.fixture
def trainer(tiny_model, tmp_path):
    """Return a function that makes a trainer which learns nothing, with its sampler."""
    tokenizer, policy = load_tokenizer(tiny_model), load_policy(tiny_model)

    def made(config: PPO, sampler: Sampler) -> Trainer:
        return Trainer(
            models=Models(PlainEngine(policy), None, policy, (), no_functions),
            sampler=sampler,
            tokenizer=tokenizer,
            prompts=[Prompt([7, place], {"place": place}) for place in range(9)],
            config=config,
            seed=1,
            timeline=Timeline(tmp_path),
        )

    return made


def learned(trainer: Trainer, resumed: Resumed = START) -> list[tuple[int, Rollout]]:
    """Take all rollouts, as a stage that learns nothing."""
    found = []
    with Rollouts(trainer, resumed) as rollouts:
        for step, rollout in rollouts:
            found.append((step, rollout))
            rollouts.renew_weights(step)
    return found


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith(THREAD)]


def without_times(rollout: Rollout) -> dict:
    return {k: v for k, v in vars(rollout).items() if k not in ("seconds", "waited", "age")}


def spans(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / TIMELINE).read_text().splitlines()]


def test_ahead_each_rollout_comes_from_the_weights_before_the_last_and_none_is_made_in_vain(
    trainer,
):
    sampler = Account()
    found = learned(trainer(AHEAD, sampler))
    kinds = [call.split()[0] for call in sampler.calls]
    assert kinds == [*["generate"] * 2, *["sync", "generate"] * 2, "sync", "sync"]
    assert [rollout.age for _, rollout in found] == [0, 1, 1, 1] and not threads()
    first = found[0][1]
    assert first.waited == first.seconds > 0


def test_ahead_prompts_seeds_and_responses_are_those_in_turn(trainer):
    ahead, turn = (learned(trainer(config, Account())) for config in (AHEAD, IN_TURN))
    assert [step for step, _ in ahead] == [step for step, _ in turn] == [1, 2, 3, 4]
    for (_, one), (_, other) in zip(ahead, turn, strict=True):
        assert without_times(one) == without_times(other) and one.sequences
    assert [rollout.age for _, rollout in turn] == [0] * 4
    assert all(rollout.waited is None for _, rollout in turn)


def test_a_resumed_stage_learns_from_the_responses_that_waited_and_not_from_new_ones(trainer):
    whole = learned(trainer(AHEAD, Account()))
    responses = [
        Sample(s.response, logprobs, ended)
        for s, logprobs, ended in zip(
            whole[2][1].sequences, whole[2][1].sampler_logprobs, whole[2][1].ended, strict=True
        )
    ]
    other = [Sample([one.tokens[0] + 1], [-1.0], False) for one in responses]
    state = LoopState(0.1, STATE.scores, cursor=8)
    again = learned(trainer(AHEAD, Account()), Resumed(2, state, Generated(responses, 1.5)))
    assert [step for step, _ in again] == [3, 4]
    for (_, one), (_, theirs) in zip(again, whole[2:], strict=True):
        assert without_times(one) == without_times(theirs) and one.age == 1
    assert (again[0][1].seconds, again[0][1].waited) == (1.5, 0.0)
    (_, taken), _ = learned(trainer(AHEAD, Account()), Resumed(2, state, Generated(other, 1.5)))
    assert [s.response for s in taken.sequences] == [one.tokens for one in other]


def test_the_error_of_generation_ahead_is_raised_as_itself_and_ends_the_thread(trainer):
    for at_once in (True, False):
        made = trainer(AHEAD, Account(fails_at=2))
        with (
            pytest.raises(StageFailed, match=r"^the sampler is gone$"),
            Rollouts(made, START) as rollouts,
        ):
            step, _ = next(iter(rollouts))
            deadline = time.monotonic() + 20
            while at_once and time.monotonic() < deadline:  # between two phases of a step
                rollouts.raise_error()
            rollouts.renew_weights(step)
        assert not threads()


def test_an_error_while_the_sampler_generates_closes_it_and_leaves_no_thread(trainer):
    sampler = Account(hangs_at=2)
    started = time.monotonic()
    with pytest.raises(ValueError, match="diverged"), Rollouts(trainer(AHEAD, sampler), START) as r:
        next(iter(r))
        while sum(call.startswith("generate") for call in sampler.calls) < 2:
            time.sleep(0.01)
        r.raise_error()  # nothing yet: it works
        raise ValueError("diverged")
    assert sampler.calls[-1] == "close" and not threads() and time.monotonic() - started < 10


def test_the_timeline_has_the_spans_of_both_tracks(trainer, tmp_path):
    learned(trainer(AHEAD, Account()))
    found = spans(tmp_path)
    assert all(one["end"] >= one["start"] > 1e9 for one in found)
    of = {
        (track, name): [one["step"] for one in found if (one["track"], one["name"]) == key]
        for key in {(one["track"], one["name"]) for one in found}
        for track, name in [key]
    }
    assert of == {
        ("learner", "step"): [1, 2, 3, 4],
        ("learner", "wait"): [1, 2, 3, 4],
        ("learner", "sync"): [1, 2, 3, 4],
        ("sampler", "generate"): [1, 2, 3, 4],
        ("sampler", "sync"): [1, 2, 3, 4],
    }


def test_the_log_says_when_more_responses_than_connections_may_change_last_bits(trainer, capsys):
    for batch, lines in ((CONNECTIONS, 0), (CONNECTIONS + 4, 1)):
        with Rollouts(trainer(AHEAD.model_copy(update={"rollout_batch": batch}), Account()), START):
            assert capsys.readouterr().out.count("two runs may differ in the last bits") == lines
