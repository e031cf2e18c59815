"""The held-out examples of the reward stage, and the measures of a score on them."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence
from rlhf_core.config.data.section import NEW_COMPARISONS
from rlhf_core.evidence.figures import label_figures, reward_figures
from rlhf_core.evidence.items import write_items, write_label_items
from rlhf_core.reward.heldout_labels import label_items, label_output, label_scores
from rlhf_core.reward.heldout_pairs import (
    PairScores,
    heldout_output,
    member_items,
    member_output,
    new_output,
    pair_items,
    pair_scores,
    subset_output,
)
from rlhf_core.reward.labelled_pairs import Inputs
from rlhf_core.reward.labelled_replies import heldout_rows, reply_sequences, require_both_labels
from rlhf_core.reward.scoring import pair_sequences
from rlhf_core.rundir import Output, merged
from rlhf_core.stage_catalogue import NEW_HELDOUT


@dataclass(frozen=True)
class HeldoutExamples:
    """Held-out comparisons, then held-out feedback, one of which may be empty, then new ones.

    sequences: those of the comparisons, chosen and rejected in turn, then those of the feedback,
    then those of the new comparisons. new: None without data.new_comparisons.
    """

    pairs: list[dict]
    feedback: list[dict]
    sequences: list[Sequence]
    new: list[dict] | None = None

    @classmethod
    def of(
        cls, inputs: Inputs, tokenizer: PreTrainedTokenizerBase, limit: int, *, seed: int
    ) -> "HeldoutExamples":
        """Return at most `limit` rows of each kind. Raises BadInput for feedback of one label."""
        pairs, feedback, new = (
            heldout_rows(inputs, kind, limit, seed=seed)
            for kind in ("comparisons", "feedback", NEW_COMPARISONS)
        )
        if feedback:
            up = sum(row["label"] for row in feedback)
            require_both_labels("the held-out feedback", up, len(feedback) - up)
        sequences = [
            *pair_sequences(tokenizer, pairs),
            *reply_sequences(tokenizer, feedback),
            *pair_sequences(tokenizer, new),
        ]
        return cls(pairs, feedback, sequences, new if NEW_HELDOUT in inputs else None)

    def of_pairs(self, values_MN: Tensor) -> Tensor:
        """Return the part of the comparisons, along the last axis."""
        return values_MN[..., : 2 * len(self.pairs)]

    def of_feedback(self, values_MN: Tensor) -> Tensor:
        """Return the part of the feedback, along the last axis."""
        return values_MN[..., 2 * len(self.pairs) :][..., : len(self.feedback)]

    def of_new(self, values_MN: Tensor) -> Tensor:
        """Return the part of the new comparisons, along the last axis."""
        return values_MN[..., 2 * len(self.pairs) + len(self.feedback) :]

    def new_pairs(self, scores_MN: Tensor) -> PairScores:
        """Return the new comparisons with the mean of the members' scores."""
        rows = self.new or []
        sequences = self.sequences[len(self.sequences) - 2 * len(rows) :]
        return pair_scores(self.of_new(scores_MN).mean(0), sequences, rows)

    def centring(self, values_MN: Tensor) -> Tensor:
        """Return the part by which scores are centred: the comparisons, or else the feedback."""
        return self.of_pairs(values_MN) if self.pairs else self.of_feedback(values_MN)


def measured(
    heldout: HeldoutExamples, scores_MN: Tensor, probability_N: Tensor, path: Path
) -> Output:
    """Return all held-out metrics, and write items and figures into `path`.

    scores_MN: of each member. probability_N: of thumbs up, for the feedback.
    """
    parts = []
    if heldout.pairs:
        parts.append(_on_pairs(heldout, heldout.of_pairs(scores_MN), path))
    if heldout.feedback:
        scores_N = heldout.of_feedback(scores_MN).mean(0)
        sequences = heldout.sequences[2 * len(heldout.pairs) :][: len(heldout.feedback)]
        known = label_scores(scores_N, probability_N, sequences, heldout.feedback)
        label_figures(known.scores_N, probability_N, known.up_N, path)
        files = {"label_scores": "label_scores.png", "label_calibration": "label_calibration.png"}
        files |= write_label_items(path, label_items(heldout.feedback, known))
        parts += [label_output("reward", known), Output(files=files)]
    if heldout.new is not None:
        parts.append(new_output(heldout.new_pairs(scores_MN)))
    return merged(parts)


def _on_pairs(heldout: HeldoutExamples, scores_MN: Tensor, path: Path) -> Output:
    rows = heldout.pairs
    pairs = pair_scores(scores_MN.mean(0), heldout.sequences[: 2 * len(rows)], rows)
    items = pair_items(rows, pairs)
    parts = [heldout_output(pairs), subset_output(pairs, rows)]
    if len(scores_MN) > 1:
        items |= member_items(scores_MN)
        parts.append(member_output(scores_MN, pairs.clusters))
    reward_figures(pairs.chosen_N - pairs.rejected_N, path)
    files = {"margin_histogram": "margins.png", "calibration": "calibration.png"}
    return merged([*parts, Output(files=files | write_items(path, items))])
