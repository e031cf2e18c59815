"""The reward model: a scalar head at the last real token, trained on comparisons with the Bradley-Terry loss."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlhf_core.batch import Batch, Sequence, collate, encode, microbatches, subset
from rlhf_core.config import Reward
from rlhf_core.data.render import prompt_text
from rlhf_core.data.splits import load_split
from rlhf_core.detectors import pearson
from rlhf_core.engine import Engine, write_config
from rlhf_core.figures import reward_figures
from rlhf_core.items import Columns, item_id, last_user_turn, write_items
from rlhf_core.lora import has_adapter, merge_adapter, save_adapter, with_adapter, write_origin
from rlhf_core.losses import bradley_terry
from rlhf_core.models import ScalarModel, final_scores, inference, load_scalar, load_tokenizer, save_model
from rlhf_core.rundir import Artifact, Output, RunDir, StageSpec
from rlhf_core.stats import calibration_error, wilson
from rlhf_core.training import StepOutcome, fit


@dataclass(frozen=True)
class PairScores:
    """Held-out scores and lengths (response tokens), one entry a pair."""

    chosen_N: Tensor
    rejected_N: Tensor
    chosen_tokens_N: Tensor
    rejected_tokens_N: Tensor


def run(spec: StageSpec, run: RunDir) -> Output:
    """Train a reward model from the SFT model, or with train = False only measure the given one."""
    config = Reward.model_validate(spec.config["reward"])
    train_it = spec.config["train"]
    source = spec.inputs["model" if train_it else "given"].path
    tokenizer = load_tokenizer(source)
    model = load_scalar(source, new_head=train_it, seed=spec.seed)
    rows = subset(load_split(spec.inputs["comparisons_heldout"].path), config.max_heldout, seed=spec.seed)
    heldout = pair_sequences(tokenizer, rows)
    if train_it:
        train_rows = subset(load_split(spec.inputs["comparisons_train"].path), config.max_train, seed=spec.seed)
        train = pair_sequences(tokenizer, train_rows)
        engine = Engine(with_adapter(model, config.lora, seed=spec.seed), config, dtype=spec.config["dtype"])
        accumulate = _accumulator(engine, train, tokenizer.pad_token_id, config.micro_batch_tokens)
        fit(engine, run, config, accumulate, stage="reward", examples=len(train) // 2, seed=spec.seed)
        outputs, forward = _save(model, tokenizer, run, base=spec.inputs["model"].digest), engine.infer
        write_config(engine, run.path / "deepspeed.json")
    else:
        outputs, forward = {}, inference(model, dtype=spec.config["dtype"])
    scores_N = score(forward, heldout, tokenizer.pad_token_id, config.micro_batch_tokens)
    pairs = pair_scores(scores_N, heldout)
    return _output(pairs, pair_items(tokenizer, rows, pairs), run.path, outputs)


def score(forward: Callable[[Batch], Tensor], sequences: list[Sequence], pad_id: int, token_budget: int) -> Tensor:
    """Score of every sequence at its last token, (N,) float32, in the order given."""
    scores_N = torch.zeros(len(sequences))
    for rows in microbatches([s.size for s in sequences], token_budget):
        batch = collate([sequences[i] for i in rows], pad_id)
        scores_N[rows] = final_scores(forward(batch), batch.response_mask_BR).float().cpu()
    return scores_N


def pair_scores(scores_N: Tensor, sequences: list[Sequence]) -> PairScores:
    """Take apart scores of sequences that alternate chosen, rejected."""
    tokens_N = torch.tensor([len(s.response) for s in sequences])
    return PairScores(scores_N[0::2], scores_N[1::2], tokens_N[0::2], tokens_N[1::2])


def heldout_metrics(pairs: PairScores) -> dict[str, float]:
    """Every held-out number of the reward model. A tie counts as wrong; equal lengths count half for the baseline."""
    n = len(pairs.chosen_N)
    margin_N = pairs.chosen_N - pairs.rejected_N
    right_N = margin_N > 0
    lower, upper = wilson(float(right_N.sum()), n)
    gap_N = pairs.chosen_tokens_N - pairs.rejected_tokens_N
    shorter_N = gap_N < 0
    baseline = float((gap_N > 0).double().mean() + 0.5 * (gap_N == 0).double().mean())
    both = torch.cat([pairs.chosen_N, pairs.rejected_N])
    accuracy = float(right_N.double().mean())
    return {
        "reward/accuracy": accuracy,
        "reward/accuracy_lower": lower,
        "reward/accuracy_upper": upper,
        "reward/accuracy_when_shorter": float(right_N[shorter_N].double().mean()) if shorter_N.any() else 0.0,
        "reward/length_baseline": baseline,
        "reward/accuracy_over_length": accuracy - baseline,
        "reward/length_correlation": pearson(margin_N.double(), gap_N.double()),
        "reward/heldout_pairs": n,
        "reward/heldout_loss": float(bradley_terry(pairs.chosen_N, pairs.rejected_N, n)),
        "reward/heldout_margin": float(margin_N.mean()),
        "reward/calibration_error": calibration_error(margin_N),
        "reward/score_mean": float(both.mean()),
        "reward/score_std": float(both.std(correction=0)),
    }


def pair_items(tokenizer, rows: list[dict], pairs: PairScores) -> Columns:
    """The evidence of each held-out comparison (see rlhf_core/items.py), in the order of `rows`."""
    texts = [(prompt_text(tokenizer, row["prompt"]), row["chosen"], row["rejected"]) for row in rows]
    return {
        "pair_id": [item_id(*parts) for parts in texts],
        "prompt": [last_user_turn(row["prompt"]) for row in rows],
        "chosen": [row["chosen"] for row in rows],
        "rejected": [row["rejected"] for row in rows],
        "chosen_score": pairs.chosen_N.tolist(),
        "rejected_score": pairs.rejected_N.tolist(),
        "chosen_tokens": pairs.chosen_tokens_N.tolist(),
        "rejected_tokens": pairs.rejected_tokens_N.tolist(),
    }


def pair_sequences(tokenizer, rows: list[dict]) -> list[Sequence]:
    """Comparisons as token ids, chosen and rejected in turn."""
    chosen, rejected = encode(tokenizer, rows, "chosen"), encode(tokenizer, rows, "rejected")
    return [sequence for pair in zip(chosen, rejected, strict=True) for sequence in pair]


def _accumulator(engine: Engine, train: list[Sequence], pad_id: int, token_budget: int) -> Callable[[list[int]], StepOutcome]:
    def accumulate(indices: list[int]) -> StepOutcome:
        step_batch = [train[k] for i in indices for k in (2 * i, 2 * i + 1)]
        loss_sum, margins = 0.0, []
        for rows in microbatches([s.size for s in step_batch], token_budget, group=2):
            batch = collate([step_batch[i] for i in rows], pad_id)
            scores_B = final_scores(engine(batch), batch.response_mask_BR)
            loss = bradley_terry(scores_B[0::2], scores_B[1::2], len(indices))
            engine.backward(loss)
            loss_sum += float(loss)
            margins.append((scores_B[0::2] - scores_B[1::2]).detach())
        margin_N = torch.cat(margins)
        metrics = {
            "loss": loss_sum,
            "train_accuracy": float((margin_N > 0).double().mean()),
            "margin": float(margin_N.mean()),
        }
        return StepOutcome(metrics, sum(map(len, step_batch)))

    return accumulate


def _save(model: ScalarModel, tokenizer, run: RunDir, *, base: str) -> dict[str, str]:
    """The model, and beside it the adapter that was merged into it; what is measured afterwards is what was saved."""
    adapted = has_adapter(model.model)
    if adapted:
        save_adapter(model.model, run.path / "adapter")
        merge_adapter(model.model)
    save_model(model, tokenizer, run.path / "model")
    if not adapted:
        return {"model": "model"}
    write_origin(run.path / "adapter", base=base, merged=Artifact.of(run.path / "model").digest)
    return {"model": "model", "adapter": "adapter"}


def _output(pairs: PairScores, items: Columns, path: Path, outputs: dict[str, str]) -> Output:
    metrics = heldout_metrics(pairs)
    reward_figures(pairs.chosen_N - pairs.rejected_N, path)
    files = {"margin_histogram": "margins.png", "calibration": "calibration.png"} | write_items(path, items)
    if outputs:
        files["deepspeed_config"] = "deepspeed.json"
    shorter = int((pairs.chosen_tokens_N < pairs.rejected_tokens_N).sum())
    counts = dict.fromkeys(metrics, len(pairs.chosen_N)) | {"reward/accuracy_when_shorter": shorter}
    interval = (metrics["reward/accuracy_lower"], metrics["reward/accuracy_upper"])
    return Output(outputs=outputs, metrics=metrics, counts=counts, intervals={"reward/accuracy": interval}, files=files)
