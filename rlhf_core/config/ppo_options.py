"""The keys of policy optimisation, one by one; config/ppo.py checks that they fit together."""

from typing import Annotated, Literal

from pydantic import Field

from rlhf_core.config.fields import FrozenPlacement, NonNegative, Positive, Rate, Share
from rlhf_core.config.gates import PPOGate
from rlhf_core.config.judge import RewardCheck
from rlhf_core.config.ppo_evaluation import PPOEvaluation
from rlhf_core.config.rewards import Rewards
from rlhf_core.config.sampling import DynamicSampling, Sampling
from rlhf_core.config.training import Training
from rlhf_core.objectives.choices import LossAggregation, PolicyLoss

AdvantageEstimator = Literal[
    "gae", "grpo", "dr_grpo", "rloo", "reinforce++", "reinforce++-baseline"
]
Truncated = Literal["terminal", "bootstrap"]
GROUP_ESTIMATORS = ("grpo", "dr_grpo", "rloo", "reinforce++-baseline")


class PPOOptions(Training):
    """The keys of the ppo section."""

    steps: Positive = Field(50, description="Rounds of rollout and update.")
    rollout_batch: Positive = Field(64, description="Responses per step.")
    share_prompts: bool = Field(
        False,
        description=(
            "Read a prompt once for the responses of its group, in scoring and update. Needs"
            " packing and a group_size of 2 or more."
        ),
    )
    minibatches: Positive = Field(
        4, description="Optimizer steps per epoch: rollout_batch is split into this number."
    )
    epochs: Positive = Field(4, description="Passes over one rollout.")
    policy_lr: Rate = Field(1e-6, description="Learning rate of the actor, constant after warm-up.")
    critic_lr: Rate = Field(
        1e-5, description="Learning rate of the critic, constant after warm-up."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="Steps in which the actor's learning rate rises linearly."
    )
    critic_warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="First steps, in which only the critic learns."
    )
    beta: NonNegative = Field(0.05, description="KL coefficient, score per nat.")
    kl_controller: Literal["fixed", "adaptive"] = Field(
        "fixed",
        description="'fixed': beta stays. 'adaptive': beta follows Ziegler et al. 2019, eq. 3.",
    )
    kl_target: Annotated[float, Field(gt=0)] = Field(
        6.0, description="KL that the adaptive controller aims at, nats per response."
    )
    kl_horizon: Positive = Field(
        10_000, description="Responses over which adaptive beta may change by a factor of e^0.2."
    )
    kl_budget: Annotated[float, Field(gt=0)] = Field(
        100.0,
        description=(
            "Largest KL from the SFT model in one step, nats per response. Above it, the stage"
            " stops."
        ),
    )
    kl_estimator: Literal["k1", "k2", "k3"] = Field(
        "k1", description="Estimator of the KL from sampled tokens, in nats (Schulman 2020)."
    )
    kl_in: Literal["reward", "loss"] = Field(
        "reward",
        description=(
            "'reward': beta times KL is subtracted from each token's reward. 'loss': it is added to"
            " the policy loss (k2 or k3 only)."
        ),
    )
    kl_exact: bool = Field(
        False,
        description=(
            "Also log the KL over the whole vocabulary. This keeps a second tensor of logits."
        ),
    )
    max_kl_update: float | None = Field(
        None,
        gt=0,
        description=(
            "Largest KL from the actor before the step, nats per token (k3). The minibatch that"
            " exceeds it is the actor's last in the step (Spinning Up stops at 0.015). None: off."
        ),
    )
    policy_loss: PolicyLoss = Field(
        "clip",
        description=(
            "Loss of a response token. 'clip': PPO's clipped surrogate. 'gspo': the same by the"
            " response's ratio. 'cispo': log-probability weighted by the clipped ratio."
        ),
    )
    clip: float | None = Field(
        None,
        gt=0,
        lt=1,
        description=(
            "Distance below 1 at which the probability ratio is clipped. None: 0.2; 'gspo' 0.0003,"
            " 'cispo' no lower bound."
        ),
    )
    clip_high: float | None = Field(
        None,
        gt=0,
        description=(
            "Distance above 1 at which the ratio is clipped. None: the same as clip; without clip"
            " 0.2, 'gspo' 0.0004, 'cispo' 4 (a weight of at most 5)."
        ),
    )
    dual_clip: float | None = Field(
        None,
        gt=1,
        description=(
            "With policy_loss 'clip': where the advantage is below 0, the loss is at most this"
            " times |advantage|. None: off."
        ),
    )
    old_logprobs: Literal["recompute", "sampler"] = Field(
        "recompute",
        description=(
            "Old log-probabilities of the probability ratio. 'recompute': the actor scores the"
            " responses once more before the update. 'sampler': those of the sampler, without that"
            " pass; the ratio is then trainer / sampler probability."
        ),
    )
    importance_cap: float | None = Field(
        None,
        ge=1,
        description=(
            "Weight of token losses: min(trainer / sampler probability, this cap). None: the"
            " sampler counts as exact."
        ),
    )
    importance_level: Literal["token", "sequence"] = Field(
        "token",
        description=(
            "Ratio that importance_cap bounds. 'token': each token's own. 'sequence': at every"
            " token of a response, the product over the response."
        ),
    )
    max_rollout_age: Annotated[int, Field(ge=0)] = Field(
        0,
        description=(
            "Steps by which responses may be older than the weights that learn from them. Responses"
            " of this number + 1 steps are generated at once, then the sampler gets new weights."
            " With own_devices, 1 generates the next step's responses during this step's update."
        ),
    )
    value_clip: float | None = Field(
        0.2, gt=0, description="Clip of the change in value, in units of score. None: off."
    )
    entropy_coef: NonNegative = Field(0.0, description="Coefficient of the entropy bonus.")
    advantage: AdvantageEstimator = Field(
        "gae",
        description=(
            "Advantage estimator. 'gae' learns a critic. The others compare responses and have no"
            " critic."
        ),
    )
    loss_aggregation: LossAggregation | None = Field(
        None,
        description=(
            "How the policy loss of a minibatch adds up its token losses. 'tokens': mean over all"
            " response tokens. 'sequences': mean over responses of each one's mean. 'constant': sum"
            " / (responses * sampling.max_new_tokens). None: 'sequences' for advantage 'grpo',"
            " 'constant' for 'dr_grpo', else 'tokens'; with policy_loss 'gspo' 'sequences', with"
            " 'cispo' 'tokens'."
        ),
    )
    group_size: Positive = Field(
        1, description="Responses per prompt. rollout_batch must be a multiple of it."
    )
    critic: Literal["separate", "shared"] = Field(
        "separate",
        description=(
            "Critic of 'gae'. 'separate': a model of its own, made from the reward model. 'shared':"
            " a value head on the actor's trunk."
        ),
    )
    value_coef: Annotated[float, Field(gt=0)] = Field(
        0.1,
        description=(
            "Weight of the value loss beside the policy loss, for a shared critic (vf_coef of trl"
            " 0.11.4)."
        ),
    )
    reference: Literal["copy", "adapter-off"] = Field(
        "copy",
        description=(
            "Reference model. 'copy': the SFT model in memory once more. 'adapter-off' (with lora):"
            " the actor with its adapter switched off."
        ),
    )
    reward_trunk: Literal["own", "reference"] = Field(
        "own",
        description=(
            "'own': the whole reward model. 'reference': its adapter (reward.lora) on the"
            " reference's weights."
        ),
    )
    frozen: FrozenPlacement = Field(
        "whole",
        description=(
            "Weights of the reference and the reward model. 'whole': on each rank. 'sharded':"
            " divided among the ranks like the actor's (zero_stage 3)."
        ),
    )
    gamma: Share = Field(1.0, description="Discount of 'gae' and 'reinforce++'.")
    gae_lambda: Share = Field(0.95, description="Lambda of 'gae'.")
    whiten_advantages: bool = Field(
        True,
        description=(
            "Give the advantages of 'gae' zero mean and unit standard deviation over the rollout's"
            " response tokens."
        ),
    )
    missing_eos_penalty: NonNegative = Field(
        1.0, description="Score subtracted from a response without an end-of-text token."
    )
    truncated: Truncated = Field(
        "terminal",
        description=(
            "Value of a response that max_new_tokens cuts. 'terminal': its score, as of one that"
            " ended. 'bootstrap' (advantage 'gae'): the critic's value at the cut, in place of its"
            " score."
        ),
    )
    overlong: Literal["keep", "mask"] = Field(
        "keep",
        description=(
            "'mask': a response that max_new_tokens cuts counts in no loss (DAPO's overlong"
            " filtering). Its reward still counts in the baseline of its group. 'keep': it counts."
        ),
    )
    overlong_buffer: Annotated[int, Field(ge=0)] = Field(
        0,
        description=(
            "Soft overlong penalty of DAPO: over the last tokens of this number before"
            " max_new_tokens it rises linearly from 0 to overlong_coef. 0: off."
        ),
    )
    overlong_coef: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Soft overlong penalty at max_new_tokens, score."
    )
    uncertainty_penalty: NonNegative = Field(
        0.0,
        description=(
            "This times the variance over the ensemble's members is subtracted from the score."
            " Unit: 1 / score (0.1: Coste et al. 2023)."
        ),
    )
    reward_check: RewardCheck | None = Field(
        None, description="Check of the reward model on the policy's own replies. None: off."
    )
    evaluation: PPOEvaluation | None = Field(
        None, description="Evaluation of the policy during PPO. None: off."
    )
    reward: Rewards = Field(Rewards(), description="Rewards of replies.")
    dynamic_sampling: DynamicSampling | None = Field(
        None,
        description=(
            "Drop groups whose rewards are all equal, and sample new prompts until the batch is"
            " full; for advantages that compare a group. None: off."
        ),
    )
    sampling: Sampling = Field(Sampling(), description="Sampling of replies.")
    checkpoint_every: Positive = Field(10, description="Steps between checkpoints.")
    gate: PPOGate = Field(PPOGate(), description="Thresholds of the stage's gates.")

    @property
    def generates_ahead(self) -> bool:
        """True if a step's responses are generated while the step before is learned."""
        return bool(self.sampling.own_devices and self.max_rollout_age)

    @property
    def rollout_block(self) -> int:
        """Steps whose responses are generated at once, before the sampler gets new weights."""
        return 1 if self.generates_ahead else self.max_rollout_age + 1
