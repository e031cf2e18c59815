"""Training of a reward model: a scalar head at the last real token, Bradley-Terry loss on pairs."""

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.batching.collective import barrier, gathered, total
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.config import Reward
from rlhf_core.config.stage_configs import RewardStageConfig
from rlhf_core.engine.base import Engine, Forward
from rlhf_core.engine.deepspeed import DeepSpeedEngine, write_config
from rlhf_core.engine.supervised_loop import StepOutcome, SupervisedTask, fit
from rlhf_core.modeling.ensemble import member_folder
from rlhf_core.modeling.half import saved_dtype
from rlhf_core.modeling.lora import has_adapter, save_adapter, with_adapter, write_origin
from rlhf_core.modeling.mapped_weights import maps_weights
from rlhf_core.modeling.models import (
    ScalarModel,
    final_scores,
    finish,
    inference,
    load_scalar,
    save_model,
)
from rlhf_core.modeling.packed_attention import (
    require_no_router_loss,
    require_separation,
    without_padding,
)
from rlhf_core.objectives.losses import bradley_terry, reward_centring
from rlhf_core.ranks import is_rank_zero
from rlhf_core.reward.labels import Labels
from rlhf_core.rundir import Artifact, RunDir, StageSpec
from rlhf_core.seeds import member_seed

MODEL, ADAPTER = "model", "adapter"  # folders in the run directory


@dataclass(frozen=True)
class Comparisons:
    """Pairs to train on: sequences that alternate chosen, rejected, and their labels."""

    sequences: Seq[Sequence]
    labels: Labels

    def __len__(self) -> int:
        return len(self.sequences) // 2


def train_members(
    spec: StageSpec[RewardStageConfig],
    run: RunDir,
    tokenizer: PreTrainedTokenizerBase,
    train: Comparisons,
) -> Iterator[Forward]:
    """Train and save the members one after the other, and yield the forward pass of each.

    A member that is saved already is not trained again. Members of an ensemble are read back from
    their saved files: interrupted or not, the same bytes give the same scores.
    """
    ensemble = spec.config.reward.ensemble
    if ensemble == 1:
        yield _train_member(spec, run, tokenizer, train, 1).infer
        return
    for number in range(1, ensemble + 1):
        folder = member_folder(run.path / MODEL, number)
        if not gathered(folder.joinpath("config.json").exists())[0]:
            # an adapter's dropout must not depend on what ran before in this process
            torch.manual_seed(member_seed(spec.seed, number))
            member_dir = MemberDir(run, number, ensemble)
            _train_member(spec, member_dir, tokenizer, train, number)
            if is_rank_zero():  # the member is saved: its checkpoints serve nothing any more
                shutil.rmtree(member_dir.checkpoints, ignore_errors=True)
        member = _unpadded(load_scalar(folder, mapped=True), spec.config)
        yield inference(member, dtype=spec.config.dtype)


def _train_member(
    spec: StageSpec[RewardStageConfig],
    run: RunDir,
    tokenizer: PreTrainedTokenizerBase,
    train: Comparisons,
    number: int,
) -> Engine:
    config, seed = spec.config.reward, member_seed(spec.seed, number)
    path = spec.inputs["model"].path
    model = load_scalar(
        path, new_head=True, seed=seed, tokens=len(tokenizer), mapped=maps_weights(config)
    )
    adapted = with_adapter(_unpadded(model, spec.config), config.lora, seed=seed)
    engine = DeepSpeedEngine(adapted, config, dtype=spec.config.dtype)
    if config.packing:
        require_no_router_loss(engine.module)
        require_separation(
            engine.infer, dtype=spec.config.dtype, share_prompts=config.share_prompts
        )
    accumulate = _accumulator(engine, train, config, tokenizer.pad_token_id)
    fit(engine, run, config, SupervisedTask("reward", len(train), accumulate), seed=seed)
    _save(engine, tokenizer, run.path, number, spec)
    write_config(engine, run.path / "deepspeed.json")
    return engine


def _unpadded(model: ScalarModel, config: RewardStageConfig) -> ScalarModel:
    section = config.reward
    return without_padding(
        model, on=section.packing, dtype=config.dtype, share_prompts=section.share_prompts
    )


