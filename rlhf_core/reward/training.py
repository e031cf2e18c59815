"""Training of a reward model: a scalar head at the last real token, on pairs and on labels."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.collective import barrier, gathered
from rlhf_core.config.stage_configs import RewardStageConfig
from rlhf_core.engine.base import Engine, Forward
from rlhf_core.engine.deepspeed import DeepSpeedEngine, write_config
from rlhf_core.engine.supervised_loop import SupervisedTask, fit
from rlhf_core.modeling.ensemble import member_folder
from rlhf_core.modeling.half import saved_dtype
from rlhf_core.modeling.lora import has_adapter, save_adapter, with_adapter, write_origin
from rlhf_core.modeling.mapped_weights import maps_weights
from rlhf_core.modeling.models import ScalarModel, finish, inference, load_scalar, save_model
from rlhf_core.modeling.packed_attention import (
    require_no_router_loss,
    require_separation,
    without_padding,
)
from rlhf_core.ranks import is_rank_zero
from rlhf_core.reward.steps import Comparisons, accumulator
from rlhf_core.rundir import Artifact, RunDir, StageSpec
from rlhf_core.seeds import member_seed

MODEL, ADAPTER = "model", "adapter"  # folders in the run directory


def starting_model(spec: StageSpec[RewardStageConfig]) -> Artifact:
    """Return the model that training starts from: reward.start, or else the SFT model."""
    return spec.inputs.get("start", spec.inputs["model"])


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
    path, mapped = starting_model(spec).path, maps_weights(config)
    if "start" in spec.inputs:
        model = load_scalar(member_folder(path, number), mapped=mapped)
    else:
        model = load_scalar(path, new_head=True, seed=seed, tokens=len(tokenizer), mapped=mapped)
    adapted = with_adapter(_unpadded(model, spec.config), config.lora, seed=seed)
    engine = DeepSpeedEngine(adapted, config, dtype=spec.config.dtype)
    if config.packing:
        require_no_router_loss(engine.module)
        require_separation(
            engine.infer, dtype=spec.config.dtype, share_prompts=config.share_prompts
        )
    accumulate = accumulator(engine, train, config, tokenizer.pad_token_id)
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
    start, dtype = starting_model(spec), spec.config.export_dtype or "float32"
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
