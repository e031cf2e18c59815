"""What PPO rewards: the reward model, functions of the user's own, and how their weighted sum is
shaped.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from rlhf_core.config.fields import Config, Finite, NonNegative
from rlhf_core.metric_table import MAX_FUNCTIONS


class RewardFunction(Config):
    """A rule or verifier. A plain string is short for `{function = "..."}`."""

    function: str = Field(
        pattern=r"^[\w.]+:\w+$",
        description=(
            "'module:function' with (prompts, replies) in, one score a reply out; what it raises"
            " ends the stage"
        ),
    )
    weight: Finite = Field(
        1.0, description="Factor of its scores in the sum; below 0 it is a penalty"
    )
    per_token: bool = Field(
        False,
        description=(
            "It gets (prompts, replies, tokens) and gives a list a reply, one reward a token"
            " (process reward)"
        ),
    )
    columns: list[str] = Field(
        [], description="Columns of data.prompts that it gets as keyword arguments, e.g. ['answer']"
    )

    @field_validator("weight")
    @classmethod
    def _counts(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError(
                "a function of weight 0 would run and count for nothing; expected another weight,"
                " or no function"
            )
        return weight


def _function(value: object) -> object:
    return {"function": value} if isinstance(value, str) else value


class Rewards(Config):
    """Per response: sum of weighted scores; minus the running mean, over the running deviation,
    clipped; minus penalties.
    """

    model_weight: NonNegative = Field(
        1.0, description="Factor of the reward model's scores; 0: it is not even loaded"
    )
    model_at: Literal["last", "every", "difference"] = Field(
        "last",
        description=(
            "'last': the reward model's score after the last token. Process rewards: 'every': its"
            " head at each token (a token-level reward model); 'difference': by how much each token"
            " changed it (Ng et al. 1999)"
        ),
    )
    functions: Annotated[
        list[Annotated[RewardFunction, BeforeValidator(_function)]], Field(max_length=MAX_FUNCTIONS)
    ] = Field(
        [],
        description="Rule or verifiable rewards, alone (model_weight 0) or beside the reward model",
    )
    centre: bool = Field(
        False,
        description=(
            "Take the running mean of all responses' scores so far off each response's score"
        ),
    )
    scale: bool = Field(
        False,
        description=(
            "Divide scores by their running standard deviation (trl 0.11.4, use_score_scaling)"
        ),
    )
    clip: float | None = Field(
        None,
        gt=0,
        description="A response's score, and each process reward, lies within +- this; None: off",
    )
    length_penalty: NonNegative = Field(
        0.0, description="Score taken off for each token beyond length_free"
    )
    length_free: Annotated[int, Field(ge=0)] = Field(
        0,
        description=(
            "Response tokens that cost nothing. Soft overlong punishment of DAPO: penalty 1 / n,"
            " free: limit - n"
        ),
    )

    @property
    def has_process(self) -> bool:
        """Whether tokens have rewards of their own."""
        return any(one.per_token for one in self.functions) or (
            self.model_weight > 0 and self.model_at != "last"
        )

    @model_validator(mode="after")
    def _something_counts(self) -> "Rewards":
        if self.model_weight == 0 and not self.functions:
            raise ValueError(
                "model_weight 0 and no functions: nothing is rewarded; expected functions, or a"
                " weight above 0"
            )
        if self.length_free and not self.length_penalty:
            raise ValueError(
                f"length_free {self.length_free}, but length_penalty is 0; expected a penalty per"
                " token above 0"
            )
        return self
