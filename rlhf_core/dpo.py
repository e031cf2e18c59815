"""Direct preference optimisation: learn from comparisons without reward model and rollouts.

Rafailov et al. 2023, arXiv:2305.18290. With label_smoothing it is conservative DPO (Mitchell 2023).
With loss = "ipo" it is the squared loss of Azar et al. 2023, arXiv:2310.12036. log-ratio: sum over
response tokens of log pi - log pi_sft, nats. beta times the log-ratio is the implicit reward.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlhf_core.batching.batch import Sequence, collate, subset
from rlhf_core.batching.collective import gathered, total
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.config import DPO
from rlhf_core.config.stage_configs import DPOStageConfig
from rlhf_core.data.splits import load_split
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine.base import Engine
from rlhf_core.engine.supervised_loop import StepOutcome, SupervisedTask, fit
from rlhf_core.evidence.figures import reward_figures
from rlhf_core.evidence.items import Columns, write_items
from rlhf_core.objectives.losses import dpo, ipo
from rlhf_core.ranks import is_rank_zero
from rlhf_core.reward.aligned_policy import (
    batch_logprobs,
    policy_engine,
    reference_logprobs,
    response_logprobs,
    save_policy,
)
from rlhf_core.reward.heldout_pairs import PairScores, heldout_metrics, pair_items, pair_scores
from rlhf_core.reward.labelled_pairs import pair_weights, training_pairs
from rlhf_core.reward.scoring import pair_sequences
from rlhf_core.rundir import Output, RunDir, StageSpec

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
    found = training_pairs(run, spec.inputs, tokenizer, config.max_train, seed=spec.seed)
    train = WeightedPairs(
        found.sequences, pair_weights(len(found.rows), found.new, config.new_weight)
    )
    drawn_by = spec.config.heldout_seed(spec.seed)
    rows = subset(
        load_split(spec.inputs["comparisons_heldout"].path), config.max_heldout, seed=drawn_by
    )
    heldout = pair_sequences(tokenizer, rows)
    shares = config.share_prompts
    engine = policy_engine(source, config, spec.config, seed=spec.seed, share_prompts=shares)
    pad_id = tokenizer.pad_token_id
    group, parts = 2 if shares else 1, (train.sequences, heldout)
    reference_N = reference_logprobs(run.checkpoints, engine, parts, pad_id, config, group=group)
    accumulate = _accumulator(engine, train, reference_N, config, pad_id)
    fit(engine, run, config, SupervisedTask("dpo", len(found.rows), accumulate), seed=spec.seed)
    save_policy(engine, tokenizer, source, run.path, spec.config)
    logprobs_N = response_logprobs(engine.infer, heldout, pad_id, config, group=group)
    logratio_N = logprobs_N - reference_N[len(train.sequences) :]
    if not is_rank_zero():
        return Output()
    pairs = pair_scores(config.beta * logratio_N, heldout, rows)
    return _output(pairs, logratio_N, config, pair_items(rows, pairs), run.path)


@dataclass(frozen=True)
class WeightedPairs:
    """Pairs to train on, and the weight of each pair's loss.

    sequences: chosen and rejected in turn. weight_N: (N,), or one float for all pairs.
    """

    sequences: Seq[Sequence]
    weight_N: Tensor | float

    def weights(self, places: list[int]) -> Tensor | float:
        """Return the weight of each pair whose sequences are at these places, side by side."""
        if isinstance(self.weight_N, Tensor):
            return self.weight_N[[place // 2 for place in places[0::2]]]
        return self.weight_N


def pair_loss(
    logratio_B: Tensor, denominator: float, config: DPO, *, weight: Tensor | float = 1.0
) -> Tensor:
    """Return the configured loss: the sum over pairs / denominator.

    logratio_B: log-ratios that alternate chosen, rejected. weight: of each pair.
    """
    chosen_B, rejected_B = logratio_B[0::2], logratio_B[1::2]
    if isinstance(weight, Tensor):
        weight = weight.to(logratio_B.device)
    if config.loss == "ipo":
        return ipo(chosen_B, rejected_B, denominator, beta=config.beta, weight=weight)
    how = {"beta": config.beta, "smoothing": config.label_smoothing}
    return dpo(chosen_B, rejected_B, denominator, weight=weight, **how)


def _accumulator(
    engine: Engine, pairs: WeightedPairs, reference_N: Tensor, config: DPO, pad_id: int
) -> Callable[[list[int], int], StepOutcome]:
    train = pairs.sequences

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
            logprobs_B = batch_logprobs(engine, batch)
            logratio_B = logprobs_B - reference_N[places].to(logprobs_B.device)
            loss = pair_loss(logratio_B, len(indices), config, weight=pairs.weights(places))
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
