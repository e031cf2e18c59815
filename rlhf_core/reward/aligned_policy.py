"""The policy of a stage that aligns it on labelled replies: its engine, its log-probabilities.

It starts from an SFT model, which is its reference: the reference's log-probabilities are computed
once, before the first step.
"""

from collections.abc import Sequence as Seq
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Batch, Sequence, collate
from rlhf_core.batching.collective import barrier, gathered, summed
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.config import Training
from rlhf_core.config.stage_configs import LanguageModelStageConfig
from rlhf_core.engine.base import Engine, Forward
from rlhf_core.engine.deepspeed import DeepSpeedEngine, write_config
from rlhf_core.file_modes import follow_umask
from rlhf_core.modeling.half import saved_dtype
from rlhf_core.modeling.lora import with_adapter
from rlhf_core.modeling.mapped_weights import maps_weights
from rlhf_core.modeling.models import finish, load_policy, save_model
from rlhf_core.modeling.packed_attention import (
    require_no_router_loss,
    require_separation,
    without_padding,
)
from rlhf_core.modeling.token_scores import TokenQuery
from rlhf_core.objectives.losses import sequence_sum
from rlhf_core.ranks import is_rank_zero

REFERENCE = "reference.safetensors"


def policy_engine(
    source: Path,
    training: Training,
    config: LanguageModelStageConfig,
    *,
    seed: int,
    share_prompts: bool = False,
) -> DeepSpeedEngine:
    """Return the engine of a policy that starts from the model in `source`.

    share_prompts: in a packed row, neighbours of one prompt read one copy of it.
    """
    loaded = load_policy(source, logits_mib=config.logits_mib, mapped=maps_weights(training))
    unpadded = without_padding(
        loaded, on=training.packing, dtype=config.dtype, share_prompts=share_prompts
    )
    policy = with_adapter(unpadded, training.lora, seed=seed)
    engine = DeepSpeedEngine(policy, training, dtype=config.dtype)
    if training.packing:
        require_no_router_loss(engine.module)
        require_separation(engine.infer, dtype=config.dtype, share_prompts=share_prompts)
    return engine


def save_policy(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    source: Path,
    run_dir: Path,
    config: LanguageModelStageConfig,
) -> None:
    """Save the trained policy into `run_dir`; the engine then has the weights that are saved."""
    saved = saved_dtype(source, computed=config.dtype, wanted=config.export_dtype)
    finish(engine, dtype=saved)  # so that the saved weights are measured
    weights = engine.whole_weights()
    save_model(engine.module, tokenizer, run_dir / "model", weights=weights, dtype=saved)
    write_config(engine, run_dir / "deepspeed.json")


def batch_logprobs(forward: Forward, batch: Batch) -> Tensor:
    """Return the log-probability of each response of a batch, (B,) nats."""
    return sequence_sum(forward(batch, query=TokenQuery()).logprobs_BR, batch.response_mask_BR)


def response_logprobs(
    forward: Forward, sequences: Seq[Sequence], pad_id: int, config: Training, *, group: int = 1
) -> Tensor:
    """Return the log-probability of every response, in the order given.

    (N,) float32 nats on the CPU. group: the number of neighbours that stay together.
    """
    logprobs_N, sizes = torch.zeros(len(sequences)), [s.size for s in sequences]
    for rows, counts in own_microbatches(
        sizes, config.micro_batch_tokens, group=group, packing=config.packing
    ):
        batch = collate([sequences[i] for i in rows], pad_id)
        logprobs_B = batch_logprobs(forward, batch)
        if counts:
            logprobs_N[rows] = logprobs_B.cpu()
    return summed(logprobs_N)


def reference_logprobs(
    folder: Path,
    engine: Engine,
    parts: tuple[Seq[Sequence], ...],
    pad_id: int,
    config: Training,
    *,
    group: int = 1,
) -> Tensor:
    """Return the log-probabilities of all parts under the model that training starts from.

    They are computed once, and kept in `folder`, so that a resumed stage reads the same numbers.
    group: as of `response_logprobs`.
    """
    file = folder / REFERENCE
    if not gathered(file.exists())[0]:
        found = [
            response_logprobs(engine.infer, part, pad_id, config, group=group) for part in parts
        ]
        logprobs_N = torch.cat(found)
        if is_rank_zero():
            folder.mkdir(exist_ok=True)
            temporary = file.with_name(f".{REFERENCE}.tmp")
            save_file({"logprobs_N": logprobs_N}, temporary)
            follow_umask(temporary)
            temporary.replace(file)
        barrier()
    return load_file(file)["logprobs_N"]
