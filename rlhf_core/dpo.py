"""Direct preference optimisation: learn from comparisons without reward model and rollouts.

Rafailov et al. 2023, arXiv:2305.18290. With label_smoothing it is conservative DPO (Mitchell 2023).
With loss = "ipo" it is the squared loss of Azar et al. 2023, arXiv:2310.12036. log-ratio: sum over
response tokens of log pi - log pi_sft, nats. beta times the log-ratio is the implicit reward.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf_core.batching.batch import Batch, Sequence, collate, subset
from rlhf_core.batching.collective import barrier, gathered, summed, total
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.config import DPO
from rlhf_core.config.stage_configs import DPOStageConfig
from rlhf_core.data.splits import load_split
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine.base import Engine, Forward
from rlhf_core.engine.deepspeed import DeepSpeedEngine, write_config
from rlhf_core.engine.encoded import encoded_once, training_rows
from rlhf_core.engine.supervised_loop import StepOutcome, SupervisedTask, fit
from rlhf_core.evidence.figures import reward_figures
from rlhf_core.evidence.items import Columns, write_items
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
from rlhf_core.objectives.losses import dpo, ipo, sequence_sum
from rlhf_core.ranks import is_rank_zero
from rlhf_core.reward.heldout_pairs import PairScores, heldout_metrics, pair_items, pair_scores
from rlhf_core.reward.scoring import pair_sequences
from rlhf_core.rundir import Output, RunDir, StageSpec

REFERENCE = "reference.safetensors"
AS_REWARD = (  # metrics of a reward model, here of the implicit reward
    "accuracy",
    "accuracy_lower",
    "accuracy_upper",
    "accuracy_when_shorter",
    "length_baseline",
    "heldout_pairs",
    "heldout_prompts",
    "heldout_margin",
    "calibration_error",
)


def run(spec: StageSpec[DPOStageConfig], run: RunDir) -> Output:
    """Align the input `policy`, which is the reference too, on comparisons.

    Raises Diverged; the last good checkpoint is kept.
    """
    config, source = spec.config.dpo, spec.inputs["policy"].path
    tokenizer = load_tokenizer(source)
    train_rows = training_rows(
        spec.inputs["comparisons_train"].path, config.max_train, seed=spec.seed
    )
    drawn_by = spec.config.heldout_seed(spec.seed)
    rows = subset(
        load_split(spec.inputs["comparisons_heldout"].path), config.max_heldout, seed=drawn_by
    )
    encode = partial(pair_sequences, tokenizer)
    train = encoded_once(run.tokens, train_rows, encode, Sequence)
    heldout = encode(rows)
    mapped = maps_weights(config)
    loaded = load_policy(source, logits_mib=spec.config.logits_mib, mapped=mapped)
    unpadded = without_padding(
        loaded, on=config.packing, dtype=spec.config.dtype, share_prompts=config.share_prompts
    )
    policy = with_adapter(unpadded, config.lora, seed=spec.seed)
    engine = DeepSpeedEngine(policy, config, dtype=spec.config.dtype)
    if config.packing:
        require_no_router_loss(engine.module)
        require_separation(
            engine.infer, dtype=spec.config.dtype, share_prompts=config.share_prompts
        )
    pad_id = tokenizer.pad_token_id
    reference_N = _reference(run.checkpoints, engine, (train, heldout), pad_id, config)
    accumulate = _accumulator(engine, train, reference_N, config, pad_id)
    fit(engine, run, config, SupervisedTask("dpo", len(train) // 2, accumulate), seed=spec.seed)
    saved = saved_dtype(source, computed=spec.config.dtype, wanted=spec.config.export_dtype)
    finish(engine, dtype=saved)  # so that the saved weights are measured
    weights = engine.whole_weights()
    save_model(engine.module, tokenizer, run.path / "model", weights=weights, dtype=saved)
    write_config(engine, run.path / "deepspeed.json")
    logprobs_N = response_logprobs(engine.infer, heldout, pad_id, config)
    logratio_N = logprobs_N - reference_N[len(train) :]
    if not is_rank_zero():
        return Output()
    pairs = pair_scores(config.beta * logratio_N, heldout, rows)
    return _output(pairs, logratio_N, config, pair_items(rows, pairs), run.path)


def response_logprobs(
    forward: Forward, sequences: Seq[Sequence], pad_id: int, config: DPO
) -> Tensor:
    """Return the log-probability of every response, in the order given.

    (N,) float32 nats on the CPU. sequences: chosen and rejected in turn.
    """
    logprobs_N, sizes = torch.zeros(len(sequences)), [s.size for s in sequences]
    group = 2 if config.share_prompts else 1
    for rows, counts in own_microbatches(
        sizes, config.micro_batch_tokens, group=group, packing=config.packing
    ):
        batch = collate([sequences[i] for i in rows], pad_id)
        logprobs_B = _summed(forward, batch)
        if counts:
            logprobs_N[rows] = logprobs_B.cpu()
    return summed(logprobs_N)


def pair_loss(logratio_B: Tensor, denominator: float, config: DPO) -> Tensor:
    """Return the configured loss: the sum over pairs / denominator.

    logratio_B: log-ratios that alternate chosen, rejected.
    """
    chosen_B, rejected_B = logratio_B[0::2], logratio_B[1::2]
    if config.loss == "ipo":
        return ipo(chosen_B, rejected_B, denominator, beta=config.beta)
    return dpo(
        chosen_B, rejected_B, denominator, beta=config.beta, smoothing=config.label_smoothing
    )


def _summed(forward: Forward, batch: Batch) -> Tensor:
    return sequence_sum(forward(batch, query=TokenQuery()).logprobs_BR, batch.response_mask_BR)


def _reference(
    folder: Path, engine: Engine, parts: tuple[Seq[Sequence], ...], pad_id: int, config: DPO
) -> Tensor:
    """Return the log-probabilities of all parts under the model that training starts from.

    They are computed once, so that a resumed stage reads the same numbers.
    """
    file = folder / REFERENCE
    if not gathered(file.exists())[0]:
        logprobs_N = torch.cat(
            [response_logprobs(engine.infer, part, pad_id, config) for part in parts]
        )
        if is_rank_zero():
            folder.mkdir(exist_ok=True)
            temporary = file.with_name(f".{REFERENCE}.tmp")
            save_file({"logprobs_N": logprobs_N}, temporary)
            follow_umask(temporary)
            temporary.replace(file)
        barrier()
    return load_file(file)["logprobs_N"]


def _accumulator(
    engine: Engine, train: Seq[Sequence], reference_N: Tensor, config: DPO, pad_id: int
) -> Callable[[list[int], int], StepOutcome]:
    def accumulate(indices: list[int], _step: int) -> StepOutcome:
        picked = [k for i in indices for k in (2 * i, 2 * i + 1)]
        tokens = sum(len(train[k]) for k in picked)
        loss_sum, found = 0.0, []
        for rows, counts in own_microbatches(
            [train[k].size for k in picked],
            config.micro_batch_tokens,
            group=2,
            packing=config.packing,
        ):
            places = [picked[i] for i in rows]
            batch = collate([train[k] for k in places], pad_id)
            logprobs_B = _summed(engine, batch)
            logratio_B = logprobs_B - reference_N[places].to(logprobs_B.device)
            loss = pair_loss(logratio_B, len(indices), config)
            whole = engine.module.with_router_loss(loss, tokens, counts=counts)
            engine.backward(whole, counts=counts)
            if counts:
                loss_sum += float(loss.detach())
                found += logratio_B.tolist()
        logratio_N = torch.tensor([one for part in gathered(found) for one in part])
        return StepOutcome(
            total({"loss": loss_sum} | engine.module.router_metrics())
            | _step_metrics(logratio_N, config),
            tokens,
        )

    return accumulate


def _step_metrics(logratio_N: Tensor, config: DPO) -> dict[str, float]:
    margin_N = config.beta * (logratio_N[0::2] - logratio_N[1::2])
    return {
        "train_accuracy": float((margin_N > 0).double().mean()),
        "margin": float(margin_N.mean()),
        "chosen_logratio": float(logratio_N[0::2].mean()),
        "rejected_logratio": float(logratio_N[1::2].mean()),
    }


def _output(
    pairs: PairScores, logratio_N: Tensor, config: DPO, items: Columns, path: Path
) -> Output:
    found, n = heldout_metrics(pairs), len(pairs.chosen_N)
    metrics = {f"dpo/{name}": found[f"reward/{name}"] for name in AS_REWARD}
    metrics |= {
        "dpo/heldout_loss": float(pair_loss(logratio_N, n, config)),
        "dpo/heldout_chosen_logratio": float(logratio_N[0::2].mean()),
        "dpo/heldout_rejected_logratio": float(logratio_N[1::2].mean()),
    }
    reward_figures(pairs.chosen_N - pairs.rejected_N, path)
    files = {
        "margin_histogram": "margins.png",
        "calibration": "calibration.png",
        "deepspeed_config": "deepspeed.json",
    }
    shorter = int((pairs.chosen_tokens_N < pairs.rejected_tokens_N).sum())
    return Output(
        outputs={"model": "model"},
        metrics=metrics,
        files=files | write_items(path, items),
        counts=dict.fromkeys(metrics, n) | {"dpo/accuracy_when_shorter": shorter},
        intervals={"dpo/accuracy": (metrics["dpo/accuracy_lower"], metrics["dpo/accuracy_upper"])},
    )