class MemberDir(RunDir):
    """The run directory for one member's training: own checkpoints, steps over all members."""

    def __init__(self, run: RunDir, number: int, members: int):
        super().__init__(run.path)
        self._number, self._members = number, members

    @property
    def checkpoints(self) -> Path:
        """The folder of this member's checkpoints."""
        return super().checkpoints / f"member_{self._number}"

    def log(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        """Log a step, numbered over all members together, with the member's number."""
        done = (self._number - 1) * steps
        super().log(done + step, self._members * steps, metrics | {"reward/member": self._number})


def _save(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    number: int,
    spec: StageSpec[RewardStageConfig],
) -> None:
    """Save a member completely or not at all, and the adapter that was merged into it.

    The saved weights are the ones that are measured. A merged adapter is saved in float32 by
    default: by itself, on the SFT model, it then gives the same scores.
    """
    saving, folder = path / ".saving", member_folder(path / MODEL, number)
    adapter = member_folder(path / ADAPTER, number)
    model, adapted = engine.module.model, has_adapter(engine.module.model)
    learnt = engine.learning_weights() if adapted else {}
    if adapted and is_rank_zero():
        save_adapter(model, adapter, weights=learnt)
    start, dtype = spec.inputs["model"], spec.config.export_dtype or "float32"
    if not adapted:
        dtype = saved_dtype(start.path, computed=spec.config.dtype, wanted=spec.config.export_dtype)
    finish(engine, dtype=dtype)
    weights = engine.whole_weights()
    if is_rank_zero():
        shutil.rmtree(saving, ignore_errors=True)
        save_model(engine.module, tokenizer, saving, weights=weights, dtype=dtype)
        if adapted:
            write_origin(adapter, base=start.digest, merged=Artifact.of(saving).digest)
        shutil.rmtree(folder, ignore_errors=True)
        saving.rename(folder)
    barrier()


def _accumulator(
    engine: Engine, train: Comparisons, config: Reward, pad_id: int
) -> Callable[[list[int], int], StepOutcome]:
    def accumulate(indices: list[int], _step: int) -> StepOutcome:
        step_batch = [train.sequences[k] for i in indices for k in (2 * i, 2 * i + 1)]
        tokens = sum(map(len, step_batch))
        sums: dict[str, float] = defaultdict(float)
        margins: list[float] = []
        for rows, counts in own_microbatches(
            [s.size for s in step_batch], config.micro_batch_tokens, group=2, packing=config.packing
        ):
            batch = collate([step_batch[i] for i in rows], pad_id)
            scores_B = final_scores(engine(batch), batch.response_mask_BR)
            labels = train.labels.of([indices[row // 2] for row in rows[0::2]])
            loss, parts = pair_objective(scores_B, labels, config, len(indices))
            whole = engine.module.with_router_loss(loss, tokens, counts=counts)
            engine.backward(whole, counts=counts)
            if not counts:
                continue
            for name, value in parts.items():
                sums[name] += value
            margins += (scores_B[0::2] - scores_B[1::2]).tolist()
        margin_N = torch.tensor([margin for part in gathered(margins) for margin in part])
        metrics = total(sums | engine.module.router_metrics()) | {
            "train_accuracy": float((margin_N > 0).double().mean()),
            "margin": float(margin_N.mean()),
        }
        return StepOutcome(metrics, tokens)

    return accumulate


def pair_objective(
    scores_B: Tensor, labels: Labels, config: Reward, denominator: float
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of pairs chosen, rejected, ..., and its parts for the log.

    Bradley-Terry with margins and label smoothing, + centring * sum (score(chosen) +
    score(rejected))^2 / denominator.
    """
    chosen_B, rejected_B = scores_B[0::2], scores_B[1::2]
    known = labels.to(scores_B.device)
    loss = bradley_terry(
        chosen_B, rejected_B, denominator, margin=known.margin_N, smoothing=known.smoothing_N
    )
    parts = {"loss": float(loss.detach())}
    if config.centring:
        squares = reward_centring(chosen_B, rejected_B, denominator)
        parts["centring"] = float(squares.detach())
        loss = loss + config.centring * squares
    return loss, parts
