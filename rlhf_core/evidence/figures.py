"""Figures that a stage draws from data of its own.

The tracker draws curves over steps from metrics.jsonl.
"""

from pathlib import Path

import matplotlib
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_BINS = 10


def reward_figures(margins_N: Tensor, folder: Path) -> None:
    """Draw margins.png and calibration.png.

    margins.png: histogram of score(chosen) - score(rejected). calibration.png: share of pairs
    ranked as labelled by confidence sigmoid(|margin|).
    """
    _margin_histogram(margins_N, folder / "margins.png")
    _calibration(margins_N, folder / "calibration.png")


def _margin_histogram(margins_N: Tensor, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.hist(margins_N.numpy(), bins=40)
    axes.axvline(0, color="black", linewidth=1)
    share = float((margins_N > 0).float().mean())
    axes.set(
        xlabel="score(chosen) - score(rejected)",
        ylabel="held-out pairs",
        title=f"{share:.1%} ranked as labelled",
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _calibration(margins_N: Tensor, path: Path) -> None:
    confidence, right = margins_N.abs().sigmoid(), (margins_N > 0).float()
    parts = confidence.argsort().chunk(_BINS)
    figure, axes = plt.subplots(figsize=(5, 4.5), layout="constrained")
    axes.plot([0.5, 1], [0.5, 1], "--", color="gray", label="calibrated")
    axes.plot(
        [float(confidence[p].mean()) for p in parts],
        [float(right[p].mean()) for p in parts],
        "o-",
        label="model",
    )
    axes.set(
        xlabel="confidence sigmoid(|margin|)",
        ylabel="share ranked as labelled",
        title="Calibration, held out",
    )
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def label_figures(scores_N: Tensor, probability_N: Tensor, up_N: Tensor, folder: Path) -> None:
    """Draw label_scores.png and label_calibration.png of replies with thumbs up or down.

    label_scores.png: histogram of the score by label. label_calibration.png: share of thumbs up by
    the probability that the score states.
    """
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, of_label_N in (("thumbs up", up_N), ("thumbs down", ~up_N)):
        axes.hist(scores_N[of_label_N].numpy(), bins=40, alpha=0.6, label=name)
    axes.set(xlabel="score", ylabel="held-out replies", title="Scores by label, held out")
    axes.legend()
    figure.savefig(folder / "label_scores.png", dpi=120)
    plt.close(figure)
    parts = probability_N.argsort().chunk(_BINS)
    figure, axes = plt.subplots(figsize=(5, 4.5), layout="constrained")
    axes.plot([0, 1], [0, 1], "--", color="gray", label="calibrated")
    stated = [float(probability_N[p].mean()) for p in parts]
    axes.plot(stated, [float(up_N[p].float().mean()) for p in parts], "o-", label="model")
    axes.set(
        xlabel="stated probability of thumbs up",
        ylabel="share with thumbs up",
        title="Calibration, held out",
    )
    axes.legend()
    figure.savefig(folder / "label_calibration.png", dpi=120)
    plt.close(figure)


def score_figure(policy_N: Tensor, sft_N: Tensor, path: Path) -> None:
    """Draw the score of each held-out reply: policy against SFT model on the same prompt."""
    figure, axes = plt.subplots(figsize=(5, 4.5), layout="constrained")
    axes.scatter(sft_N.numpy(), policy_N.numpy(), s=10, alpha=0.6)
    low, high = float(min(policy_N.min(), sft_N.min())), float(max(policy_N.max(), sft_N.max()))
    axes.plot([low, high], [low, high], "--", color="gray")
    axes.set(
        xlabel="score of the SFT model's reply",
        ylabel="score of the policy's reply",
        title="Same prompt, same seed",
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
