"""The policy optimisation stage, and how replies are sampled."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlhf_core.config.fields import Config, FrozenPlacement, NonNegative, Positive, Rate, Share
from rlhf_core.config.gates import PPOGate
from rlhf_core.config.judge import RewardCheck
from rlhf_core.config.rewards import Rewards
from rlhf_core.config.training import Training


class Sampling(Config):
    engine: Literal["vllm", "transformers"] = Field(
        "vllm",
        description=(
            "What generates; 'transformers': for machines without vLLM, slower. Never one in place"
            " of the other"
        ),
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        1.0, description="1.0: samples come from the policy itself"
    )
    max_new_tokens: Positive = Field(64, description="Tokens a response, EOS included")
    kv_cache_mib: Positive = Field(
        512, description="Key-value cache of the sampler on each device, MiB"
    )
    tensor_parallel: Positive = Field(
        1, description="Devices that share one copy of the model; divides the attention heads"
    )
    own_devices: Annotated[int, Field(ge=0)] = Field(
        0,
        description=(
            "Of 'ppo': vLLM's own server on so many further devices of this host, the last of"
            " CUDA_VISIBLE_DEVICES (on a CPU: a process of its own); 0: in the training processes,"
            " on their devices"
        ),
    )
    sleep: bool = Field(
        False,
        description=(
            "vLLM gives its GPU memory back while models train (CUDA only; elsewhere it stays)"
        ),
    )

    @model_validator(mode="after")
    def _offered_by_the_engine(self) -> "Sampling":
        if self.engine == "transformers" and (
            self.tensor_parallel > 1 or self.sleep or self.own_devices
        ):
            raise ValueError(
                f"engine 'transformers' with tensor_parallel {self.tensor_parallel}, sleep"
                f" {self.sleep} and own_devices {self.own_devices}: only vLLM offers them; set"
                " engine to 'vllm', or leave them out"
            )
        return self

    @model_validator(mode="after")
    def _own_devices_are_used(self) -> "Sampling":
        if self.own_devices and self.sleep:
            raise ValueError(
                f"sleep with own_devices {self.own_devices}: nothing else wants the memory of the"
                " sampler's own devices; leave sleep out, or set own_devices to 0"
            )
        if self.own_devices % self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel {self.tensor_parallel} does not divide own_devices"
                f" {self.own_devices}; set it to a divisor, or own_devices to a multiple"
            )
        return self


AdvantageEstimator = Literal[
    "gae", "grpo", "dr_grpo", "rloo", "reinforce++", "reinforce++-baseline"
]
GROUP_ESTIMATORS = ("grpo", "dr_grpo", "rloo", "reinforce++-baseline")


class PPO(Training):
    steps: Positive = Field(50, description="Rollout-and-update rounds")
    rollout_batch: Positive = Field(64, description="Responses a step")
    minibatches: Positive = Field(
        4, description="Optimizer steps an epoch; rollout_batch is split into so many"
    )
    epochs: Positive = Field(4, description="Passes over a rollout")
    policy_lr: Rate = Field(1e-6, description="Actor learning rate, constant after warm-up")
    critic_lr: Rate = Field(1e-5, description="Critic learning rate, constant after warm-up")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="Steps in which the actor's rate rises linearly"
    )
    critic_warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="First steps in which only the critic learns"
    )
    beta: NonNegative = Field(0.05, description="KL coefficient, score per nat")
    kl_controller: Literal["fixed", "adaptive"] = Field(
        "fixed", description="'adaptive': Ziegler et al. 2019, eq. 3"
    )
    kl_target: Annotated[float, Field(gt=0)] = Field(
        6.0, description="Adaptive: KL aimed at, nats per response"
    )
    kl_horizon: Positive = Field(
        10_000, description="Adaptive: responses over which beta may change by a factor e^0.2"
    )
    kl_budget: Annotated[float, Field(gt=0)] = Field(
        100.0, description="Nats per response; beyond it the stage stops"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = Field(
        "k1", description="Of the KL from sampled tokens, nats (Schulman 2020)"
    )
    kl_in: Literal["reward", "loss"] = Field(
        "reward",
        description=(
            "beta times KL is taken off each token's reward, or added to the policy loss (k2 or k3"
            " only)"
        ),
    )
    kl_exact: bool = Field(
        False,
        description="Log the KL over the whole vocabulary too; keeps a second tensor of logits",
    )
    max_kl_update: float | None = Field(
        None,
        gt=0,
        description=(
            "The minibatch whose KL from the actor before the step exceeds this, nats/token (k3),"
            " is the actor's last in the step (Spinning Up stops at 0.015); None: off"
        ),
    )
    clip: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="Ratio clip of the surrogate"
    )
    clip_high: float | None = Field(
        None, gt=0, description="Its upper clip, ratio above 1; None: the same as clip"
    )
    dual_clip: float | None = Field(
        None, gt=1, description="Loss at most so many times |advantage| where it is < 0; None: off"
    )
    importance_cap: float | None = Field(
        None,
        ge=1,
        description=(
            "Token losses weigh min(trainer / sampler probability, this); None: the sampler counts"
            " as exact"
        ),
    )
    importance_level: Literal["token", "sequence"] = Field(
        "token",
        description=(
            "What importance_cap bounds: each token's ratio, or at all its tokens the product over"
            " a response"
        ),
    )
    max_rollout_age: Annotated[int, Field(ge=0)] = Field(
        0,
        description=(
            "Steps by which responses may be older than the weights that learn from them: those of"
            " so many + 1 steps are generated at once, and the sampler gets new weights afterwards"
        ),
    )
    value_clip: Annotated[float, Field(gt=0)] = Field(
        0.2, description="Clip of the value change, score"
    )
    entropy_coef: NonNegative = Field(0.0, description="Entropy bonus")
    advantage: AdvantageEstimator = Field(
        "gae", description="'gae' learns a critic; the others compare responses, without one"
    )
    group_size: Positive = Field(
        1, description="Responses a prompt; rollout_batch is a multiple of it"
    )
    critic: Literal["separate", "shared"] = Field(
        "separate",
        description=(
            "Of 'gae': a model of its own, made from the reward model, or a value head on the"
            " actor's trunk"
        ),
    )
    value_coef: Annotated[float, Field(gt=0)] = Field(
        0.1,
        description=(
            "Weight of the value loss beside the policy's, for a shared critic (vf_coef of trl"
            " 0.11.4)"
        ),
    )
    reference: Literal["copy", "adapter-off"] = Field(
        "copy",
        description=(
            "The SFT model in memory once more, or (with lora) the actor with its adapter"
            " switched off"
        ),
    )
    reward_trunk: Literal["own", "reference"] = Field(
        "own",
        description=(
            "The reward model whole, or its adapter (reward.lora) over the reference's weights"
        ),
    )
    frozen: FrozenPlacement = Field(
        "whole",
        description=(
            "Weights of reference and reward model: on each rank, or shared out like the actor's"
            " (zero_stage 3)"
        ),
    )
    gamma: Share = Field(1.0, description="Discount; of 'gae' and 'reinforce++'")
    gae_lambda: Share = Field(0.95, description="GAE lambda")
    whiten_advantages: bool = Field(
        True, description="'gae': zero mean and unit spread over the rollout's response tokens"
    )
    missing_eos_penalty: NonNegative = Field(
        1.0, description="Taken off the score of a response without end-of-text"
    )
    uncertainty_penalty: NonNegative = Field(
        0.0,
        description=(
            "Times the variance over the ensemble's members, taken off the score; 1 / score (0.1:"
            " Coste et al. 2023)"
        ),
    )
    reward_check: RewardCheck | None = Field(
        None, description="Watch the reward model on the policy's own replies; None: off"
    )
    reward: Rewards = Rewards()
    sampling: Sampling = Sampling()
    checkpoint_every: Positive = Field(10, description="Steps between checkpoints")
    gate: PPOGate = PPOGate()

    @property
    def has_critic(self) -> bool:
        """Whether values are learned."""
        return self.advantage == "gae"

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
        """Whether values come from a head on the actor's trunk."""
        return self.has_critic and self.critic == "shared"

    @model_validator(mode="after")
    def _old_rollouts_are_corrected_for(self) -> "PPO":
        block = self.max_rollout_age + 1
        if block > 1 and self.importance_cap is None:
            raise ValueError(
                f"max_rollout_age {self.max_rollout_age} without importance_cap: responses of older"
                " weights would count as the actor's own; set importance_cap, e.g. 2.0, or"
                " max_rollout_age 0"
            )
        if self.reward_check and (self.reward_check.every % block or self.steps % block):
            raise ValueError(
                f"reward_check.every {self.reward_check.every} and steps {self.steps} are not both"
                f" multiples of max_rollout_age + 1 = {block}: a check would ask a sampler with"
                " older weights"
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
    def _minibatches_are_equal(self) -> "PPO":
        if self.rollout_batch % self.minibatches:
            raise ValueError(
                f"rollout_batch {self.rollout_batch} cannot be split into {self.minibatches} equal"
                " minibatches; set one of them so that the second divides the first"
            )
        return self
