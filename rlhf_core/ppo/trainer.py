"""The PPO trainer: models, sampler and prompts, and the parts of a step that need them."""

import time
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.config import PPO
from rlhf_core.config.recipe import Dtype
from rlhf_core.config.stage_configs import PPOStageConfig
from rlhf_core.data.splits import load_split
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine.base import Engine
from rlhf_core.errors import Diverged
from rlhf_core.modeling.half import saved_dtype
from rlhf_core.modeling.lora import plain_tensors, save_adapter
from rlhf_core.modeling.mapped_weights import release_pages
from rlhf_core.ppo.dynamic_sampling import RewardedRollout, Wanted, fill_batch, with_rewards
from rlhf_core.ppo.experience import Experience, make_experience
from rlhf_core.ppo.layout import load_models
from rlhf_core.ppo.prompts import Prompt, PromptList, encoded_prompts
from rlhf_core.ppo.rewards import load_functions
from rlhf_core.ppo.rollout import Rollout, indices_from, left_out, roll_out
from rlhf_core.ppo.scoring import Models
from rlhf_core.ppo.state import LoopState
from rlhf_core.ppo.timeline import Timeline
from rlhf_core.rundir import RunDir, StageSpec, finite
from rlhf_core.sampling.base import Sampler
from rlhf_core.sampling.factory import open_sampler


@dataclass(frozen=True)
class ActorWeights:
    """The named tensors of the plain model, made anew in each pass over them.

    Every rank takes part in a pass.
    """

    actor: Engine

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return plain_tensors(self.actor.module.model, self.actor.weights())


@dataclass(frozen=True)
class Trainer:
    """The models, the sampler that follows the actor, and the prompts.

    left_out: the prompts of ppo.evaluation, which PPO does not see.
    """

    models: Models
    sampler: Sampler
    tokenizer: PreTrainedTokenizerBase
    prompts: Seq[Prompt]
    config: PPO
    seed: int
    left_out: Seq[Prompt] = ()
    saved_dtype: Dtype = "float32"  # of the policy that the stage gives
    timeline: Timeline = field(default_factory=Timeline)  # by default nothing is recorded

    @property
    def groups(self) -> int:
        """Prompts of one step, each with `group_size` responses."""
        return self.config.rollout_batch // self.config.group_size

    def roll_out(self, step: int, cursor: int, *, steps: int = 1) -> dict[int, Rollout]:
        """Generate responses to the prompts of a step, or of several from there on, by step.

        Each prompt comes `group_size` times, side by side. With dynamic sampling groups without a
        spread of reward give way to groups of further prompts.
        """
        options = self.config.dynamic_sampling
        if options is None:
            return self._draw(range(step, step + steps), cursor, self.groups)
        wanted = Wanted(step, self.groups, self.config.group_size, options)
        return {step: fill_batch(wanted, cursor, partial(self._round, step))}

    def _draw(
        self, steps: range, cursor: int, groups: int, *, number: int = 1
    ) -> dict[int, Rollout]:
        """Generate the responses to each step's next `groups` prompts, by step."""
        cursors = {step: cursor + place * groups for place, step in enumerate(steps)}
        prompts = {step: self.prompts_at(begin, groups) for step, begin in cursors.items()}
        eos_id = self.tokenizer.eos_token_id
        with self.timeline.span("generate", steps[0], "sampler"):
            found = roll_out(
                self.sampler, prompts, seed=self.seed, eos_id=eos_id, draw_number=number
            )
        return {
            step: replace(rollout, cursor=cursors[step] + groups) for step, rollout in found.items()
        }

    def prompts_at(self, cursor: int, groups: int) -> list[Prompt]:
        """Return the next `groups` prompts from a place on, each `group_size` times."""
        return [
            self.prompts[i]
            for i in indices_from(len(self.prompts), cursor, groups, seed=self.seed)
            for _ in range(self.config.group_size)
        ]

    def _round(self, step: int, number: int, cursor: int, groups: int) -> RewardedRollout:
        """Generate one round of dynamic sampling, and its rewards."""
        if number > 1 and self.config.sampling.sleep:
            self.sync()  # the sampler gave its weights back for the rewards of the round before
        rollout = self._draw(range(step, step + 1), cursor, groups, number=number)[step]
        self.sampler.sleep()
        return with_rewards(rollout, self.models, self.config, pad_id=self.tokenizer.pad_token_id)

    def score(self, rollout: Rollout, state: LoopState) -> Experience:
        """Return the experience that models and reward functions make of a rollout.

        Raises ValueError for a rollout that is too old.
        """
        if rollout.age > self.config.max_rollout_age:
            raise ValueError(
                f"the rollout is {rollout.age} steps old; expected at most max_rollout_age"
                f" {self.config.max_rollout_age}"
            )
        experience = make_experience(
            rollout,
            self.models,
            self.config,
            beta=state.beta,
            pad_id=self.tokenizer.pad_token_id,
            running=state.scores,
        )
        release_pages()  # of reference and reward model, which rest until the next rollout
        return experience

    def sync(self, step: int | None = None) -> float:
        """Copy the actor's weights, or its adapter, into the sampler; return the seconds.

        step: that the weights are of, for the timeline.
        """
        actor = self.models.actor
        with self.timeline.span("sync", step, "learner", "sampler"):
            if not self.config.sampling.adapter_sync:
                return self.sampler.sync(ActorWeights(actor))
            started = time.monotonic()
            save = partial(save_adapter, actor.module.model, weights=actor.learning_weights())
            gathering = time.monotonic() - started
            return gathering + self.sampler.sync_adapter(save)


