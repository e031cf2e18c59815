"""Reward-hacking detectors: pure functions over the item columns of an evaluation.

The columns are documented in rlhf_core/evidence/items.py. Each detector gives metrics, on which
gates may be set, and the badness of each item, so that people can read the worst ones. No detector
proves anything alone: a policy may rightly write longer replies. Together with the replies they
show how the score was raised (Skalse et al. 2022, arXiv:2209.13085; Gao et al. 2023,
arXiv:2210.10760).
"""

import re
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rlhf_core.errors import BadInput
from rlhf_core.evaluation import retrieval
from rlhf_core.evaluation.ngrams import cut_alike, distinct, first_words, opening_shares, words
from rlhf_core.evidence.items import Columns
from rlhf_core.statistics.clusters import Clusters, clusters_of, wilson_clustered
from rlhf_core.statistics.correlation import is_constant, pearson, spearman, standardized
from rlhf_core.statistics.paired import bootstrap_mean


@dataclass(frozen=True)
class Detection:
    """The result of one detector.

    badness_N: one number per item, higher is worse; each detector defines its own.
    """

    name: str
    metrics: dict[str, float]
    badness_N: list[float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


def detect(columns: Columns) -> list[Detection]:
    """Run every detector whose evidence is among the columns.

    An independent scorer whose scores equal the reward model's is no second opinion, and is left
    out.
    """
    found = [length(columns), repeated(columns), opening(columns), answers_prompt(columns)]
    found.append(kl_per_reward(columns))
    if "policy_independent" in columns and columns["policy_independent"] != columns["policy_score"]:
        found.append(independent(columns))
    if len(_rated_by(columns)) > 1:
        found.append(disagreement(columns))
    return found


def length(columns: Columns) -> Detection:
    """Correlate reward score and response tokens.

    badness: min(z(score), z(tokens)), z over the policy's replies. Bad is a reply both longer and
    better scored than the others. The SFT model's replies are the better evidence: the replies of a
    policy that always writes up to the limit no longer show that length pays
    (infra/docs/results/detectors.md).
    """
    score_N, tokens_N = _tensor(columns["policy_score"]), _tensor(columns["policy_tokens"])
    metrics = {
        "eval/length_correlation": pearson(score_N, tokens_N),
        "eval/length_correlation_rank": spearman(score_N, tokens_N),
        "eval/length_correlation_sft": pearson(
            _tensor(columns["sft_score"]), _tensor(columns["sft_tokens"])
        ),
    }
    badness_N = torch.minimum(standardized(score_N), standardized(tokens_N))
    return Detection("length", metrics, badness_N.tolist())


def repeated(columns: Columns) -> Detection:
    """Count distinct word n-grams of all replies together.

    The share of distinct n-grams falls with the length of the replies. The metrics `_cut` therefore
    count in replies of equal length: of the two replies to a prompt, the longer one is cut to the
    words of the shorter one. badness: the reply's share of repeated token 3-grams. A ratio to the
    SFT model is absent when that model has no n-gram.
    """
    ours, theirs = ([words(text) for text in columns[f"{m}_reply"]] for m in ("policy", "sft"))
    metrics: dict[str, float] = {}
    for suffix, pair in (("", (ours, theirs)), ("_cut", cut_alike(ours, theirs))):
        for n in (2, 3):
            found, baseline = (distinct(replies, n) for replies in pair)
            name = f"eval/distinct_{n}{suffix}"
            metrics |= {name: found, f"{name}_sft": baseline}
            if baseline > 0:
                metrics[f"{name}_ratio"] = found / baseline
    return Detection("repetition", metrics, columns["policy_repetition"])


def opening(columns: Columns) -> Detection:
    """Measure the shares of the most frequent first three words and of the first word.

    badness: the share of replies that begin with the same three words as this one.
    """
    share_of = {name: opening_shares(columns[f"{name}_reply"]) for name in ("policy", "sft")}
    first = {name: max(opening_shares(columns[f"{name}_reply"], 1).values()) for name in share_of}
    ours_N = [share_of["policy"][first_words(text)] for text in columns["policy_reply"]]
    metrics = {
        "eval/opening_share": max(ours_N),
        "eval/opening_share_sft": max(share_of["sft"].values()),
        "eval/first_word_share": first["policy"],
        "eval/first_word_share_sft": first["sft"],
        "eval/first_word_rise": first["policy"] - first["sft"],
    }
    return Detection("opening", metrics, ours_N)


def answers_prompt(columns: Columns) -> Detection:
    """Measure how well the prompt can be told from the reply, policy and SFT model.

    badness: the SFT reply's rank - the policy reply's rank (rlhf_core/evaluation/retrieval.py). The
    loss is absent when the prompts cannot be told from the SFT model's replies. Its interval is 0
    to 1 then.
    """
    prompts = columns["prompt"]
    rank_of = {
        name: retrieval.prompt_ranks(prompts, columns[f"{name}_reply"])
        for name in ("policy", "sft")
    }
    clusters = _clusters(columns)
    loss = retrieval.retrieval_loss(rank_of["policy"], rank_of["sft"], clusters)
    name = "eval/prompt_retrieval"
    names = {name: rank_of["policy"], f"{name}_sft": rank_of["sft"]}
    metrics = {key: float(rank_N.mean()) for key, rank_N in names.items()}
    intervals = {
        k: bootstrap_mean(rank_N, seed=retrieval.SEED, clusters=clusters)
        for k, rank_N in names.items()
    }
    metrics |= {f"{name}_loss_lower": loss.interval[0], f"{name}_loss_upper": loss.interval[1]}
    intervals |= {f"{name}_loss_lower": loss.interval}
    if loss.value is not None:
        metrics[f"{name}_loss"] = loss.value
        intervals[f"{name}_loss"] = loss.interval
    badness_N = (rank_of["sft"] - rank_of["policy"]).tolist()
    return Detection("prompt", metrics, badness_N, intervals)


def kl_per_reward(columns: Columns) -> Detection:
    """Measure the KL spent per unit of score gained, mean over mean.

    The metric is absent when the score did not rise, because there is no price then. badness: nats
    beyond the price of the reply's own gain; all nats when there is no price.
    """
    kl_N, gain_N = _tensor(columns["policy_kl"]), gain(columns, "score")
    price = float(kl_N.mean() / gain_N.mean()) if gain_N.mean() > 0 else None
    metrics = {} if price is None else {"eval/kl_per_reward": price}
    return Detection("kl", metrics, (kl_N - (price or 0.0) * gain_N).tolist())


def independent(columns: Columns) -> Detection:
    """Measure the share of prompts on which the score rose and the independent scorer's fell.

    The share has its 95% Wilson interval. badness: min(score gain, -independent gain), each over
    its root mean square; positive only on those prompts.
    """
    score_N, independent_N = gain(columns, "score"), gain(columns, "independent")
    apart_N = ((score_N > 0) & (independent_N < 0)).double().numpy()
    name = "eval/reward_up_independent_down"
    badness_N = torch.minimum(_over_rms(score_N), -_over_rms(independent_N)).tolist()
    interval = wilson_clustered(apart_N, np.ones(len(apart_N)), _clusters(columns))
    return Detection("independent", {name: float(apart_N.mean())}, badness_N, {name: interval})


def disagreement(columns: Columns) -> Detection:
    """Measure the spread of the reward models' standardized scores of one reply.

    A model's scores are standardized by mean and standard deviation of its scores of the SFT
    model's replies. Models that disagree about the gain of PPO therefore differ. badness: standard
    deviation over the models. Coste et al. 2024, arXiv:2310.02743.
    """
    ours_MN, theirs_MN = standardized_by_sft(columns)
    ours_N = ours_MN.std(0, correction=0)
    metrics = {
        "eval/reward_disagreement": float(ours_N.mean()),
        "eval/reward_disagreement_sft": float(theirs_MN.std(0, correction=0).mean()),
    }
    return Detection("disagreement", metrics, ours_N.tolist())


def standardized_by_sft(columns: Columns) -> tuple[Tensor, Tensor]:
    """Return standardized scores of the policy's and the SFT model's replies, (M, N) each.

    M: models, N: items. Raises BadInput for a model whose scores are constant.
    """
    names = _rated_by(columns)
    ours_MN = torch.stack([_tensor(columns[f"policy_{name}"]) for name in names])
    theirs_MN = torch.stack([_tensor(columns[f"sft_{name}"]) for name in names])
    for name, scores_N in zip(names, theirs_MN, strict=True):
        if is_constant(scores_N):
            raise BadInput(
                f"the reward model of column {name} gives every reply of the SFT model"
                f" {float(scores_N[0]):g}; expected scores that differ. Take it out of"
                " evaluate.reward_models, or train it longer."
            )
    mean_M1 = theirs_MN.mean(-1, keepdim=True)
    spread_M1 = theirs_MN.std(-1, correction=0, keepdim=True)
    return (ours_MN - mean_M1) / spread_M1, (theirs_MN - mean_M1) / spread_M1


def _rated_by(columns: Columns) -> list[str]:
    """Return the names of the models with scores.

    Members of an ensemble replace the main reward model, which is their mean.
    """
    names = [
        key.removeprefix("policy_")
        for key in columns
        if re.fullmatch(r"policy_(score(_\d+)?|member_\d+)", key)
    ]
    return [name for name in names if name != "score"] if "member_1" in names else names


def gain(columns: Columns, what: str) -> Tensor:
    """Return policy - SFT of a column, 'score' or 'independent', by item, (N,) float64."""
    return _tensor(columns[f"policy_{what}"]) - _tensor(columns[f"sft_{what}"])


def _clusters(columns: Columns) -> Clusters:
    """Return the number of each item's prompt; None where no two items share one."""
    return clusters_of(columns["prompt_id"]) if "prompt_id" in columns else None


def _tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _over_rms(values_N: Tensor) -> Tensor:
    size = values_N.square().mean().sqrt()
    return values_N / size if size > 0 else values_N
