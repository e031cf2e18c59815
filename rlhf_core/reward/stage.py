"""The reward stage: train a reward model on comparisons and labels, or measure a given one."""

from collections.abc import Sequence as Seq

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence
from rlhf_core.config.stage_configs import RewardStageConfig
from rlhf_core.data.rows.lazy import Joined
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.modeling.ensemble import close_ensemble, load_members
from rlhf_core.modeling.padding import give_own_pad
from rlhf_core.ranks import is_rank_zero
from rlhf_core.reward.before import before_scores
from rlhf_core.reward.drift import drift_output
from rlhf_core.reward.labelled_pairs import pair_rows, training_pairs
from rlhf_core.reward.labelled_replies import require_both_labels, training_feedback
from rlhf_core.reward.labels import Labels, labels_of
from rlhf_core.reward.measured import HeldoutExamples, measured
from rlhf_core.reward.scoring import member_scores
from rlhf_core.reward.steps import Comparisons, weights_of
from rlhf_core.reward.training import ADAPTER, MODEL, starting_model, train_members
from rlhf_core.rundir import Output, RunDir, StageSpec, merged


def run(spec: StageSpec[RewardStageConfig], run: RunDir) -> Output:
    """Train a reward model (or an ensemble) from its starting model, or measure the given one.

    With train = False the given model is only measured. Raises BadInput where the feedback has one
    label alone.
    """
    config = spec.config.reward
    train_it, shares = spec.config.train, config.share_prompts
    source = starting_model(spec) if train_it else spec.inputs["given"]
    tokenizer = load_tokenizer(source.path)
    heldout = HeldoutExamples.of(
        spec.inputs, tokenizer, config.max_heldout, seed=spec.config.heldout_seed(spec.seed)
    )
    before = before_scores(spec, heldout)  # measured before training, and freed
    log_odds = 0.0  # of thumbs up by the weights alone
    if train_it:
        give_own_pad(tokenizer, source.path)
        train = _training(spec, run, tokenizer)
        log_odds = _log_odds(spec, train)
        forwards = train_members(spec, run, tokenizer, train)
    else:
        forwards = load_members(
            spec.inputs["given"].path,
            dtype=spec.config.dtype,
            packing=config.packing,
            share_prompts=shares,
        )
    pad_id, budget = tokenizer.pad_token_id, config.micro_batch_tokens
    scores_MN = member_scores(
        forwards, heldout.sequences, pad_id, budget, packing=config.packing, share_prompts=shares
    )
    probability_N = (heldout.of_feedback(scores_MN).mean(0) - log_odds).sigmoid()
    if train_it and len(scores_MN) > 1:
        scores_MN = _centred(scores_MN, heldout, run)
    if not is_rank_zero():
        return Output()
    found = measured(heldout, scores_MN, probability_N, run.path)
    if before:
        found = merged([found, drift_output(before, heldout.new_pairs(scores_MN))])
    return _with_files(found, run, trained=train_it)


def _training(
    spec: StageSpec[RewardStageConfig], run: RunDir, tokenizer: PreTrainedTokenizerBase
) -> Comparisons:
    config, inputs = spec.config.reward, spec.inputs
    pairs: Seq[Sequence] = []
    labels = Labels()
    if "comparisons_train" in inputs:
        rows = pair_rows(inputs, config.max_train, seed=spec.seed)
        # labels may be missing: before the work of encoding
        labels = labels_of(Joined(rows), config, new=sum(map(len, rows[1:])))
        found = training_pairs(run, inputs, tokenizer, config.max_train, seed=spec.seed)
        pairs = found.sequences
    replies = training_feedback(run, inputs, tokenizer, config.max_train, seed=spec.seed)
    if len(replies):
        require_both_labels("the training feedback", *replies.counts)
    return Comparisons(pairs, labels, replies)


def _log_odds(spec: StageSpec[RewardStageConfig], train: Comparisons) -> float:
    """Return the score of a reply with thumbs up half of the time, by the labels' weights."""
    if not len(train.replies):
        return 0.0
    up, down = weights_of(spec.config.reward, train.replies.counts)
    return float(torch.tensor(up / down).log())


def _centred(scores_MN: Tensor, heldout: HeldoutExamples, run: RunDir) -> Tensor:
    """Return scores whose mean over the held-out examples is 0 for each member; keep the means."""
    offsets_M = heldout.centring(scores_MN).mean(-1)
    if is_rank_zero():
        close_ensemble(run.path / MODEL, offsets_M.tolist())
    return scores_MN - offsets_M[:, None]


def _with_files(found: Output, run: RunDir, *, trained: bool) -> Output:
    if not trained:
        return found
    outputs = {name: name for name in (MODEL, ADAPTER) if (run.path / name).exists()}
    files = found.files | {"deepspeed_config": "deepspeed.json"}
    return found.model_copy(update={"outputs": outputs, "files": files})
