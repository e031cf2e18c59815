"""Who compares two replies."""

from typing import Annotated

from pydantic import Field, model_validator

from rlhf_core.config.fields import Config, Positive, Share


class Judge(Config):
    """Who compares two replies besides the reward model. Each pair is asked in both orders."""

    function: str | None = Field(
        None,
        description=(
            "'module:function' with (prompts, replies_a, replies_b) in; out 1 (a is better), 0.5"
            " (tie) or 0 each"
        ),
    )
    endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s@?#]+$",
        description="Base URL, OpenAI-compatible, e.g. http://localhost:8000/v1",
    )
    model: str | None = Field(None, description="Model name that the endpoint knows")
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Z][A-Z0-9_]*$",
        description="NAME of the environment variable that holds the key; None: no key",
    )
    criterion: str = Field(
        "helpful, correct and harmless",
        description="What the better reply is, as the endpoint is told",
    )
    timeout_s: Annotated[float, Field(gt=0)] = Field(
        60.0, description="Limit of one request, seconds"
    )
    retries: Annotated[int, Field(ge=0)] = Field(
        3, description="Further tries after a timeout, a lost connection, 429 or 5xx"
    )
    parallel: Positive = Field(4, description="Requests under way at once")
    max_tokens: Positive = Field(
        16, description="Tokens of an answer; a model that reasons aloud needs more"
    )
    max_unparsable: Share = Field(
        0.05, description="Share of answers other than A, B or TIE, beyond which the stage refuses"
    )
    max_pairs: Positive = Field(
        256, description="Pairs judged per comparison, drawn by seed; each costs two requests"
    )

    @model_validator(mode="after")
    def _one_judge(self) -> "Judge":
        if (self.function is None) == (self.endpoint is None):
            raise ValueError("expected either function or endpoint")
        if self.endpoint and not self.model:
            raise ValueError("endpoint needs model, the name that the server knows")
        return self


class RewardCheck(Config):
    """The reward model on pairs of the policy's own replies, as PPO goes: off its training
    distribution it may be wrong.
    """

    every: Positive = Field(
        10,
        description=(
            "PPO steps between checks; one is made before the first step, one after the last"
        ),
    )
    pairs: Positive = Field(
        64,
        description="Pairs of replies a check, one a prompt; the prompts are drawn by seed, once",
    )
    judge: Judge | None = Field(
        None,
        description="Who labels the pairs; None: they wait for rlhf reward-report --labels FILE",
    )
