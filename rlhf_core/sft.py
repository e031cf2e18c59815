"""Supervised fine-tuning: prompt-masked cross-entropy on demonstrations."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Batch, Sequence, collate, encode, subset
from rlhf_core.batching.collective import gathered, total
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.batching.packing import noise, pack, require_separation, step_seed
from rlhf_core.config import SFT
from rlhf_core.config.stage_configs import SFTStageConfig
from rlhf_core.data.splits import load_split
from rlhf_core.engine.base import Engine
from rlhf_core.engine.deepspeed import DeepSpeedEngine, write_config
from rlhf_core.engine.supervised_loop import StepOutcome, SupervisedTask, fit
from rlhf_core.modeling.lora import merge_adapter, with_adapter
from rlhf_core.modeling.models import inference, load_policy, load_tokenizer, save_model
from rlhf_core.objectives.losses import cross_entropy, masked_sum, token_logprobs
from rlhf_core.rundir import Output, RunDir, StageSpec


def run(spec: StageSpec[SFTStageConfig], run: RunDir) -> Output:
    """Train the base model on demonstrations, or measure the given model.

    With train = False the given model is only measured.
    """
    config = spec.config.sft
    base = spec.inputs["model"].path
    tokenizer = load_tokenizer(base)
    heldout = load_sequences(
        tokenizer, spec.inputs["demonstrations_heldout"].path, config.max_heldout, spec.seed
    )
    policy = with_adapter(load_policy(base), config.lora, seed=spec.seed)
    engine = DeepSpeedEngine(policy, config, dtype=spec.config.dtype)
    before = heldout_loss(engine.infer, heldout, tokenizer.pad_token_id, config.micro_batch_tokens)
    if not spec.config.train:
        given = inference(load_policy(spec.inputs["given"].path), dtype=spec.config.dtype)
        after = heldout_loss(given, heldout, tokenizer.pad_token_id, config.micro_batch_tokens)
        return _output(before, after, heldout, outputs={})
    train = load_sequences(
        tokenizer, spec.inputs["demonstrations_train"].path, config.max_train, spec.seed
    )
    if config.packing:
        require_separation(engine.infer, train[0], train[-1])
    accumulate = _accumulator(engine, train, config, tokenizer.pad_token_id)
    fit(engine, run, config, SupervisedTask("sft", len(train), accumulate), seed=spec.seed)
    merge_adapter(policy.model)  # so that the saved weights are measured
    after = heldout_loss(engine.infer, heldout, tokenizer.pad_token_id, config.micro_batch_tokens)
    save_model(engine.module, tokenizer, run.path / "model", weights=engine.whole_weights())
    write_config(engine, run.path / "deepspeed.json")
    return _output(before, after, heldout, outputs={"model": "model"})


def heldout_loss(
    forward: Callable[[Batch], Tensor], sequences: list[Sequence], pad_id: int, token_budget: int
) -> float:
    """Return the mean prompt-masked cross-entropy over all response tokens, nats per token."""
    loss, tokens = 0.0, 0
    for rows, counts in own_microbatches([s.size for s in sequences], token_budget):
        batch = collate([sequences[i] for i in rows], pad_id)
        logprobs_BR = token_logprobs(forward(batch), batch.response_ids_BR)
        if counts:
            loss -= float(masked_sum(logprobs_BR, batch.response_mask_BR))
            tokens += int(batch.response_mask_BR.sum())
    sums = total({"loss": loss, "tokens": tokens})
    return sums["loss"] / sums["tokens"]


def load_sequences(
    tokenizer: PreTrainedTokenizerBase, path: Path, limit: int | None, seed: int
) -> list[Sequence]:
    """Return at most `limit` demonstrations of a split as token ids."""
    return encode(tokenizer, subset(load_split(path), limit, seed=seed), "response")


def _accumulator(
    engine: Engine, train: list[Sequence], config: SFT, pad_id: int
) -> Callable[[list[int]], StepOutcome]:
    alpha, width = config.neftune_alpha, engine.module.model.config.get_text_config().hidden_size

    def accumulate(indices: list[int]) -> StepOutcome:
        step_batch = [train[i] for i in indices]
        denominator, tokens = sum(len(s.response) for s in step_batch), sum(map(len, step_batch))
        loss_sum, seed = 0.0, gathered(step_seed())[0] if alpha else 0
        for rows, counts in own_microbatches(
            [s.size for s in step_batch], config.micro_batch_tokens
        ):
            sequences = [step_batch[i] for i in rows]
            batch = pack(sequences) if config.packing else collate(sequences, pad_id)
            noises = []
            if alpha:
                seeds = [seed + i for i in rows]
                noises = [noise(batch, sequences, alpha=alpha, width=width, seeds=seeds)]
            logprobs_BR = token_logprobs(engine(batch, *noises), batch.response_ids_BR)
            loss = cross_entropy(logprobs_BR, batch.response_mask_BR, denominator)
            whole = engine.module.with_router_loss(loss, tokens, counts=counts)
            engine.backward(whole, counts=counts)
            if counts:
                loss_sum += float(loss)
        sums = {"loss": loss_sum} | engine.module.router_metrics()
        return StepOutcome(total(sums), tokens)

    return accumulate


def _output(
    before: float, after: float, heldout: list[Sequence], *, outputs: dict[str, str]
) -> Output:
    metrics = {
        "sft/heldout_loss_before": before,
        "sft/heldout_loss": after,
        "sft/heldout_improvement": before - after,
    }
    counts = dict.fromkeys(metrics, len(heldout))
    files = {"deepspeed_config": "deepspeed.json"} if outputs else {}
    return Output(outputs=outputs, metrics=metrics, counts=counts, files=files)
