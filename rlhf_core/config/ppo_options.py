"""The options of policy optimisation, each by itself."""

from typing import Annotated, Literal

from pydantic import Field

from rlhf_core.config.fields import FrozenPlacement, NonNegative, Positive, Rate, Share
from rlhf_core.config.gates import PPOGate
from rlhf_core.config.judge import RewardCheck
from rlhf_core.config.rewards import Rewards
from rlhf_core.config.sampling import Sampling
from rlhf_core.config.training import Training

AdvantageEstimator = Literal[
    "gae", "grpo", "dr_grpo", "rloo", "reinforce++", "reinforce++-baseline"
]
GROUP_ESTIMATORS = ("grpo", "dr_grpo", "rloo", "reinforce++-baseline")


class PPOOptions(Training):
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
