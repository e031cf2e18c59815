"""The learning curves of a stage: drawn once, then kept beside its metrics."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_core.metrics import METRICS
from rlhf_core.rundir import replacing
from rlhf_core.stage_catalogue import STAGES
from tasks.tracking.run_writer import RunWriter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "curves.png"
CURVES = {name: stage.curves for name, stage in STAGES.items() if stage.curves}


def log_curves(run: RunWriter, stage: str, run_dir: Path, lines: list[dict]) -> None:
    """Store the picture of a stage's curves, drawn unless there is one newer than the metrics."""
    picture, metrics = run_dir / FILE, run_dir / "metrics.jsonl"
    if not picture.exists() or picture.stat().st_mtime_ns < metrics.stat().st_mtime_ns:
        figure = draw(stage, lines)
        if figure is None:
            return
        try:
            with replacing(picture) as temporary:
                figure.savefig(temporary, format="png")
        except PermissionError:  # another user's run directory
            run.client.log_figure(run.run_id, figure, FILE)
            return
    run.log_path(FILE, picture)


def draw(stage: str, lines: list[dict]) -> "Figure | None":
    """Return a figure with a panel per main metric of the stage.

    It is None when fewer than two steps were logged.
    """
    logged = {name for line in lines for name in line["metrics"]}
    names = [name for name in CURVES.get(stage, sorted(logged)[:9]) if name in logged]
    if not names or len(lines) < 2:
        return None
    from matplotlib.figure import Figure  # a third of a second

    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
    for axes, name in zip(figure.subplots(rows, columns, squeeze=False).flat, names, strict=False):
        points = [
            (line["step"], line["metrics"][name]) for line in lines if name in line["metrics"]
        ]
        axes.plot(*zip(*points, strict=True), linewidth=1.4)
        axes.set(title=name, xlabel="step", ylabel=METRICS[name].unit if name in METRICS else "")
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(names) :]:
        axes.remove()
    return figure
