"""The comparison of a sweep's settings, over the items and the seeds of recorded runs."""

import io

import pytest
from rich.console import Console
from synthetic import Story

from flows.sweeps.finding_lines import finding_lines
from tasks.records.run_record import Membership
from tasks.sweeps.findings import with_findings
from tasks.sweeps.sweep import Sweep, SweepPoint, gather
from tasks.sweeps.tracking import note

GAIN = {0.1: 0.9, 0.5: 0.5}  # of the policy, by beta; the seed adds a tenth of it or so


@pytest.fixture
def swept(synthetic) -> Sweep:
    """Record a sweep of two betas and two seeds, and compare its settings."""
    points = [
        SweepPoint(label=f"ppo.beta={beta}, seed={seed}", values={"ppo.beta": beta, "seed": seed})
        for beta in GAIN
        for seed in (1, 2)
    ]
    sweep = Sweep(
        id="s1",
        name="tiny-sweep",
        recipe="tiny",
        keys=["ppo.beta", "seed"],
        until="evaluate",
        wanted=["eval/independent_policy", "eval/score_policy", "ppo/score_mean"],
        tracking_uri=synthetic.workspace.tracking_uri,
        points=points,
    )
    for point in points:
        beta, seed = point.values["ppo.beta"], point.values["seed"]
        lift = GAIN[beta] * (1 + seed / 10) + seed / 50
        record = synthetic.write(
            Story(
                point.label,
                lift=lift,
                seed=seed,
                policy=f"policy {point.label}",
                reward=f"reward {seed}",
                settings={"ppo": {"beta": beta}},
            )
        )
        record.sweep = Membership(id="s1", name=sweep.name, keys=sweep.keys, label=point.label)
        record.status = "FINISHED"
        record.save(synthetic.workspace)
    return with_findings(synthetic.workspace, gather(synthetic.workspace, sweep))


def test_settings_are_compared_over_seeds_and_items_and_corrected_together(swept):
    assert {(one.setting, one.seeds) for one in swept.spreads} == {
        ("ppo.beta=0.1", 2),
        ("ppo.beta=0.5", 2),
    }
    assert len(swept.spreads) == 6
    found = {one.metric: one for one in swept.findings}
    assert {one.setting for one in swept.findings} == {"ppo.beta=0.5"}
    score = found["eval/score_policy"]
    assert score.baseline == "ppo.beta=0.1" and score.covers == "seeds and items"
    assert score.difference == pytest.approx(-0.46)  # -0.4 (1.1 + 1.2) / 2
    assert score.p_value <= score.p_adjusted
    assert found["ppo/score_mean"].covers == "seeds"
    assert all((one.verdict == "significant") == (one.p_adjusted < 0.05) for one in found.values())


def test_terminal_and_mlflow_say_what_the_verdicts_mean(swept):
    out = Console(width=200, file=io.StringIO())
    for part in finding_lines(swept):
        out.print(part)
    text = out.file.getvalue()
    assert "Over seeds" in text and "2 seeds) [" in text
    assert "Difference from ppo.beta=0.1" in text and "corrected)" in text
    assert "Intervals cover the seeds or seeds and items drawn" in text
    assert "corrected together (Benjamini and Hochberg)" in " ".join(text.split())
    assert "Compared with ppo.beta=0.1" in note(swept)


def test_a_sweep_over_seeds_alone_has_their_spread_and_no_differences(swept, synthetic):
    only = swept.points[:2]
    alone = swept.model_copy(update={"points": only, "keys": ["seed"]})
    for point in only:
        point.values.pop("ppo.beta")
    found = with_findings(synthetic.workspace, gather(synthetic.workspace, alone))
    assert found.findings == [] and {one.setting for one in found.spreads} == {"seed"}
