"""The rollouts of a stage's steps: each generated when it is due, or one step ahead.

Ahead (`PPO.generates_ahead`), the sampler has devices of its own and generates the rollout of step
k + 1 while step k is learned, with the weights after step k - 1:

    sampler   1 | 2      | sync | 3      | sync | 4 ...
    learner     | learn 1| sync | learn 2| sync | ...

It gets weights between two rollouts alone. A rollout is therefore a function of seed and step. Two
runs give the same bits on a CPU, with one replica and at most CONNECTIONS (512) responses per step:
beyond these, requests of one rollout reach the engine while it computes others. At most one rollout
waits; a checkpoint holds it.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

from rlhf_core.batching.collective import gathered
from rlhf_core.config import PPO
from rlhf_core.ppo.prompts import Prompt
from rlhf_core.ppo.rollout import Generated, Rollout, requests_of, rollouts_of
from rlhf_core.ppo.state import Resumed
from rlhf_core.ppo.trainer import Trainer
from rlhf_core.ranks import is_rank_zero
from rlhf_core.sampling.draw import draw_own, of_all_ranks
from rlhf_core.sampling.server_process import CONNECTIONS

THREAD = "rollout"  # begin of its name


class Rollouts:
    """The rollouts of the steps that are left, in order; a block that ends its thread.

    pending: the responses of the next step, generated ahead; None while there are none.
    """

    def __init__(self, trainer: Trainer, resumed: Resumed):
        self.pending = resumed.pending
        self._trainer, self._step, self._cursor = trainer, resumed.step, resumed.state.cursor
        self._waited = 0.0  # seconds that the learner waited for the pending responses
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=THREAD)
        self._next: Future[Generated] | None = None
        _say_if_requests_queue(trainer.config)

    def __enter__(self) -> "Rollouts":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._next and not self._next.done():
            self._trainer.sampler.close()  # the stage has failed; else its requests would go on
        self._pool.shutdown()

    def __iter__(self) -> Iterator[tuple[int, Rollout]]:
        """Yield each step to the last with its rollout.

        A step ends, in the timeline, when the next one is asked for.
        """
        return self._ahead() if self._trainer.config.generates_ahead else self._in_turn()

    def _in_turn(self) -> Iterator[tuple[int, Rollout]]:
        """Generate the rollouts of `rollout_block` steps together, when the first is due.

        The later ones are older by a step each.
        """
        trainer, cursor, found = self._trainer, self._cursor, dict[int, Rollout]()
        last = trainer.config.steps
        for step in range(self._step + 1, last + 1):
            with trainer.timeline.span("step", step):
                if not found:
                    steps = min(trainer.config.rollout_block, last - step + 1)
                    with trainer.timeline.span("wait", step):
                        found = trainer.roll_out(step, cursor, steps=steps)
                    cursor = found[max(found)].cursor
                    trainer.sampler.sleep()
                yield step, found.pop(step)

    def _ahead(self) -> Iterator[tuple[int, Rollout]]:
        """Begin to generate the next step's rollout before a step is learned."""
        trainer, cursor = self._trainer, self._cursor
        for step in range(self._step + 1, trainer.config.steps + 1):
            with trainer.timeline.span("step", step):
                rollout = self._due(step, cursor)
                cursor = rollout.cursor
                if step < trainer.config.steps:
                    self._next = self._pool.submit(self._generate, step + 1, cursor)
                yield step, rollout

    def _due(self, step: int, cursor: int) -> Rollout:
        """Return the pending rollout; the first one of a stage is generated now."""
        trainer, pending = self._trainer, self.pending
        if pending is None:
            with trainer.timeline.span("wait", step):
                found = trainer.roll_out(step, cursor)[step]
            return replace(found, waited=found.seconds)
        self.pending = None
        prompts = self._prompts(step, cursor)
        found = rollouts_of(prompts, pending.samples, seconds=pending.seconds)[step]
        return replace(found, age=1, cursor=cursor + trainer.groups, waited=self._waited)

    def _prompts(self, step: int, cursor: int) -> dict[int, list[Prompt]]:
        return {step: self._trainer.prompts_at(cursor, self._trainer.groups)}

    def _generate(self, step: int, cursor: int) -> Generated:
        """Return this rank's share of a step's responses; run by the thread."""
        trainer, started = self._trainer, time.monotonic()
        asked, seeds = requests_of(self._prompts(step, cursor), seed=trainer.seed)
        eos_id = trainer.tokenizer.eos_token_id
        with trainer.timeline.span("generate", step, "sampler"):
            drawn = draw_own(trainer.sampler, asked, seeds=seeds, eos_id=eos_id)
        return Generated(drawn, time.monotonic() - started)

    def raise_error(self) -> None:
        """Raise the error with which generation ahead has ended, if it has."""
        if self._next and self._next.done():
            self._next.result()

    def renew_weights(self, step: int) -> float:
        """Give the sampler the weights after `step` when they are due; return the seconds, else 0.

        Waits for the rollout that is generated ahead; all ranks take part. Raises its error.
        """
        self._collect(step + 1)
        due = step % self._trainer.config.rollout_block == 0
        return self._trainer.sync(step) if due else 0.0

    def _collect(self, step: int) -> None:
        if self._next is None:
            return
        started = time.monotonic()
        with self._trainer.timeline.span("wait", step):
            drawn = self._next.result()
            self._next = None
            samples = of_all_ranks(self._trainer.sampler, drawn.samples)
            seconds = max(gathered(drawn.seconds))  # a rank that asked no sampler has about 0
        self.pending = Generated(samples, seconds)
        self._waited = time.monotonic() - started


def _say_if_requests_queue(config: PPO) -> None:
    if config.sampling.own_devices and config.rollout_batch > CONNECTIONS and is_rank_zero():
        print(
            f"ppo.rollout_batch {config.rollout_batch} is more than the {CONNECTIONS} requests that"
            " the sampler's server has at once: two runs may differ in the last bits"
        )
