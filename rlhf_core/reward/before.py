"""The reward model before training: the one that the policy of new comparisons was trained with."""

from pathlib import Path

import torch
from torch import Tensor

from rlhf_core.batching.batch import Sequence
from rlhf_core.config.stage_configs import RewardStageConfig
from rlhf_core.data.splits import load_split, prompt_keys, short_key
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.modeling.ensemble import load_members
from rlhf_core.reward.drift import BeforeScores
from rlhf_core.reward.heldout_pairs import pair_scores
from rlhf_core.reward.labelled_pairs import Inputs
from rlhf_core.reward.measured import HeldoutExamples
from rlhf_core.reward.scoring import member_scores
from rlhf_core.rundir import StageSpec
from rlhf_core.stage_catalogue import NEW_HELDOUT, UNSEEN


def before_scores(
    spec: StageSpec[RewardStageConfig], heldout: HeldoutExamples
) -> BeforeScores | None:
    """Return the held-out scores of the input 'before', or else of 'start'.

    None without such a model, and without new comparisons. It costs one pass over the held-out
    pairs, and leaves the random numbers of the training that follows as they are.
    """
    model = spec.inputs.get("before", spec.inputs.get("start"))
    if model is None or heldout.new is None:
        return None
    old = _unseen(spec.inputs, "comparisons_heldout", heldout.pairs)
    new = _unseen(spec.inputs, NEW_HELDOUT, heldout.new)
    if not new:
        old = []  # then nothing is compared
    places_N = torch.arange(len(heldout.sequences))
    of_old = heldout.of_pairs(places_N).view(-1, 2)[old].flatten().tolist()
    of_new = heldout.of_new(places_N).view(-1, 2)[new].flatten().tolist()
    sequences = [heldout.sequences[place] for place in of_old + of_new]
    scores_N = _scores(spec, model.path, sequences)
    first, cut = len(of_old), [heldout.pairs[i] for i in old]
    return BeforeScores(
        new=pair_scores(scores_N[first:], sequences[first:], [heldout.new[i] for i in new]),
        places=new,
        old=pair_scores(scores_N[:first], sequences[:first], cut),
    )


def _scores(spec: StageSpec[RewardStageConfig], model: Path, sequences: list[Sequence]) -> Tensor:
    """Return the model's score of each sequence, (N,): the mean over its members."""
    if not sequences:
        return torch.zeros(0)
    packing, shares = spec.config.reward.packing, spec.config.reward.share_prompts
    with torch.random.fork_rng():
        members = load_members(
            model, dtype=spec.config.dtype, packing=packing, share_prompts=shares
        )
        scores_MN = member_scores(
            members,
            sequences,
            load_tokenizer(model).pad_token_id,
            spec.config.reward.micro_batch_tokens,
            packing=packing,
            share_prompts=shares,
        )
    return scores_MN.mean(0)


def _unseen(inputs: Inputs, split: str, rows: list[dict]) -> list[int]:
    """Return the places of the rows on whose prompts the model before was not trained.

    All of them without a split that says so.
    """
    unseen = inputs.get(f"{split}{UNSEEN}")
    if unseen is None:
        return list(range(len(rows)))
    known = prompt_keys(load_split(unseen.path))
    return [place for place, row in enumerate(rows) if short_key(row["prompt"]) in known]
