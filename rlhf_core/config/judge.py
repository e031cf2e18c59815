"""Judges that compare two replies, and the check of the reward model against one."""

from typing import Annotated

from pydantic import Field, model_validator

from rlhf_core.config.fields import Config, NonNegative, Positive, Share

TOKENS, TOKENS_WITH_REASON = 16, 256


class Judge(Config):
    """A judge that compares two replies. It sees each pair in both orders."""

    function: str | None = Field(
        None,
        description=(
            "'module:function', or a name that an installed package offers (rlhf.judges). It takes"
            " (prompts, replies_a, replies_b) and returns 1 (a is better), 0.5 (tie) or 0 for each"
            " pair."
        ),
    )
    endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s@?#]+$",
        description="Base URL of an OpenAI-compatible server, e.g. http://localhost:8000/v1.",
    )
    model: str | None = Field(None, description="Model name that the endpoint knows.")
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Z][A-Z0-9_]*$",
        description="NAME of the environment variable that holds the key. None: no key.",
    )
    criterion: str = Field(
        "helpful, correct and harmless",
        description="Criterion of the better reply, in the endpoint's instructions.",
    )
    timeout_s: Annotated[float, Field(gt=0)] = Field(
        60.0, description="Time limit of one request, seconds."
    )
    retries: Annotated[int, Field(ge=0)] = Field(
        3,
        description=(
            "Further tries after a timeout, a lost connection, status 408, 409, 429 or 5xx. They"
            " wait as long as the server's Retry-After says, up to two minutes."
        ),
    )
    parallel: Positive = Field(4, description="Requests in flight at once.")
    reasons: bool = Field(
        False,
        description=(
            "Ask for a sentence with the reason before the verdict. It is kept with the verdict."
        ),
    )
    max_tokens: Positive | None = Field(
        None,
        description=(
            "Tokens per answer, at most. None: 16, or 256 with reasons. A model that reasons aloud"
            " needs more."
        ),
    )
    prompt_price: NonNegative | None = Field(
        None,
        description=(
            "Price of a million prompt tokens, in a currency of your choice. None: no cost is"
            " counted."
        ),
    )
    completion_price: NonNegative | None = Field(
        None, description="Price of a million completion tokens, in the same currency."
    )
    max_unparsable: Share = Field(
        0.05,
        description="Largest share of answers other than A, B or TIE. Above it, the stage refuses.",
    )
    max_pairs: Positive = Field(
        256,
        description=(
            "Pairs judged per comparison, drawn by data.split_seed, so that runs of other seeds"
            " judge the same prompts. Each pair costs two requests."
        ),
    )

    @property
    def answer_tokens(self) -> int:
        """Tokens per answer, at most."""
        return self.max_tokens or (TOKENS_WITH_REASON if self.reasons else TOKENS)

    @model_validator(mode="after")
    def _both_prices(self) -> "Judge":
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("expected prompt_price and completion_price, or neither")
        return self

    @model_validator(mode="after")
    def _one_judge(self) -> "Judge":
        if (self.function is None) == (self.endpoint is None):
            raise ValueError("expected either function or endpoint")
        if self.endpoint and not self.model:
            raise ValueError("endpoint needs model, the name that the server knows")
        return self


class EvaluationJudge(Judge):
    """A judge of the evaluation: also asked about labelled pairs, and shown in MLflow."""

    agreement_pairs: Annotated[int, Field(ge=0)] = Field(
        128,
        description=(
            "Held-out comparisons that the judge is asked about too, drawn by data.split_seed, to"
            " measure its agreement with people and reward model. Each costs two requests. 0: none."
        ),
    )
    traces: Annotated[int, Field(ge=0)] = Field(
        100,
        description=(
            "Judged pairs per comparison that MLflow shows as traces with the verdict as an"
            " assessment, at most. 0: none."
        ),
    )


class RewardCheck(Config):
    """A check of the reward model on pairs of the policy's own replies during PPO.

    Outside its training distribution the reward model may be wrong.
    """

    every: Positive = Field(
        10,
        description=(
            "PPO steps between checks. One more check runs before the first step, one after the"
            " last."
        ),
    )
    pairs: Positive = Field(
        64,
        description="Pairs of replies per check, one per prompt. Prompts are drawn once, by seed.",
    )
    judge: Judge | None = Field(
        None,
        description=(
            "Judge that labels the pairs. None: the pairs wait for `rlhf reward-report --labels"
            " FILE`."
        ),
    )
