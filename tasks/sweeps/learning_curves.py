"""Learning curves of several algorithms over seeds: true utility, and proxy reward by step."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.sweeps.figures import COLORS, Spread, spread_of
from tasks.sweeps.sweep import SweepRow

POLICY, SFT, GAIN, KL = (
    "eval/independent_policy",
    "eval/independent_sft",
    "eval/independent_gain",
    "eval/kl_per_response",
)
RowsByAlgorithm = dict[str, list[SweepRow]]  # one row per seed


def summary(found: RowsByAlgorithm) -> list[dict]:
    """Return a row per algorithm: seeds evaluated, seeds that gained, gain and KL over seeds."""
    rows = []
    for name, runs in found.items():
        ended = [run for run in runs if GAIN in run.metrics]
        gains = [run.metrics[GAIN].value for run in ended]
        rows.append(
            {
                "algorithm": name,
                "seeds": len(runs),
                "evaluated": len(ended),
                "raised": sum(gain > 0 for gain in gains),
                "raised_significantly": sum((run.metrics[GAIN].low or 0.0) > 0 for run in ended),
                "gain": spread_of(gains) if gains else None,
                "kl": spread_of([run.metrics[KL].value for run in ended]) if ended else None,
            }
        )
    return rows


def learning_figure(found: RowsByAlgorithm) -> Figure:
    """Draw true utility before and after alignment (left), and proxy reward by step (right).

    Left: a thin line per seed, mean and standard deviation bold.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    before_after, by_step = figure.subplots(1, 2)
    for place, (runs, color) in enumerate(zip(found.values(), COLORS * len(found), strict=False)):
        _before_after(before_after, place, runs, color)
    before_after.set_xticks(range(len(found)), list(found))
    before_after.set(
        title="True utility: SFT model (left), policy (right)",
        ylabel="score of the independent scorer",
    )
    for (name, runs), color in zip(found.items(), COLORS * len(found), strict=False):
        _by_step(by_step, name, runs, color)
    by_step.set(
        title="Proxy reward over steps",
        xlabel="PPO step",
        ylabel="reward-model score over that of step 1",
    )
    if by_step.get_legend_handles_labels()[0]:
        by_step.legend()
    for axes in (before_after, by_step):
        axes.grid(alpha=0.3)
    return figure


def _before_after(axes: Axes, place: int, runs: list[SweepRow], color: str) -> None:
    pairs = [
        (run.metrics[SFT].value, run.metrics[POLICY].value)
        for run in runs
        if {SFT, POLICY} <= run.metrics.keys()
    ]
    x = (place - 0.2, place + 0.2)
    for pair in pairs:
        axes.plot(x, pair, color=color, linewidth=0.8, alpha=0.5, marker=".")
    if pairs:
        sides = [spread_of([pair[side] for pair in pairs]) for side in (0, 1)]
        axes.errorbar(
            x,
            [side.value for side in sides],
            yerr=[*map(_half, sides)],
            color=color,
            linewidth=2,
            capsize=4,
        )


def _half(spread: Spread) -> float:
    return 0.0 if spread.high is None else spread.high - spread.value


def _by_step(axes: Axes, name: str, runs: list[SweepRow], color: str) -> None:
    """Draw mean and one standard deviation over the seeds whose runs took the step.

    DPO has no proxy reward and no curve.
    """
    curves = [[gain for _, gain in run.curve] for run in runs if run.curve]
    if not curves:
        return
    steps = range(max(map(len, curves)))
    spreads = [spread_of([curve[step] for curve in curves if step < len(curve)]) for step in steps]
    x = [step + 1 for step in steps]
    axes.plot(x, [spread.value for spread in spreads], color=color, label=name)
    low, high = ([spread.value + sign * _half(spread) for spread in spreads] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
