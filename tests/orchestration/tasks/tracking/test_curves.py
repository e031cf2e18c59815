"""The picture of a stage's curves, which is drawn again only for new metrics."""

import json
import os
from types import SimpleNamespace

from tasks.tracking.curves import FILE, log_curves


def lines(steps: int) -> list[dict]:
    return [{"step": step, "metrics": {"sft/loss": 1 / step}} for step in range(1, steps + 1)]


def test_a_picture_is_drawn_again_only_for_newer_metrics(tmp_path):
    stored = []
    run = SimpleNamespace(log_path=lambda name, path: stored.append(path.read_bytes()))
    metrics = tmp_path / "metrics.jsonl"

    def log(steps: int) -> None:
        log_curves(run, "sft", tmp_path, lines(steps))

    metrics.write_text(json.dumps(lines(1)))
    log(1)
    assert stored == [] and not (tmp_path / FILE).exists()  # one point is no curve
    log(2)
    (tmp_path / FILE).write_bytes(b"kept")
    log(2)
    os.utime(metrics, ns=(2**62, 2**62))
    log(3)
    assert stored[0][1:4] == stored[2][1:4] == b"PNG" and stored[1] == b"kept"
    assert list(tmp_path.glob(".*")) == []
