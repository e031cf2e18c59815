"""The steps of a reward model: Bradley-Terry loss on pairs, cross-entropy on labels of replies."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.batching.collective import gathered, total
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.config import Reward
from rlhf_core.engine.base import Engine
from rlhf_core.engine.supervised_loop import StepOutcome
from rlhf_core.modeling.models import final_scores
from rlhf_core.objectives.losses import bradley_terry, reward_centring
from rlhf_core.objectives.unpaired import label_loss, label_weights
from rlhf_core.reward.labelled_replies import LabelledReplies, no_replies
from rlhf_core.reward.labels import Labels
from rlhf_core.statistics.auc import area


@dataclass(frozen=True)
class Comparisons:
    """Examples to train on: pairs, then single replies with labels.

    sequences: those of the pairs, chosen and rejected in turn. labels: of the pairs.
    """

    sequences: Seq[Sequence]
    labels: Labels
    replies: LabelledReplies = field(default_factory=no_replies)

    def __len__(self) -> int:
        return self.pairs + len(self.replies)

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        return len(self.sequences) // 2

    def parted(self, indices: list[int]) -> tuple[list[int], list[int]]:
        """Return the places of the pairs, and those of the replies, among some examples."""
        pairs = [i for i in indices if i < self.pairs]
        return pairs, [i - self.pairs for i in indices if i >= self.pairs]


@dataclass
class _Step:
    """One step: its examples and tokens, and the sums of its parts on this rank."""

    examples: int
    tokens: int
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, parts: dict[str, float]) -> None:
        for name, value in parts.items():
            self.sums[name] += value


def accumulator(
    engine: Engine, train: Comparisons, config: Reward, pad_id: int
) -> Callable[[list[int], int], StepOutcome]:
    """Return the function that runs the passes of one step."""

    def accumulate(indices: list[int], _step: int) -> StepOutcome:
        pairs, replies = train.parted(indices)
        of_pairs = [train.sequences[k] for i in pairs for k in (2 * i, 2 * i + 1)]
        of_replies = [train.replies.sequences[k] for k in replies]
        step = _Step(len(indices), sum(map(len, of_pairs)) + sum(map(len, of_replies)))
        margins: list[float] = []
        for rows, scores_B in _passes(engine, of_pairs, config, pad_id, group=2):
            labels = train.labels.of([pairs[row // 2] for row in rows.places[0::2]])
            loss, parts = pair_objective(scores_B, labels, config, step.examples)
            _backward(engine, loss, step, counts=rows.counts)
            if rows.counts:
                step.add(parts)
                margins += (scores_B[0::2] - scores_B[1::2]).tolist()
        found: list[tuple[bool, float]] = []
        for rows, scores_B in _passes(engine, of_replies, config, pad_id, group=1):
            up_B = train.replies.up_N[[replies[row] for row in rows.places]].to(scores_B.device)
            loss = _label_objective(scores_B, up_B, train, config, step.examples)
            _backward(engine, loss, step, counts=rows.counts)
            if rows.counts:
                whole = float(loss.detach())
                share = step.examples / len(replies) / config.feedback.weight
                step.add({"loss": whole, "label_loss": whole * share})
                found += list(zip(up_B.tolist(), scores_B.tolist(), strict=True))
        metrics = total(step.sums | engine.module.router_metrics())
        return StepOutcome(metrics | _of_pairs(margins) | _of_replies(found), step.tokens)

    return accumulate


@dataclass(frozen=True)
class _Rows:
    """The rows of a microbatch; counts: False for a pass that other ranks alone need."""

    places: list[int]
    counts: bool


def _passes(
    engine: Engine, sequences: list[Sequence], config: Reward, pad_id: int, *, group: int
) -> Iterator[tuple[_Rows, Tensor]]:
    """Yield the scores of each microbatch with its rows."""
    sizes = [s.size for s in sequences]
    for places, counts in own_microbatches(
        sizes, config.micro_batch_tokens, group=group, packing=config.packing
    ):
        batch = collate([sequences[i] for i in places], pad_id)
        yield _Rows(places, counts), final_scores(engine(batch), batch.response_mask_BR)


def _backward(engine: Engine, loss: Tensor, step: _Step, *, counts: bool) -> None:
    whole = engine.module.with_router_loss(loss, step.tokens, counts=counts)
    engine.backward(whole, counts=counts)


def _of_pairs(margins: list[float]) -> dict[str, float]:
    """Return the step's metrics of pairs over all ranks; none without pairs."""
    margin_N = torch.tensor([margin for part in gathered(margins) for margin in part])
    if not len(margin_N):
        return {}
    return {
        "train_accuracy": float((margin_N > 0).double().mean()),
        "margin": float(margin_N.mean()),
    }


def _of_replies(found: list[tuple[bool, float]]) -> dict[str, float]:
    """Return the step's metric of labels over all ranks; none where a label is missing."""
    every = [one for part in gathered(found) for one in part]
    up_N = torch.tensor([up for up, _ in every], dtype=torch.bool)
    if not 0 < int(up_N.sum()) < len(up_N):
        return {}
    scores_N = torch.tensor([score for _, score in every])
    return {"train_auc": area(scores_N.numpy(), up_N.numpy())}


def pair_objective(
    scores_B: Tensor, labels: Labels, config: Reward, denominator: float
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of pairs chosen, rejected, ..., and its parts for the log.

    Bradley-Terry with margins and label smoothing, + centring * sum (score(chosen) +
    score(rejected))^2 / denominator, each pair with its weight.
    """
    chosen_B, rejected_B = scores_B[0::2], scores_B[1::2]
    known = labels.to(scores_B.device)
    loss = bradley_terry(
        chosen_B,
        rejected_B,
        denominator,
        margin=known.margin_N,
        smoothing=known.smoothing_N,
        weight=known.weight_N,
    )
    parts = {"loss": float(loss.detach())}
    if config.centring:
        squares = reward_centring(chosen_B, rejected_B, denominator, weight=known.weight_N)
        parts["centring"] = float(squares.detach())
        loss = loss + config.centring * squares
    return loss, parts


def _label_objective(
    scores_B: Tensor, up_B: Tensor, train: Comparisons, config: Reward, denominator: float
) -> Tensor:
    """Return the binary cross-entropy of labels, times the weight of the feedback."""
    weights = weights_of(config, train.replies.counts)
    return config.feedback.weight * label_loss(scores_B, up_B, denominator, weights=weights)


def weights_of(config: Reward, counts: tuple[int, int]) -> tuple[float, float]:
    """Return the weights of thumbs up and down. counts: training replies of each label."""
    feedback = config.feedback
    return label_weights(
        *counts, desirable=feedback.desirable_weight, undesirable=feedback.undesirable_weight
    )
