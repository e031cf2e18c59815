"""The held-out replies of KTO, and the metrics of the implicit reward on them."""

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import KTO
from rlhf_core.config.stage_configs import KTOStageConfig
from rlhf_core.errors import BadInput
from rlhf_core.evidence.figures import label_figures
from rlhf_core.evidence.items import write_items
from rlhf_core.kto.other_prompts import places_of_other_prompts
from rlhf_core.objectives.unpaired import kto, label_weights
from rlhf_core.reward.heldout_labels import LabelScores, label_items, label_output, label_scores
from rlhf_core.reward.heldout_pairs import heldout_metrics, pair_scores
from rlhf_core.reward.labelled_replies import (
    as_replies,
    heldout_rows,
    reply_sequences,
    require_both_labels,
)
from rlhf_core.rundir import Output, RunDir, StageSpec

OF_PAIRS = ("accuracy", "accuracy_lower", "accuracy_upper", "heldout_pairs")


@dataclass(frozen=True)
class HeldoutReplies:
    """Held-out feedback, then the replies of held-out comparisons, as rows and as sequences."""

    rows: list[dict]
    pairs: list[dict]
    sequences: list[Sequence]

    @property
    def mismatched(self) -> list[Sequence]:
        """Each prompt with the nearest earlier reply to another one, cyclic.

        Raises BadInput where all prompts are the same one.
        """
        prompts = [tuple(one.prompt) for one in self.sequences]
        _require_two(prompts)
        places = places_of_other_prompts(prompts)
        found = zip(self.sequences, places, strict=True)
        return [Sequence(own.prompt, self.sequences[place].response) for own, place in found]


def _require_two(prompts: list[tuple[int, ...]]) -> None:
    if len(set(prompts)) < 2:
        raise BadInput(
            f"the held-out data of kto are {len(prompts)} replies to one prompt; expected replies"
            " to two prompts at least, because z0 is measured on prompts with replies to others."
            " Add feedback or comparisons of other prompts."
        )


def heldout_replies(
    spec: StageSpec[KTOStageConfig], tokenizer: PreTrainedTokenizerBase
) -> HeldoutReplies:
    """Return the held-out replies. Raises BadInput where one of the labels is missing."""
    config, drawn_by = spec.config.kto, spec.config.heldout_seed(spec.seed)
    feedback, pairs = (
        heldout_rows(spec.inputs, kind, config.max_heldout, seed=drawn_by)
        for kind in ("feedback", "comparisons")
    )
    rows = [*feedback, *as_replies(pairs)]
    up = sum(row["label"] for row in rows)
    require_both_labels("the held-out data of kto", up, len(rows) - up)
    return HeldoutReplies(rows, pairs, reply_sequences(tokenizer, rows))


def weights_of(config: KTO, counts: tuple[int, int]) -> tuple[float, float]:
    """Return the weights of thumbs up and down. counts: training replies of each label."""
    return label_weights(
        *counts, desirable=config.desirable_weight, undesirable=config.undesirable_weight
    )


def heldout_output(
    heldout: HeldoutReplies,
    logratio_N: Tensor,
    z0: float,
    counts: tuple[int, int],
    written: tuple[KTO, RunDir],
) -> Output:
    """Return the metrics of the held-out replies, and write their items and figures.

    logratio_N: of the held-out replies, nats. counts: training replies of each label. written: the
    settings, and the run directory.
    """
    config, run = written
    reward_N, weights = config.beta * logratio_N, weights_of(config, counts)
    known = label_scores(
        reward_N, (reward_N - config.beta * z0).sigmoid(), heldout.sequences, heldout.rows
    )
    ranked = label_output("kto", known)
    loss = kto(
        logratio_N, known.up_N, len(known.up_N), beta=config.beta, reference_kl=z0, weights=weights
    )
    further = {
        "kto/heldout_loss": float(loss),
        "kto/heldout_reference_kl": z0,
        "kto/heldout_up_logratio": float(logratio_N[known.up_N].mean()),
        "kto/heldout_down_logratio": float(logratio_N[~known.up_N].mean()),
    }
    label_figures(known.scores_N, known.probability_N, known.up_N, run.path)
    files = {"label_scores": "label_scores.png", "label_calibration": "label_calibration.png"}
    items = write_items(run.path, label_items(heldout.rows, known))
    of_pairs = _of_pairs(heldout, known)
    return Output(
        outputs={"model": "model"},
        metrics=ranked.metrics | further | of_pairs.metrics,
        files=files | {"deepspeed_config": "deepspeed.json"} | items,
        counts=ranked.counts | dict.fromkeys(further, len(known.up_N)) | of_pairs.counts,
        intervals=ranked.intervals | of_pairs.intervals,
    )


def _of_pairs(heldout: HeldoutReplies, known: LabelScores) -> Output:
    """Return the accuracy on the held-out comparisons; nothing without any."""
    if not heldout.pairs:
        return Output()
    start = len(heldout.rows) - 2 * len(heldout.pairs)
    pairs = pair_scores(known.scores_N[start:], heldout.sequences[start:], heldout.pairs)
    found = heldout_metrics(pairs)
    metrics = {f"kto/{name}": found[f"reward/{name}"] for name in OF_PAIRS}
    interval = (metrics["kto/accuracy_lower"], metrics["kto/accuracy_upper"])
    counts = dict.fromkeys(metrics, len(heldout.pairs))
    return Output(metrics=metrics, counts=counts, intervals={"kto/accuracy": interval})
