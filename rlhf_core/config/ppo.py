"""The ppo section: its keys, and the checks that they fit together."""

from pydantic import model_validator

from rlhf_core.config.ppo_options import GROUP_ESTIMATORS, AdvantageEstimator, PPOOptions
from rlhf_core.objectives.choices import CLIP_RANGES, WIDEST_GSPO_CLIP, LossAggregation, PolicyLoss

# as the method's paper has it: DeepSeekMath's eq. 3, Liu et al. 2025 ("Dr. GRPO"); others: tokens
AGGREGATIONS: dict[AdvantageEstimator | PolicyLoss, LossAggregation] = {
    "grpo": "sequences",
    "dr_grpo": "constant",
    "gspo": "sequences",
    "cispo": "tokens",
}


class PPO(PPOOptions):
    """Policy optimisation against the reward model."""

    @property
    def has_critic(self) -> bool:
        """True if values are learned."""
        return self.advantage == "gae"

    @property
    def recomputes_old_logprobs(self) -> bool:
        """True if the actor scores the responses before the update."""
        return self.old_logprobs == "recompute"

    @property
    def aggregation(self) -> LossAggregation:
        """The aggregation of the policy loss: the recipe's, or that of the method's paper."""
        method = self.advantage if self.policy_loss == "clip" else self.policy_loss
        return self.loss_aggregation or AGGREGATIONS.get(method, "tokens")

    @property
    def clip_range(self) -> tuple[float, float]:
        """The distances below and above 1 at which the policy loss clips its ratio."""
        low, high = CLIP_RANGES[self.policy_loss]
        if self.clip is not None:
            low = high = self.clip
        return low, high if self.clip_high is None else self.clip_high

    @model_validator(mode="after")
    def _fits_together(self) -> "PPO":
        if self.rollout_batch % self.group_size:
            raise ValueError(
                f"rollout_batch {self.rollout_batch} is not a multiple of group_size"
                f" {self.group_size}; set rollout_batch to one, e.g."
                f" {self.group_size * -(-self.rollout_batch // self.group_size)}"
            )
        if self.advantage in GROUP_ESTIMATORS and self.group_size < 2:
            raise ValueError(
                f"advantage {self.advantage!r} compares responses to one prompt, of which there is"
                f" {self.group_size}; expected group_size of 2 or more"
            )
        if self.critic_warmup_steps and not self.has_critic:
            raise ValueError(
                f"critic_warmup_steps {self.critic_warmup_steps}, but advantage {self.advantage!r}"
                " has no critic"
            )
        if self.truncated == "bootstrap" and not self.has_critic:
            raise ValueError(
                f"truncated 'bootstrap' takes the critic's value at the cut, but advantage"
                f" {self.advantage!r} has no critic; set truncated to 'terminal', or advantage to"
                " 'gae'"
            )
        if self.truncated == "bootstrap" and self.overlong == "mask":
            raise ValueError(
                "overlong 'mask' leaves truncated responses out of the losses, so that truncated"
                " 'bootstrap' changes nothing; set overlong to 'keep', or truncated to 'terminal'"
            )
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                "kl_in 'loss' with kl_estimator 'k1' has an expected gradient of 0; expected k2"
                " or k3"
            )
        if self.kl_controller == "adaptive" and self.beta == 0:
            raise ValueError(
                "kl_controller 'adaptive' multiplies beta, and 0 stays 0; set beta above 0, or"
                " 'fixed'"
            )
        return self

    @model_validator(mode="after")
    def _prompts_can_be_shared(self) -> "PPO":
        if self.share_prompts and not (self.packing and self.group_size > 1):
            raise ValueError(
                f"share_prompts with packing {str(self.packing).lower()} and group_size"
                f" {self.group_size}: responses to one prompt share it in packed rows; set packing"
                " to true and group_size to 2 or more, or leave share_prompts out"
            )
        return self

    @model_validator(mode="after")
    def _clips_belong_to_the_loss(self) -> "PPO":
        if self.dual_clip is not None and self.policy_loss != "clip":
            raise ValueError(
                f"dual_clip {self.dual_clip:g} with policy_loss {self.policy_loss!r}, which has no"
                " dual clip; leave dual_clip out, or set policy_loss to 'clip'"
            )
        if self.policy_loss == "gspo" and max(self.clip_range) > WIDEST_GSPO_CLIP:
            low, high = self.clip_range
            raise ValueError(
                f"policy_loss 'gspo' with a clip at 1 - {low:g} and 1 + {high:g}: the ratio of a"
                " response is a mean over its tokens and stays near 1, so that hardly any would be"
                f" clipped; expected at most {WIDEST_GSPO_CLIP:g}. Set clip and clip_high to none"
                " for 0.0003 and 0.0004"
            )
        return self

    @model_validator(mode="after")
    def _the_actor_learns(self) -> "PPO":
        if self.critic_warmup_steps >= self.steps:
            raise ValueError(
                f"critic_warmup_steps {self.critic_warmup_steps} of {self.steps} steps: the actor"
                f" would learn nothing; set critic_warmup_steps to at most {self.steps - 1}, or"
                f" steps to at least {self.critic_warmup_steps + 1}"
            )
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} of {self.steps} steps: policy_lr would never be"
                f" reached; set warmup_steps to at most {self.steps}"
            )
        return self

    @model_validator(mode="after")
    def _adapter_does_not_drop(self) -> "PPO":
        if self.lora and self.lora.dropout:
            raise ValueError(
                f"lora.dropout {self.lora.dropout:g} would move the probability ratio away from 1"
                " before anything is learnt; expected 0 in PPO"
            )
        return self

    @model_validator(mode="after")
    def _layout_is_possible(self) -> "PPO":
        if self.reference == "adapter-off" and not self.lora:
            raise ValueError(
                "reference 'adapter-off' without lora: there is no adapter to switch off; set lora"
                " or 'copy'"
            )
        if self.sampling.adapter_sync and not self.lora:
            raise ValueError(
                "sampling.adapter_sync without lora: there is no adapter to send; set lora, or"
                " leave adapter_sync out"
            )
        if self.critic == "shared" and not self.has_critic:
            raise ValueError(f"critic 'shared', but advantage {self.advantage!r} has no critic")
        if not self.reward.model_weight and (
            self.reward_trunk != "own" or self.uncertainty_penalty
        ):
            raise ValueError(
                "reward.model_weight 0 loads no reward model, but reward_trunk is"
                f" {self.reward_trunk!r} and uncertainty_penalty {self.uncertainty_penalty:g};"
                " expected 'own' and 0"
            )
        if self.uncertainty_penalty and self.reward.model_at != "last":
            raise ValueError(
                f"uncertainty_penalty {self.uncertainty_penalty:g} with reward.model_at"
                f" {self.reward.model_at!r}: it is about the score of a whole response, and process"
                " rewards have none; set model_at to 'last', or the penalty to 0"
            )
        if not self.reward.model_weight and self.reward_check:
            raise ValueError(
                "reward_check watches a reward model, but reward.model_weight 0 loads none; remove"
                " one of them"
            )
        if self.critic == "shared" and self.zero_stage == 3:
            raise ValueError(
                "zero_stage 3 with critic 'shared': not tried yet; set zero_stage to 2, or critic"
                " to 'separate'"
            )
        return self

    @model_validator(mode="after")
    def _frozen_models_can_be_shared_out(self) -> "PPO":
        if self.frozen == "sharded" and self.zero_stage != 3:
            raise ValueError(
                f"frozen 'sharded' with zero_stage {self.zero_stage}: weights are shared out by"
                " ZeRO 3; set zero_stage to 3, or frozen to 'whole'"
            )
        if self.frozen == "sharded" and self.reward_trunk == "reference":
            raise ValueError(
                "frozen 'sharded' with reward_trunk 'reference': the trunk that both share is whole"
                " on each rank; set frozen to 'whole', or reward_trunk to 'own'"
            )
        return self

    @property
    def shares_critic(self) -> bool:
        """True if values come from a head on the actor's trunk."""
        return self.has_critic and self.critic == "shared"

    @model_validator(mode="after")
    def _old_logprobs_are_known(self) -> "PPO":
        if self.recomputes_old_logprobs:
            return self
        if self.importance_cap is not None:
            raise ValueError(
                f"old_logprobs 'sampler' with importance_cap {self.importance_cap:g}: the ratio of"
                " the policy loss is already trainer / sampler probability, so that the weight"
                " would be 1 at every token; leave importance_cap out, or set old_logprobs to"
                " 'recompute'"
            )
        if self.kl_exact:
            raise ValueError(
                "old_logprobs 'sampler' with kl_exact: the KL over the vocabulary needs the actor's"
                " logits before the update, and no pass makes them; set old_logprobs to"
                " 'recompute', or leave kl_exact out"
            )
        return self

    @model_validator(mode="after")
    def _old_rollouts_are_corrected_for(self) -> "PPO":
        block, own = self.rollout_block, self.sampling.own_devices
        if own and self.max_rollout_age > 1:
            raise ValueError(
                f"max_rollout_age {self.max_rollout_age} with sampling.own_devices {own}: one"
                " rollout is generated ahead, so that no response is older than 1 step; set"
                " max_rollout_age to 1"
            )
        if self.max_rollout_age and self.importance_cap is None and self.recomputes_old_logprobs:
            raise ValueError(
                f"max_rollout_age {self.max_rollout_age} without importance_cap: responses of older"
                " weights would count as the actor's own; set importance_cap, e.g. 2.0,"
                " old_logprobs 'sampler', or max_rollout_age 0"
            )
        for name, asks in (("reward_check", self.reward_check), ("evaluation", self.evaluation)):
            if asks and (asks.every % block or self.steps % block):
                raise ValueError(
                    f"{name}.every {asks.every} and steps {self.steps} are not both multiples of"
                    f" max_rollout_age + 1 = {block}: it would ask a sampler with older weights"
                )
        if self.checkpoint_every % block:
            raise ValueError(
                f"checkpoint_every {self.checkpoint_every} is not a multiple of max_rollout_age + 1"
                f" = {block}: a resumed stage could not generate the waiting responses again;"
                f" expected e.g. {block * -(-self.checkpoint_every // block)}"
            )
        if self.importance_level == "sequence" and self.importance_cap is None:
            raise ValueError(
                "importance_level 'sequence' without importance_cap changes nothing; set"
                " importance_cap, e.g. 2.0"
            )
        return self

    @model_validator(mode="after")
    def _length_penalty_can_bite(self) -> "PPO":
        free, most = self.reward.length_free, self.sampling.max_new_tokens
        if free >= most:
            raise ValueError(
                f"reward.length_free {free} is no less than sampling.max_new_tokens {most}: no"
                f" response would be penalised; expected at most {most - 1}"
            )
        return self

    @model_validator(mode="after")
    def _dynamic_sampling_is_possible(self) -> "PPO":
        if self.dynamic_sampling and self.advantage not in GROUP_ESTIMATORS:
            raise ValueError(
                f"dynamic_sampling drops groups of equal rewards, but advantage"
                f" {self.advantage!r} compares no group; expected one of"
                f" {', '.join(GROUP_ESTIMATORS)}, or no dynamic_sampling"
            )
        if self.dynamic_sampling and self.max_rollout_age:
            raise ValueError(
                f"dynamic_sampling with max_rollout_age {self.max_rollout_age}: the prompts of a"
                " step are known only when the step before has its rewards; set max_rollout_age"
                " to 0"
            )
        return self

    @model_validator(mode="after")
    def _overlong_penalty_fits(self) -> "PPO":
        most = self.sampling.max_new_tokens
        if self.overlong_buffer > most:
            raise ValueError(
                f"overlong_buffer {self.overlong_buffer} is more than sampling.max_new_tokens"
                f" {most}: it is the last part of that; expected at most {most}"
            )
        if self.overlong_coef != 1 and not self.overlong_buffer:
            raise ValueError(
                f"overlong_coef {self.overlong_coef:g}, but overlong_buffer 0 switches the penalty"
                " off; set overlong_buffer, e.g. a fifth of max_new_tokens"
            )
        return self

    @model_validator(mode="after")
    def _minibatches_are_equal(self) -> "PPO":
        if self.rollout_batch % self.minibatches:
            raise ValueError(
                f"rollout_batch {self.rollout_batch} cannot be split into {self.minibatches} equal"
                " minibatches; set one of them so that the second divides the first"
            )
        return self