def build(spec: StageSpec[PPOStageConfig], run: RunDir) -> Trainer:
    """Load everything that the PPO stage needs.

    Actor and reference both start from the input `policy`, unless an input `reference` is given.
    """
    config, dtype = spec.config.ppo, spec.config.dtype
    policy_path = spec.inputs["policy"].path
    tokenizer = load_tokenizer(policy_path)
    records = load_split(spec.inputs["prompts_train"].path)
    functions = load_functions(config.reward.functions, records, tokenizer)
    encoded = encoded_prompts(tokenizer, records, run)
    models = load_models(spec, config, functions)
    longest = max(prompt for prompt, _ in encoded.sizes)
    sampler = open_sampler(
        policy_path,
        config.sampling,
        max_prompt_tokens=longest,
        dtype=dtype,
        adapter_rank=config.lora.rank if config.lora and config.sampling.adapter_sync else 0,
    )
    wanted = config.evaluation.prompts if config.evaluation else 0
    places = left_out(len(records), wanted, seed=spec.seed)
    seen = [place for place in range(len(records)) if place not in places]
    prompts, unseen = (PromptList(encoded, records, own) for own in (seen, sorted(places)))
    saved = saved_dtype(policy_path, computed=dtype, wanted=spec.config.export_dtype)
    trainer = Trainer(models, sampler, tokenizer, prompts, config, spec.seed, unseen, saved)
    if config.sampling.adapter_sync:
        trainer.sync()  # changes nothing yet, but vLLM refuses now what it does not support
    return trainer


def check(metrics: dict[str, float], step: int, config: PPO) -> None:
    """Raise Diverged on a non-finite value, or when KL per response is over the budget."""
    if not finite(metrics):
        bad = {name: value for name, value in metrics.items() if not finite({name: value})}
        raise Diverged(
            f"ppo step {step}: {bad} is not finite. Lower ppo.policy_lr or ppo.critic_lr."
        )
    kl = metrics["ppo/kl_per_response"]
    if kl > config.kl_budget:
        raise Diverged(
            f"ppo step {step}: KL from the SFT model is {kl:.3g} nats per response, the budget is"
            f" {config.kl_budget:g}. Raise ppo.beta, lower ppo.policy_lr, or raise ppo.kl_budget."
        )
