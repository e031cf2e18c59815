"""The evaluation stage, and who judges in it."""

from typing import Annotated

from pydantic import Field, model_validator

from rlhf_core.config.fields import Config, Positive, Share
from rlhf_core.config.gates import EvaluateGate
from rlhf_core.config.ppo import Sampling


class Judge(Config):
    """Who compares two replies besides the reward model. Each pair is asked in both orders."""

    function: str | None = Field(
        None, description="'module:function' with (prompts, replies_a, replies_b) in; out 1 (a is better), 0.5 (tie) or 0 each"
    )
    endpoint: str | None = Field(
        None, pattern=r"^https?://[^\s@?#]+$", description="Base URL, OpenAI-compatible, e.g. http://localhost:8000/v1"
    )
    model: str | None = Field(None, description="Model name that the endpoint knows")
    api_key_env: str | None = Field(
        None, pattern=r"^[A-Z][A-Z0-9_]*$", description="NAME of the environment variable that holds the key; None: no key"
    )
    criterion: str = Field("helpful, correct and harmless", description="What the better reply is, as the endpoint is told")
    timeout_s: Annotated[float, Field(gt=0)] = Field(60.0, description="Limit of one request, seconds")
    retries: Annotated[int, Field(ge=0)] = Field(3, description="Further tries after a timeout, a lost connection, 429 or 5xx")
    parallel: Positive = Field(4, description="Requests under way at once")
    max_tokens: Positive = Field(16, description="Tokens of an answer; a model that reasons aloud needs more")
    max_unparsable: Share = Field(0.05, description="Share of answers other than A, B or TIE, beyond which the stage refuses")
    max_pairs: Positive = Field(256, description="Pairs judged per comparison, drawn by seed; each costs two requests")

    @model_validator(mode="after")
    def _one_judge(self) -> "Judge":
        if (self.function is None) == (self.endpoint is None):
            raise ValueError("expected either function or endpoint")
        if self.endpoint and not self.model:
            raise ValueError("endpoint needs model, the name that the server knows")
        return self


class Evaluate(Config):
    max_prompts: Positive = Field(256, description="Held-out prompts answered")
    micro_batch_tokens: Positive = Field(8192, description="Tokens scored at once")
    max_heldout: Positive = Field(256, description="Held-out demonstrations for the alignment tax")
    samples: Positive = Field(64, description="Rows of the side-by-side table")
    independent_scorer: str | None = Field(
        None, description="'module:function' with (prompts, replies) in, scores out; None: the first of reward_models, if any"
    )
    train_reward: bool = Field(
        False, description="With align = 'dpo': train a reward model all the same, by which replies are scored (same gate)"
    )
    reward_models: list[str] = Field([], description="Folders of further reward models: with the main one, the ensemble")
    judge: Judge | None = Field(None, description="Compares the policy with the SFT model and the champion; None: no judge")
    sampling: Sampling = Sampling()
    gate: EvaluateGate = EvaluateGate()
