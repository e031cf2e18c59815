"""The rewards of PPO: the reward model, the user's own functions, and the shaping of their sum."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from rlhf_core.config.fields import Config, Finite, NonNegative
from rlhf_core.metric_tables.stages import MAX_FUNCTIONS
from rlhf_core.named_functions import NAME


class RewardFunction(Config):
    """A reward function: a rule or verifier. A plain string is short for `{function = "..."}`."""

    function: str = Field(
        pattern=NAME,
        description=(
            "'module:function', or a name that an installed package offers (rlhf.rewards). It takes"
            " (prompts, replies) and returns one score per reply. A parameter `messages` gets the"
            " prompts' messages. An exception in it ends the stage."
        ),
    )
    weight: Finite = Field(
        1.0, description="Factor of its scores in the sum. Below 0 it is a penalty."
    )
    per_token: bool = Field(
        False,
        description=(
            "Process reward: it takes (prompts, replies, tokens) and returns one list per reply,"
            " with one reward per token."
        ),
    )
    columns: list[str] = Field(
        [],
        description="Columns of data.prompts passed to it as keyword arguments, e.g. ['answer'].",
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


def _as_function(value: object) -> object:
    return {"function": value} if isinstance(value, str) else value


class Rewards(Config):
    """The reward of a response, and its shaping.

    The weighted scores are summed, the running mean is subtracted, the result is divided by the
    running standard deviation and clipped, then penalties are subtracted.
    """

    model_weight: NonNegative = Field(
        1.0, description="Factor of the reward model's scores. 0: the reward model is not loaded."
    )
    model_at: Literal["last", "every", "difference"] = Field(
        "last",
        description=(
            "'last': the reward model's score after the last token. Process rewards: 'every' is its"
            " score at each token (a token-level reward model); 'difference' is the change of its"
            " score by each token (Ng et al. 1999)."
        ),
    )
    functions: Annotated[
        list[Annotated[RewardFunction, BeforeValidator(_as_function)]],
        Field(max_length=MAX_FUNCTIONS),
    ] = Field(
        [], description="Rules or verifiers, alone (model_weight 0) or beside the reward model."
    )
    centre: bool = Field(
        False,
        description=(
            "Subtract the running mean of all responses' scores so far from each response's score."
        ),
    )
    scale: bool = Field(
        False,
        description=(
            "Divide scores by their running standard deviation (trl 0.11.4, use_score_scaling)."
        ),
    )
    clip: float | None = Field(
        None,
        gt=0,
        description="Clip a response's score, and each process reward, to +- this. None: off.",
    )
    length_penalty: NonNegative = Field(
        0.0, description="Score subtracted for each token beyond length_free."
    )
    length_free: Annotated[int, Field(ge=0)] = Field(
        0,
        description=(
            "Response tokens without a length penalty. ppo.overlong_buffer instead counts from"
            " max_new_tokens down."
        ),
    )

    @property
    def has_process(self) -> bool:
        """True if tokens have rewards of their own."""
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
