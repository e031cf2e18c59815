"""Kahneman-Tversky optimisation: learn from single replies with thumbs up or down.

Ethayarajh et al. 2024, arXiv:2402.01306. log-ratio: sum over response tokens of log pi - log
pi_sft, nats. beta times the log-ratio is the implicit reward. A reply is good or bad compared with
z0, an estimate of the policy's KL from the SFT model. Each step estimates it anew, without
gradient, from its prompts with replies to other prompts of the step, over all ranks.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.batching.collective import gathered, total
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.config import KTO
from rlhf_core.config.stage_configs import KTOStageConfig
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine.base import Engine
from rlhf_core.engine.supervised_loop import StepOutcome, SupervisedTask, fit
from rlhf_core.kto.heldout import heldout_output, heldout_replies, weights_of
from rlhf_core.kto.shifted_replies import ShiftedReplies
from rlhf_core.objectives.unpaired import kto, mismatched_kl
from rlhf_core.ranks import is_rank_zero
from rlhf_core.reward.aligned_policy import (
    batch_logprobs,
    policy_engine,
    reference_logprobs,
    response_logprobs,
    save_policy,
)
from rlhf_core.reward.labelled_replies import LabelledReplies, require_both_labels, training_replies
from rlhf_core.rundir import Output, RunDir, StageSpec
from rlhf_core.statistics.auc import area


def run(spec: StageSpec[KTOStageConfig], run: RunDir) -> Output:
    """Align the input `policy`, which is the reference too, on replies with thumbs up or down.

    Raises BadInput where one of the labels is missing, or held-out replies are to one prompt;
    Diverged, and the last good checkpoint is kept.
    """
    config, source = spec.config.kto, spec.inputs["policy"].path
    tokenizer = load_tokenizer(source)
    heldout = heldout_replies(spec, tokenizer)
    train = training_replies(run, spec.inputs, tokenizer, config.max_train, seed=spec.seed)
    require_both_labels("the training data of kto", *train.counts)
    engine = policy_engine(source, config, spec.config, seed=spec.seed)
    pad_id = tokenizer.pad_token_id
    shifted = ShiftedReplies(train.sequences, config, seed=spec.seed)
    parts = (train.sequences, shifted, heldout.sequences, heldout.mismatched)
    known_N = reference_logprobs(run.checkpoints, engine, parts, pad_id, config)
    own_N, shifted_M, *of_heldout = known_N.split([len(part) for part in parts])
    learner = _Learner(engine, train, shifted, (own_N, shifted_M), config, pad_id)
    fit(engine, run, config, SupervisedTask("kto", len(train), learner.accumulate), seed=spec.seed)
    save_policy(engine, tokenizer, source, run.path, spec.config)
    logratios = [
        _logprobs(engine, part, pad_id, config) - reference_N
        for part, reference_N in zip(parts[2:], of_heldout, strict=True)
    ]
    if not is_rank_zero():
        return Output()
    return heldout_output(
        heldout, logratios[0], mismatched_kl(logratios[1]), train.counts, (config, run)
    )


def _logprobs(engine: Engine, sequences: Seq[Sequence], pad_id: int, config: KTO) -> Tensor:
    return response_logprobs(engine.infer, sequences, pad_id, config)


@dataclass(frozen=True)
class _Learner:
    """The passes of KTO's steps.

    reference: log-probabilities under the reference, of the training replies and of `shifted`.
    """

    engine: Engine
    train: LabelledReplies
    shifted: ShiftedReplies
    reference: tuple[Tensor, Tensor]
    config: KTO
    pad_id: int

    def accumulate(self, indices: list[int], step: int) -> StepOutcome:
        """Run the passes of one step: without gradients for z0, then with gradients."""
        config, engine = self.config, self.engine
        replies = [self.train.sequences[k] for k in indices]
        tokens, z0 = sum(map(len, replies)), self._reference_kl(step)
        loss_sum, found = 0.0, []
        for rows, counts in own_microbatches(
            [reply.size for reply in replies], config.micro_batch_tokens, packing=config.packing
        ):
            places = [indices[row] for row in rows]
            logprobs_B = batch_logprobs(engine, collate([replies[i] for i in rows], self.pad_id))
            logratio_B = logprobs_B - self.reference[0][places].to(logprobs_B.device)
            up_B = self.train.up_N[places].to(logprobs_B.device)
            loss = self._loss(logratio_B, up_B, len(indices), z0)
            whole = engine.module.with_router_loss(loss, tokens, counts=counts)
            engine.backward(whole, counts=counts)
            if counts:
                loss_sum += float(loss.detach())
                found += list(zip(up_B.tolist(), logratio_B.tolist(), strict=True))
        pairs = [pair for part in gathered(found) for pair in part]
        metrics = total({"loss": loss_sum} | engine.module.router_metrics())
        return StepOutcome(
            metrics | {"reference_kl": z0} | step_metrics(pairs, config.beta), tokens
        )

    def _reference_kl(self, step: int) -> float:
        places = self.shifted.places(step)
        logprobs_M = _logprobs(self.engine, self.shifted[places], self.pad_id, self.config)
        return mismatched_kl(logprobs_M - self.reference[1][places])

    def _loss(self, logratio_B: Tensor, up_B: Tensor, denominator: int, z0: float) -> Tensor:
        weights = weights_of(self.config, self.train.counts)
        beta = self.config.beta
        return kto(logratio_B, up_B, denominator, beta=beta, reference_kl=z0, weights=weights)


def step_metrics(found: list[tuple[bool, float]], beta: float) -> dict[str, float]:
    """Return the means of a step's labels and log-ratios; a step may lack a label.

    found: label and log-ratio of each reply.
    """
    up_N = torch.tensor([up for up, _ in found])
    logratio_N = torch.tensor([ratio for _, ratio in found])
    sides = {"up": logratio_N[up_N], "down": logratio_N[~up_N]}
    means = {f"{name}_logratio": float(part.mean()) for name, part in sides.items() if len(part)}
    if len(means) < len(sides):
        return means
    ranked = {"train_auc": area(logratio_N.numpy(), up_N.numpy())}
    return means | ranked | {"margin": beta * (means["up_logratio"] - means["down_logratio"])}
