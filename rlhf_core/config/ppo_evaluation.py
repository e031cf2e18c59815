"""Evaluation of the policy during PPO: the key ppo.evaluation."""

from typing import Literal

from pydantic import Field

from rlhf_core.config.fields import Config, Positive


class PPOEvaluation(Config):
    """An evaluation of the policy every few PPO steps, on prompts that PPO leaves out."""

    every: Positive = Field(
        10,
        description=(
            "PPO steps between evaluations. One more runs before the first step, one after the"
            " last."
        ),
    )
    prompts: Positive = Field(
        64,
        description=(
            "Training prompts that PPO leaves out and the evaluation answers, drawn by seed. They"
            " are not those that `evaluate` holds out, which choose no step."
        ),
    )
    scorer: str | None = Field(
        None,
        description=(
            "'module:function', or a name that an installed package offers (rlhf.rewards). It takes"
            " (prompts, replies) and returns scores. None: evaluate.independent_scorer, if there is"
            " one."
        ),
    )
    keep: Literal["last", "best"] = Field(
        "last",
        description=(
            "Policy that the stage gives: that of the last step, or of the evaluated step with the"
            " best independent score. The rewards alone choose none."
        ),
    )
    patience: Positive | None = Field(
        None,
        description=(
            "PPO stops after this number of evaluations in a row in which the independent score is"
            " below its best and the rewards are above what they were there. None: it does not."
        ),
    )
