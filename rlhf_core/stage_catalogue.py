"""The stages in order, and what the rest of the code knows of each: the one place that says so.

A new stage is one `Stage` here, one module with `run(spec, run_dir)`, and its call in the flow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """One stage: how it starts, what it reads and leaves, and which metrics show how it went."""

    name: str
    entry: str  # 'module:function' that the stage process calls with (spec, run directory)
    metric_prefix: str  # of its metrics' names, without the slash
    config: str = "rlhf_core.config.stage_configs:ModelStageConfig"  # class of its spec's config
    # input's name -> artifact's name: what every recipe gives it; its file in tasks/stages adds the
    # inputs that depend on the recipe
    takes: Mapping[str, str] = field(default_factory=dict, hash=False)
    may_take: tuple[str, ...] = ()  # artifacts that it takes under their own names where they are
    # artifact's name -> output's name
    gives: Mapping[str, str] = field(default_factory=dict, hash=False)
    makes: str = ""  # the kind of model that it makes, in words
    parents: tuple[str, ...] = ()  # artifacts: models that the model it makes descends from
    heldout: str = ""  # the split that its final metrics are measured on
    heldout_else: str = ""  # the split that they are measured on where the first is not there
    reads_pairs: bool = False  # its rows are pairs of replies, which stay together in a microbatch
    item_key: str = ""  # the column that names an item in its items.parquet
    gated: bool = False  # a recipe may set gates on its metrics
    planned: bool = False  # `rlhf plan` knows the models that it holds
    samples: bool = False  # generates replies, with the settings of its section `sampling`
    headline: tuple[str, ...] = ()  # the metric that says how it went: the first that it has
    live: tuple[str, ...] = ()  # metrics shown while it runs
    curves: tuple[str, ...] = ()  # metrics drawn over steps in MLflow and in reports

    def headline_of(self, metrics: Mapping[str, float]) -> str | None:
        """Return the name of the metric that says how the stage went, None when it has none."""
        return next((name for name in self.headline if name in metrics), None)

    @property
    def reads_replies(self) -> bool:
        """True if replies of the data are among what it reads; else it generates them all."""
        read = (*self.takes, *self.may_take)
        return any(name.startswith(_WITH_REPLIES) for name in read)


# begin the names of splits
_WITH_REPLIES = ("demonstrations_", "comparisons_", "feedback_", "new_comparisons_")
# a recipe without comparisons, or without feedback, has no splits of them
PAIRS, FEEDBACK = (
    tuple(f"{rows}_{side}" for side in ("train", "heldout")) for rows in ("comparisons", "feedback")
)
# only a recipe with data.new_comparisons has them
NEW_TRAIN, NEW_HELDOUT = NEW_PAIRS = ("new_comparisons_train", "new_comparisons_heldout")
# ends the name of a held-out split without the prompts that the reward model before was trained on
UNSEEN = "_unseen"
SPLITS = (
    "demonstrations_train",
    "demonstrations_heldout",
    *PAIRS,
    *FEEDBACK,
    "prompts_train",
    "prompts_heldout",
    *NEW_PAIRS,
)

PREPARE = Stage(
    name="prepare",
    entry="rlhf_core.prepare:run",
    config="rlhf_core.config.stage_configs:PrepareStageConfig",
    metric_prefix="prepare",
    makes="base model",
    gives={"base": "model", "files": "files"},
    headline=("prepare/loss",),
    live=("prepare/loss",),
    curves=("prepare/loss",),
)
VALIDATE = Stage(
    name="validate",
    entry="rlhf_core.validate:run",
    config="rlhf_core.config.stage_configs:ValidateStageConfig",
    metric_prefix="data",
    takes={"model": "base"},
    gives={split: split for split in SPLITS},
    headline=("data/rows_kept", "data/rows"),
)
SFT = Stage(
    name="sft",
    entry="rlhf_core.sft:run",
    config="rlhf_core.config.stage_configs:SFTStageConfig",
    metric_prefix="sft",
    takes={
        "model": "base",
        "demonstrations_train": "demonstrations_train",
        "demonstrations_heldout": "demonstrations_heldout",
    },
    gives={"sft": "model"},
    makes="SFT model",
    heldout="demonstrations_heldout",
    gated=True,
    planned=True,
    headline=("sft/heldout_loss", "sft/loss"),
    live=("sft/loss",),
    curves=("sft/loss", "sft/lr", "sft/grad_norm"),
)
REWARD = Stage(
    name="reward",
    entry="rlhf_core.reward.stage:run",
    config="rlhf_core.config.stage_configs:RewardStageConfig",
    metric_prefix="reward",
    takes={"model": "sft"},
    may_take=(*PAIRS, *FEEDBACK, *NEW_PAIRS),
    gives={"reward": "model", "reward_adapter": "adapter"},
    makes="reward model",
    parents=("base", "sft"),
    heldout="comparisons_heldout",
    heldout_else="feedback_heldout",
    reads_pairs=True,
    item_key="pair_id",
    gated=True,
    planned=True,
    headline=("reward/accuracy", "reward/auc", "reward/train_accuracy", "reward/train_auc"),
    live=("reward/loss", "reward/train_accuracy"),
    curves=("reward/loss", "reward/train_accuracy", "reward/margin"),
)
PPO = Stage(
    name="ppo",
    entry="rlhf_core.ppo.stage:run",
    config="rlhf_core.config.stage_configs:PPOStageConfig",
    metric_prefix="ppo",
    takes={"policy": "sft", "prompts_train": "prompts_train"},
    gives={"policy": "model"},
    makes="policy",
    parents=("base", "sft", "reward"),
    gated=True,
    planned=True,
    samples=True,
    headline=("ppo/score_mean",),
    live=("ppo/score_mean", "ppo/kl_per_response"),
    curves=(
        "ppo/score_mean",
        "ppo/reward_mean",
        "ppo/kl_per_response",
        "ppo/response_tokens",
        "ppo/entropy",
        "ppo/policy_clip_fraction",
        "ppo/explained_variance",
        "ppo/value_loss",
        "ppo/sampler_logprob_diff",
        "ppo/eval_score",
        "ppo/eval_independent",
    ),
)
DPO = Stage(
    name="dpo",
    entry="rlhf_core.dpo:run",
    config="rlhf_core.config.stage_configs:DPOStageConfig",
    metric_prefix="dpo",
    takes={
        "policy": "sft",
        "comparisons_train": "comparisons_train",
        "comparisons_heldout": "comparisons_heldout",
    },
    may_take=(NEW_TRAIN,),
    gives={"policy": "model"},
    makes="policy",
    parents=("base", "sft"),
    heldout="comparisons_heldout",
    reads_pairs=True,
    item_key="pair_id",
    gated=True,
    planned=True,
    headline=("dpo/accuracy", "dpo/train_accuracy"),
    live=("dpo/loss", "dpo/train_accuracy"),
    curves=(
        "dpo/loss",
        "dpo/train_accuracy",
        "dpo/margin",
        "dpo/chosen_logratio",
        "dpo/rejected_logratio",
        "dpo/grad_norm",
    ),
)
KTO = Stage(
    name="kto",
    entry="rlhf_core.kto.stage:run",
    config="rlhf_core.config.stage_configs:KTOStageConfig",
    metric_prefix="kto",
    takes={"policy": "sft"},
    may_take=(*FEEDBACK, *PAIRS, NEW_TRAIN),
    gives={"policy": "model"},
    makes="policy",
    parents=("base", "sft"),
    heldout="feedback_heldout",
    heldout_else="comparisons_heldout",
    item_key="reply_id",
    gated=True,
    planned=True,
    headline=("kto/auc", "kto/train_auc"),
    live=("kto/loss", "kto/train_auc"),
    curves=(
        "kto/loss",
        "kto/train_auc",
        "kto/margin",
        "kto/reference_kl",
        "kto/up_logratio",
        "kto/down_logratio",
        "kto/grad_norm",
    ),
)
EVALUATE = Stage(
    name="evaluate",
    entry="rlhf_core.evaluation.stage:run",
    config="rlhf_core.config.stage_configs:EvaluateStageConfig",
    metric_prefix="eval",
    takes={
        "policy": "policy",
        "sft": "sft",
        "prompts_heldout": "prompts_heldout",
        "demonstrations_heldout": "demonstrations_heldout",
    },
    heldout="prompts_heldout",
    item_key="prompt_id",
    gated=True,
    planned=True,
    samples=True,
    headline=("eval/win_rate", "eval/score_gain"),
)
TRACE = Stage(
    name="trace",
    entry="rlhf_core.ppo.trace.stage:run",
    config="rlhf_core.config.stage_configs:TraceStageConfig",
    metric_prefix="ppo",
)
LABEL_PAIRS = Stage(
    name="label-pairs",
    entry="rlhf_core.labels.stage:run",
    config="rlhf_core.config.stage_configs:LabelPairsStageConfig",
    metric_prefix="eval",
)
LABEL_VOTES = Stage(
    name="label-votes",
    entry="rlhf_core.labels.vote_stage:run",
    config="rlhf_core.config.stage_configs:LabelVotesStageConfig",
    metric_prefix="eval",
)
LIVE_SCORES = Stage(
    name="live-scores",
    entry="rlhf_core.live.scoring:run",
    config="rlhf_core.config.stage_configs:LiveScoresStageConfig",
    metric_prefix="eval",
)

STAGES = {stage.name: stage for stage in (PREPARE, VALIDATE, SFT, REWARD, PPO, DPO, KTO, EVALUATE)}
APPROVAL = "approval"  # by a person, where the recipe asks for it: a step of the flow, no process
PROMOTE = "promote"  # what follows the last stage: a step of the flow, no process
ALIGNMENTS = (PPO.name, DPO.name, KTO.name)  # a recipe runs one of them: they make the policy
ALIGNED_WITHOUT_REWARD = tuple(a for a in ALIGNMENTS if REWARD.name not in STAGES[a].parents)
SAMPLING = tuple(name for name, stage in STAGES.items() if stage.samples)
LEARNING = tuple(name for name, stage in STAGES.items() if stage.gated and stage.makes)


def steps() -> tuple[str, ...]:
    """Return what --from and --until may name, in order: the stages and the promotion."""
    return (*STAGES, PROMOTE)


def gated_stages() -> list[str]:
    """Return the names of the stages on whose metrics a recipe may set gates, in order."""
    return [stage.name for stage in STAGES.values() if stage.gated]


def stage_named(name: str) -> Stage:
    """Return the stage of that name, also one that no recipe runs.

    Raises KeyError for any other name.
    """
    extra = (TRACE, LABEL_PAIRS, LABEL_VOTES, LIVE_SCORES)
    return (STAGES | {stage.name: stage for stage in extra})[name]


def stage_of_prefix(prefix: str) -> Stage | None:
    """Return the stage whose metrics' names begin with `prefix/`; None when there is none."""
    return next((stage for stage in STAGES.values() if stage.metric_prefix == prefix), None)
