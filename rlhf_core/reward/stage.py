"""The reward stage: train a reward model on comparisons, or measure a given one."""

from functools import partial
from pathlib import Path

from rlhf_core.batching.batch import Sequence, subset
from rlhf_core.config.stage_configs import RewardStageConfig
from rlhf_core.data.splits import load_split
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine.encoded import encoded_once, training_rows
from rlhf_core.evidence.figures import reward_figures
from rlhf_core.evidence.items import Columns, write_items
from rlhf_core.modeling.ensemble import close_ensemble, load_members
from rlhf_core.modeling.padding import give_own_pad
from rlhf_core.ranks import is_rank_zero
from rlhf_core.reward.heldout_pairs import (
    PairScores,
    heldout_output,
    member_items,
    member_output,
    pair_items,
    pair_scores,
    subset_output,
)
from rlhf_core.reward.labels import labels_of
from rlhf_core.reward.scoring import member_scores, pair_sequences
from rlhf_core.reward.training import ADAPTER, MODEL, Comparisons, train_members
from rlhf_core.rundir import Output, RunDir, StageSpec, merged


def run(spec: StageSpec[RewardStageConfig], run: RunDir) -> Output:
    """Train a reward model (or an ensemble) from the SFT model, or measure the given one.

    With train = False the given model is only measured.
    """
    config = spec.config.reward
    train_it, shares = spec.config.train, config.share_prompts
    tokenizer = load_tokenizer(spec.inputs["model" if train_it else "given"].path)
    drawn_by = spec.config.heldout_seed(spec.seed)
    rows = subset(
        load_split(spec.inputs["comparisons_heldout"].path), config.max_heldout, seed=drawn_by
    )
    heldout = pair_sequences(tokenizer, rows)
    if train_it:
        give_own_pad(tokenizer, spec.inputs["model"].path)
        train_rows = training_rows(
            spec.inputs["comparisons_train"].path, config.max_train, seed=spec.seed
        )
        labels = labels_of(train_rows, config)  # which may be missing: before the work of encoding
        encode = partial(pair_sequences, tokenizer)
        train = Comparisons(encoded_once(run.tokens, train_rows, encode, Sequence), labels)
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
        forwards, heldout, pad_id, budget, packing=config.packing, share_prompts=shares
    )
    if train_it and len(scores_MN) > 1:
        offsets_M = scores_MN.mean(-1)
        if is_rank_zero():
            close_ensemble(run.path / MODEL, offsets_M.tolist())
        scores_MN = scores_MN - offsets_M[:, None]
    if not is_rank_zero():
        return Output()
    pairs = pair_scores(scores_MN.mean(0), heldout, rows)
    items = pair_items(rows, pairs)
    parts = [heldout_output(pairs), subset_output(pairs, rows)]
    if len(scores_MN) > 1:
        items |= member_items(scores_MN)
        parts.append(member_output(scores_MN, pairs.clusters))
    return _written(merged(parts), pairs, items, run.path, trained=train_it)


def _written(
    measured: Output, pairs: PairScores, items: Columns, path: Path, *, trained: bool
) -> Output:
    reward_figures(pairs.chosen_N - pairs.rejected_N, path)
    files = {"margin_histogram": "margins.png", "calibration": "calibration.png"} | write_items(
        path, items
    )
    outputs = {name: name for name in (MODEL, ADAPTER) if trained and (path / name).exists()}
    if trained:
        files["deepspeed_config"] = "deepspeed.json"
    return measured.model_copy(update={"outputs": outputs, "files": files})
