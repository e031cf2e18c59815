"""The plots of a report: curves over steps, reward against KL, reward-model margins, costs."""

from markupsafe import Markup

from flows.report.charts import Chart, Series, bars, figure
from flows.report.page import join, legend
from flows.report.text import duration, memory
from rlhf_core.metrics import METRICS
from rlhf_core.reward.slices import calibration
from tasks.analysis.run_evidence import STAGE_ORDER, RunEvidence

LEARNING = {
    "ppo/score_mean": "Reward over steps",
    "ppo/kl_per_response": "KL from the SFT model over steps",
    "ppo/response_tokens": "Reply length over steps",
    "ppo/entropy": "Policy entropy over steps",
    "sft/loss": "SFT loss over steps",
    "reward/loss": "Reward-model loss over steps",
    "dpo/loss": "DPO loss over steps",
    "dpo/margin": "Implicit reward margin over steps",
    "kto/loss": "KTO loss over steps",
    "kto/margin": "KTO's implicit reward margin over steps",
}
MARGIN_BINS = 30


def plots(runs: list[RunEvidence]) -> Markup:
    """Return every plot for which there is evidence, a colour per run."""
    rewards = {run.model("reward") for run in runs if run.curve("ppo/score_mean")}
    warning = (
        "Scored by different reward models: compare shapes, not heights."
        if len(rewards) > 1
        else ""
    )
    parts = [
        _learning(metric, title, runs, warning if "score" in metric else "")
        for metric, title in LEARNING.items()
    ]
    parts.insert(3, _frontier(runs, warning))
    parts += [_calibration(runs), _margins(runs), *_costs(runs)]
    if not any(parts):
        return Markup("")
    names = legend([run.name for run in runs]) if len(runs) > 1 else Markup("")
    return names + Markup("<div class=charts>{}</div>").format(join(parts))


def _learning(metric: str, title: str, runs: list[RunEvidence], note: str) -> Markup:
    series = [Series(run.name, run.curve(metric), color) for color, run in enumerate(runs)]
    return figure(Chart(title, "step", METRICS[metric].unit, series, note=note))


def _frontier(runs: list[RunEvidence], note: str) -> Markup:
    """Draw reward against KL (Gao et al. 2023, arXiv:2210.10760); up and to the left is better."""
    series = []
    for color, run in enumerate(runs):
        scores = dict(run.curve("ppo/score_mean"))
        points = [
            (kl, scores[step]) for step, kl in run.curve("ppo/kl_per_response") if step in scores
        ]
        series.append(Series(run.name, points, color, "path"))
    text = "One dot per step, the large one is the last. " + note
    return figure(
        Chart("Reward against KL", "KL, nats per response", "score", series, note=text.strip())
    )


def _calibration(runs: list[RunEvidence]) -> Markup:
    series = [
        Series(run.name, [(part.confidence, part.right) for part in calibration(items)], color)
        for color, run in enumerate(runs)
        if (items := run.items("reward"))
    ]
    note = (
        "Held-out pairs in ten bins of equal count; on the dashed line the model is as sure as it"
        " is right."
    )
    chart = Chart(
        "Reward-model calibration",
        "confidence",
        "share ranked as labelled",
        series,
        diagonal=True,
        note=note,
    )
    return figure(chart)


def _margins(runs: list[RunEvidence]) -> Markup:
    found = {color: margins for color, run in enumerate(runs) if (margins := margins_of(run))}
    if not found:
        return Markup("")
    low, high = min(map(min, found.values())), max(map(max, found.values()))
    series = [
        Series(runs[color].name, histogram(values, low, high), color, "steps")
        for color, values in found.items()
    ]
    return figure(
        Chart(
            "Reward-model margin, held-out pairs",
            "score(chosen) - score(rejected)",
            "pairs",
            series,
        )
    )


def margins_of(run: RunEvidence) -> list[float]:
    """Return score(chosen) - score(rejected) of each held-out pair; empty without evidence."""
    items = run.items("reward")
    if not items:
        return []
    return [
        chosen - rejected
        for chosen, rejected in zip(items["chosen_score"], items["rejected_score"], strict=True)
    ]


def histogram(values: list[float], low: float, high: float) -> list[tuple[float, float]]:
    """Return (left edge, count) of equal bins over [low, high]; the last point is the right end."""
    width = (high - low) / MARGIN_BINS or 1.0
    counts = [0] * MARGIN_BINS
    for value in values:
        counts[min(MARGIN_BINS - 1, int((value - low) / width))] += 1
    return [(low + place * width, float(count)) for place, count in enumerate([*counts, 0])]


def _costs(runs: list[RunEvidence]) -> list[Markup]:
    stages = [stage for stage in STAGE_ORDER if any(stage in run.stages for run in runs)]
    shown = {
        "seconds": ("Time per stage", duration),
        "peak_memory_mib": ("Peak memory per stage", memory),
        "peak_gpu_memory_mib": ("Peak GPU memory per stage", memory),
    }
    return [
        bars(
            title,
            stages,
            {run.name: [_cost(run, stage, name) for stage in stages] for run in runs},
            show,
        )
        for name, (title, show) in shown.items()
    ]


def _cost(run: RunEvidence, stage: str, name: str) -> float | None:
    return run.stages[stage].costs.get(name) if stage in run.stages else None
