"""Supervised fine-tuning: cross-entropy on the answers of demonstrations."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import TrainedSequence, collate, encode_demonstrations, subset
from rlhf_core.batching.collective import summed, total
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.batching.packing import noise, trained_mask
from rlhf_core.config import SFT
from rlhf_core.config.stage_configs import SFTStageConfig
from rlhf_core.data.render import TrainOn
from rlhf_core.data.splits import load_split
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine.base import Engine, Forward
from rlhf_core.engine.deepspeed import DeepSpeedEngine, write_config
from rlhf_core.engine.encoded import encoded_once, training_rows
from rlhf_core.engine.supervised_loop import StepOutcome, SupervisedTask, fit
from rlhf_core.modeling.half import saved_dtype
from rlhf_core.modeling.lora import with_adapter
from rlhf_core.modeling.mapped_weights import maps_weights
from rlhf_core.modeling.models import PolicyModel, finish, inference, load_policy, save_model
from rlhf_core.modeling.packed_attention import require_separation, without_padding
from rlhf_core.modeling.token_scores import TokenQuery
from rlhf_core.objectives.losses import cross_entropy, masked_sum
from rlhf_core.rundir import Output, RunDir, StageSpec
from rlhf_core.seeds import noise_seeds
from rlhf_core.statistics.clusters import Clusters, bootstrap_clustered, clusters_of, count_clusters
from rlhf_core.statistics.intervals import MIN_BOOTSTRAP


@dataclass(frozen=True)
class HeldoutLosses:
    """The cross-entropy of held-out sequences. mean: over all their trained tokens, nats/token.

    loss_N: the sum of each sequence, nats; tokens_N: its trained tokens. clusters: the sequences'
    prompts, where some share one.
    """

    mean: float
    loss_N: Tensor
    tokens_N: Tensor
    clusters: Clusters = None


def run(spec: StageSpec[SFTStageConfig], run: RunDir) -> Output:
    """Train the base model on demonstrations, or measure the given model.

    With train = False the given model is only measured.
    """
    config = spec.config.sft
    base = spec.inputs["model"].path
    tokenizer = load_tokenizer(base)
    heldout_path = spec.inputs["demonstrations_heldout"].path
    drawn_by = spec.config.heldout_seed(spec.seed)
    heldout = load_sequences(
        tokenizer, heldout_path, config.max_heldout, seed=drawn_by, train_on=config.train_on
    )
    pad_id, budget = tokenizer.pad_token_id, config.micro_batch_tokens
    loaded = _load(base, spec.config, mapped=maps_weights(config))
    policy = with_adapter(loaded, config.lora, seed=spec.seed)
    engine = DeepSpeedEngine(policy, config, dtype=spec.config.dtype)
    if config.packing:
        require_separation(engine.infer, dtype=spec.config.dtype)
    before = heldout_losses(engine.infer, heldout, pad_id, budget, packing=config.packing)
    if not spec.config.train:
        brought = _load(spec.inputs["given"].path, spec.config, mapped=True)
        given = inference(brought, dtype=spec.config.dtype)
        after = heldout_losses(given, heldout, pad_id, budget, packing=config.packing)
        return _output(before, after, outputs={})
    train_path = spec.inputs["demonstrations_train"].path
    train = encoded_once(
        run.tokens,
        training_rows(train_path, config.max_train, seed=spec.seed),
        partial(encode_demonstrations, tokenizer, train_on=config.train_on),
        TrainedSequence,
    )
    accumulate = _accumulator(engine, train, config, pad_id, seed=spec.seed)
    fit(engine, run, config, SupervisedTask("sft", len(train), accumulate), seed=spec.seed)
    saved = saved_dtype(base, computed=spec.config.dtype, wanted=spec.config.export_dtype)
    finish(engine, dtype=saved)  # so that the saved weights are measured
    after = heldout_losses(engine.infer, heldout, pad_id, budget, packing=config.packing)
    weights = engine.whole_weights()
    save_model(engine.module, tokenizer, run.path / "model", weights=weights, dtype=saved)
    write_config(engine, run.path / "deepspeed.json")
    return _output(before, after, outputs={"model": "model"})


def _load(path: Path, config: SFTStageConfig, *, mapped: bool = False) -> PolicyModel:
    policy = load_policy(path, logits_mib=config.logits_mib, mapped=mapped)
    return without_padding(policy, on=config.sft.packing, dtype=config.dtype)


def heldout_losses(
    forward: Forward,
    sequences: list[TrainedSequence],
    pad_id: int,
    token_budget: int,
    *,
    packing: bool = False,
) -> HeldoutLosses:
    """Return the cross-entropy over all tokens that are trained, as a mean and by sequence.

    packing: the model reads batches without padding, so that it takes no part of the budget.
    """
    loss, tokens, loss_N = 0.0, 0, torch.zeros(len(sequences), dtype=torch.float64)
    sizes = [s.size for s in sequences]
    for rows, counts in own_microbatches(sizes, token_budget, packing=packing):
        picked = [sequences[i] for i in rows]
        batch = collate(picked, pad_id)
        logprobs_BR = forward(batch, query=TokenQuery()).logprobs_BR
        if counts:
            trained_BR = trained_mask(batch, picked)
            loss -= float(masked_sum(logprobs_BR, trained_BR))
            tokens += int(trained_BR.sum())
            loss_N[rows] = -(logprobs_BR * trained_BR).sum(-1).double().cpu()
    sums = total({"loss": loss, "tokens": tokens})
    tokens_N = torch.tensor([sum(sequence.trained) for sequence in sequences])
    prompts = clusters_of([tuple(sequence.prompt) for sequence in sequences])
    return HeldoutLosses(sums["loss"] / sums["tokens"], summed(loss_N), tokens_N, prompts)


def fall_interval(before: HeldoutLosses, after: HeldoutLosses) -> tuple[float, float] | None:
    """Return the 95% interval of the mean loss before, less after, on the same sequences.

    By the paired bootstrap over prompts, nats per token. None for too few prompts.
    """
    tokens_N = before.tokens_N.numpy().astype(float)
    if count_clusters(before.clusters, tokens_N) < MIN_BOOTSTRAP:
        return None
    terms = [(1, (before.loss_N - after.loss_N).numpy(), tokens_N)]
    return bootstrap_clustered(terms, before.clusters)


def load_sequences(
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    limit: int | None,
    *,
    seed: int,
    train_on: TrainOn,
) -> list[TrainedSequence]:
    """Return at most `limit` demonstrations of a split as token ids, drawn by `seed`."""
    return encode_demonstrations(tokenizer, subset(load_split(path), limit, seed=seed), train_on)


def _accumulator(
    engine: Engine, train: Seq[TrainedSequence], config: SFT, pad_id: int, *, seed: int
) -> Callable[[list[int], int], StepOutcome]:
    alpha, width = config.neftune_alpha, engine.module.model.config.get_text_config().hidden_size

    def accumulate(indices: list[int], step: int) -> StepOutcome:
        step_batch = [train[i] for i in indices]
        denominator, tokens = sum(sum(s.trained) for s in step_batch), sum(map(len, step_batch))
        loss_sum, seeds = 0.0, noise_seeds(seed, step, len(step_batch))
        for rows, counts in own_microbatches(
            [s.size for s in step_batch], config.micro_batch_tokens, packing=config.packing
        ):
            sequences = [step_batch[i] for i in rows]
            batch = collate(sequences, pad_id)
            noises = []
            if alpha:
                own = [seeds[i] for i in rows]
                noises = [noise(batch, sequences, alpha=alpha, width=width, seeds=own)]
            logprobs_BR = engine(batch, *noises, query=TokenQuery()).logprobs_BR
            loss = cross_entropy(logprobs_BR, trained_mask(batch, sequences), denominator)
            whole = engine.module.with_router_loss(loss, tokens, counts=counts)
            engine.backward(whole, counts=counts)
            if counts:
                loss_sum += float(loss.detach())
        sums = {"loss": loss_sum} | engine.module.router_metrics()
        return StepOutcome(total(sums), tokens)

    return accumulate


def _output(before: HeldoutLosses, after: HeldoutLosses, *, outputs: dict[str, str]) -> Output:
    metrics = {
        "sft/heldout_loss_before": before.mean,
        "sft/heldout_loss": after.mean,
        "sft/heldout_improvement": before.mean - after.mean,
    }
    interval = fall_interval(before, after)
    return Output(
        outputs=outputs,
        metrics=metrics,
        counts=dict.fromkeys(metrics, len(before.loss_N)),
        intervals={"sft/heldout_improvement": interval} if interval else {},
        files={"deepspeed_config": "deepspeed.json"} if outputs else {},
    )
