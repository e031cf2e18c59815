"""Reports of detectors: a figure, and a table of the worst items with their texts."""

import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_core.evaluation.detectors import Detection, gain, standardized_by_sft
from rlhf_core.evaluation.ngrams import opening_shares
from rlhf_core.evaluation.retrieval import prompt_ranks
from rlhf_core.evidence.items import Columns

WORST = 20
_OPENINGS = 10


def write_report(detection: Detection, columns: Columns, folder: Path) -> dict[str, str]:
    """Write a detector's figure and table of worst items; return their entries for the result.

    The files are detector_<name>.png and worst_<name>.table.json.
    """
    figure, table = f"detector_{detection.name}.png", f"worst_{detection.name}.table.json"
    _draw(detection, columns, folder / figure)
    (folder / table).write_text(
        json.dumps(worst(detection, columns), ensure_ascii=False, indent=1), encoding="utf-8"
    )
    return {f"detector_{detection.name}": figure, f"worst_{detection.name}": table}


def worst(detection: Detection, columns: Columns, count: int = WORST) -> dict[str, list]:
    """Return the `count` worst items, worst first, as {"columns", "data"}.

    The columns are all that is known of the policy and the SFT model.
    """
    order = sorted(range(len(detection.badness_N)), key=lambda i: -detection.badness_N[i])[:count]
    names = [name for name in columns if name == "prompt" or name.startswith(("policy_", "sft_"))]
    rows = [[_short(columns[name][i]) for name in names] for i in order]
    data = [[_short(detection.badness_N[i]), *row] for i, row in zip(order, rows, strict=True)]
    return {"columns": ["badness", *names], "data": data}


def _short(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


def _draw(detection: Detection, columns: Columns, path: Path) -> None:
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    _FIGURES[detection.name](axes, columns)
    values = ", ".join(
        f"{name.removeprefix('eval/')} {value:.3g}" for name, value in detection.metrics.items()
    )
    axes.set_title(values or "no price: the score did not rise", fontsize=8, wrap=True)
    figure.savefig(path, dpi=120)


def _length(axes: Axes, columns: Columns) -> None:
    for name in ("sft", "policy"):
        axes.scatter(
            columns[f"{name}_tokens"], columns[f"{name}_score"], s=10, alpha=0.5, label=name
        )
    axes.set(xlabel="response tokens", ylabel="reward-model score")
    axes.legend()


def _repetition(axes: Axes, columns: Columns) -> None:
    for name in ("sft", "policy"):
        axes.hist(columns[f"{name}_repetition"], bins=20, range=(0, 1), alpha=0.5, label=name)
    axes.set(xlabel="repeated 3-grams / 3-grams of a reply", ylabel="replies", yscale="symlog")
    axes.legend()


def _opening(axes: Axes, columns: Columns) -> None:
    ours, theirs = (opening_shares(columns[f"{name}_reply"]) for name in ("policy", "sft"))
    top = list(ours)[:_OPENINGS][::-1]
    axes.barh(
        range(len(top)),
        [ours[phrase] for phrase in top],
        height=0.8,
        alpha=0.5,
        color="C1",
        label="policy",
    )
    axes.barh(
        range(len(top)),
        [theirs.get(phrase, 0.0) for phrase in top],
        height=0.4,
        color="C0",
        label="sft",
    )
    labels = [
        phrase[:40].replace("$", r"\$") for phrase in top
    ]  # a dollar sign would start a formula
    axes.set_yticks(range(len(top)), labels=labels)
    axes.set(xlabel="share of replies that begin so")
    axes.legend()


def _prompt(axes: Axes, columns: Columns) -> None:
    for name in ("sft", "policy"):
        ranks_N = prompt_ranks(columns["prompt"], columns[f"{name}_reply"]).tolist()
        axes.hist(ranks_N, bins=20, range=(0, 1), alpha=0.5, label=name)
    axes.axvline(0.5, color="gray", linewidth=1)
    axes.set(xlabel="other prompts less similar to the reply than its own", ylabel="replies")
    axes.legend()


def _kl(axes: Axes, columns: Columns) -> None:
    axes.scatter(gain(columns, "score"), columns["policy_kl"], s=10, alpha=0.5, color="C1")
    axes.axvline(0, color="gray", linewidth=1)
    axes.set(xlabel="score gain over the SFT model's reply", ylabel="KL from the SFT model, nats")


def _independent(axes: Axes, columns: Columns) -> None:
    axes.scatter(gain(columns, "score"), gain(columns, "independent"), s=10, alpha=0.5, color="C1")
    axes.axvline(0, color="gray", linewidth=1)
    axes.axhline(0, color="gray", linewidth=1)
    axes.set(
        xlabel="score gain (lower right: only the reward model is pleased)",
        ylabel="independent gain",
    )


def _disagreement(axes: Axes, columns: Columns) -> None:
    ours_MN, theirs_MN = standardized_by_sft(columns)
    for label, scores_MN, marker in (("sft", theirs_MN, "."), ("policy", ours_MN, "x")):
        for m in range(1, len(scores_MN)):
            axes.scatter(
                scores_MN[0],
                scores_MN[m],
                s=12,
                alpha=0.5,
                marker=marker,
                label=f"{label}, model {m + 1}",
            )
    axes.axline((0, 0), slope=1, linestyle="--", color="gray")
    axes.set(
        xlabel="standardized score, first reward model", ylabel="standardized score, the others"
    )
    axes.legend()


_FIGURES = {
    "length": _length,
    "repetition": _repetition,
    "opening": _opening,
    "prompt": _prompt,
    "kl": _kl,
    "independent": _independent,
    "disagreement": _disagreement,
}
