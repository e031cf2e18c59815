"""The display of a run, fed with the events a pipeline emits."""

import io
import threading
from pathlib import Path

import pytest
from rich.console import Console

from flows.display.outcome import results_table
from flows.progress import display as live
from flows.progress.display import LiveDisplay
from flows.progress.live_row import LiveRow, verdict_of
from flows.report.text import duration, key_metric
from rlhf_core.config.gate_rules import Override
from rlhf_core.config.gates import RewardGate
from rlhf_core.gates.decide import Subject, decide, gates_of
from rlhf_core.rundir import StageResult, StageSpec
from tasks.records import events
from tasks.records.events import ForecastMade, StageAborted, StageProgress, StageStarted, StepEnded
from tasks.records.forecast import Forecast
from tasks.records.step_row import StepRow

RUN = Path("runs/reward-0123")
LINK = "http://127.0.0.1:5000/#/experiments/1/runs/0123456789abcdef"
METRICS = {"reward/accuracy": 0.61, "reward/heldout_pairs": 400.0}


class Clock:
    """Stands in for the monotonic clock of the display."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(live.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def console(*, terminal: bool, width: int = 120) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, record=True, width=width, color_system=None
    )


def said(display: LiveDisplay) -> str:
    return display.console.file.getvalue()


def accuracy(value: float, override: Override | None = None):
    """The reward gate's real decision on an accuracy."""
    from rlhf_core.config import Recipe

    recipe = Recipe.model_validate(
        {
            "name": "t",
            "model": {"base": "b"},
            "data": {"demonstrations": "d", "comparisons": "c"},
            "reward": {"gate": RewardGate().model_dump()},
            "registry": {"name": "t"},
        }
    )
    gate = next(gate for gate in gates_of(recipe, "reward") if gate.name == "accuracy")
    spec = StageSpec(stage="reward", seed=1, config={}, inputs={}, code="c")
    result = StageResult(
        stage="reward", digest=spec.digest, metrics={gate.metric: value}, seconds=1.0
    )
    return decide(gate.model_copy(update={"override": override}), Subject(result, spec, RUN))


def steps(display, stage: str, count: int, clock: Clock, *, seconds: float, **metrics) -> None:
    for step in range(1, count + 1):
        clock.now += seconds
        display(
            StageProgress(
                stage,
                step,
                100,
                {name.replace("__", "/"): value for name, value in metrics.items()},
            )
        )


def test_outside_a_terminal_a_stage_is_a_few_plain_lines(clock):
    display = LiveDisplay(console(terminal=False))
    with display:
        display(StageStarted("sft", Path("runs/sft-1")))
        steps(display, "sft", 25, clock, seconds=1.0, sft__loss=2.5, tokens_per_second=5400.0)
        display(StepEnded(StepRow("sft", "done", 25.0, LINK, {"sft/heldout_loss": 2.25})))
    assert said(display).splitlines() == [
        "sft: started, log runs/sft-1/stage.log",
        "sft: step 10/100, loss 2.5, 5,400 tokens/s, 1m 30s left, 10 s so far",
        "sft: step 20/100, loss 2.5, 5,400 tokens/s, 1m 20s left, 20 s so far",
        "sft: done in 25 s; heldout loss 2.25 nats/token",
    ]


def test_outside_a_terminal_no_control_character_is_written(clock):
    display = LiveDisplay(console(terminal=False))
    with display:
        display(StageStarted("sft", RUN))
        steps(display, "sft", 30, clock, seconds=1.0, sft__loss=2.5)
        display(
            StageAborted(
                "sft", "stage sft was ended by signal 9", RUN / "stage.log", ["last [words]"]
            )
        )
    assert "\x1b" not in said(display) and "\r" not in said(display)


@pytest.mark.parametrize(
    ("stage", "metrics", "shown"),
    [
        ("prepare", {"prepare/loss": 3.0}, "loss 3"),
        ("sft", {"sft/loss": 2.5, "tokens_per_second": 5400.0}, "loss 2.5, 5,400 tokens/s"),
        (
            "reward",
            {"reward/loss": 0.6, "reward/train_accuracy": 0.71},
            "loss 0.6, train accuracy 0.71",
        ),
        (
            "ppo",
            {
                "ppo/score_mean": 1.5,
                "ppo/kl_per_response": 3.2,
                "ppo/rollout_tokens_per_second": 900.0,
            },
            "score mean 1.5, kl per response 3.2, 900 tokens/s",
        ),
    ],
)
def test_a_terminal_shows_a_live_line_with_the_stages_own_numbers(clock, stage, metrics, shown):
    display = LiveDisplay(console(terminal=True))
    with display:
        display(StageStarted(stage, RUN))
        display(StageProgress(stage, 40, 120, metrics))
        assert f"step 40/120, {shown}" in said(display)


def test_time_left_follows_the_pace_of_the_steps(clock):
    live_row = LiveRow(StepRow("ppo", "running"), clock.now)
    for step in range(1, 11):
        live_row.progress(StageProgress("ppo", step, 50, {}), clock.now + 3.0 * step)
    assert live_row.seconds_left(clock.now + 30.0) == pytest.approx(40 * 3.0)
    assert live_row.seconds_left(clock.now + 32.0) == pytest.approx(40 * 3.0 - 2.0)


def test_time_left_of_a_resumed_stage_counts_from_where_it_resumed(clock):
    live_row = LiveRow(StepRow("ppo", "running"), clock.now)
    for step in range(1, 41):  # what the file held already arrives at once
        live_row.progress(StageProgress("ppo", step, 50, {}), clock.now)
    assert live_row.seconds_left(clock.now) is None
    live_row.progress(StageProgress("ppo", 41, 50, {}), clock.now + 4.0)
    assert live_row.seconds_left(clock.now + 4.0) == pytest.approx(9 * 4.0)


def test_a_forecast_is_counted_down_and_has_its_price(clock):
    display = LiveDisplay(console(terminal=False))
    found = Forecast(step=4, steps=50, made=0, seconds=200.0, left=150.0, money=1.5, currency="EUR")
    with display:
        display(StageStarted("ppo", RUN))
        display(StageProgress("ppo", 4, 50, {}))
        display(ForecastMade("ppo", found))
        clock.now += 30.0
        display(StageProgress("ppo", 10, 50, {}))
    assert "ppo: step 10/50, 2m 00s left, 1.50 EUR in all, 30 s so far" in said(display)


def test_before_a_pace_is_known_the_stages_own_estimate_counts(clock):
    live_row = LiveRow(StepRow("ppo", "running"), clock.now)
    live_row.progress(StageProgress("ppo", 1, 50, {"seconds_left": 77.0}), clock.now)
    assert live_row.seconds_left(clock.now) == 77.0


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failed_stage_shows_its_message_its_log_and_its_last_lines(terminal):
    display = LiveDisplay(console(terminal=terminal))
    with display:
        display(StageStarted("reward", RUN))
        display(
            StageAborted(
                "reward",
                "out of memory",
                RUN / "stage.log",
                ["allocating [red]4 GB[/red]", "killed"],
            )
        )
    text = said(display)
    for words in (
        "reward: failed: out of memory",
        f"{RUN}/stage.log",
        "allocating [red]4 GB[/red]",
        "killed",
    ):
        assert words in text
    assert display.told == {"out of memory"}


def test_a_failure_whose_message_holds_log_and_lines_is_not_told_twice():
    display = LiveDisplay(console(terminal=False))
    log = RUN / "stage.log"
    message = f"stage sft was ended by signal 9; its log is {log}, the last lines are:\n  the end"
    display(StageAborted("sft", message, log, ["the end"]))
    assert said(display).count("the end") == 1 and said(display).count("stage.log") == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_a_refused_gate_is_shown_with_its_sentence(terminal):
    display = LiveDisplay(console(terminal=terminal, width=160))
    with display:
        display(StageStarted("reward", RUN))
        display(StepEnded(reward_row()))
    assert "refused (accuracy): reward/accuracy is 0.61, required at least 0.7" in said(display)
    assert display.rows["reward"].row.state == "refused"


def test_an_override_is_named_with_its_author_and_reason():
    override = Override(threshold=0.6, reason="a small corpus is expected to be noisy", by="Ada")
    sentence = verdict_of([accuracy(0.61, override)])
    assert (
        sentence.startswith("overridden (accuracy)")
        and "Ada" in sentence
        and "small corpus" in sentence
    )


SFT_ROW = StepRow("sft", "cached", 125.0, LINK, {"sft/heldout_loss": 2.25}, run_dir=RUN)


def reward_row() -> StepRow:
    return StepRow("reward", "refused", 61.0, LINK, METRICS, [accuracy(0.61)], run_dir=RUN)


def test_the_final_table_has_duration_metric_verdict_and_link():
    wide = console(terminal=False, width=240)
    wide.print(results_table([SFT_ROW, reward_row()], full_links=True))
    sft, reward = [line for line in wide.file.getvalue().splitlines() if LINK in line]
    assert "2m 05s (earlier)" in sft and "heldout loss 2.25 nats/token" in sft
    assert "1m 01s" in reward and "accuracy 0.61" in reward and "refused (accuracy)" in reward


def test_the_final_table_fits_a_narrow_terminal():
    narrow = console(terminal=True, width=80)
    narrow.print(results_table([reward_row()], full_links=False))
    text = narrow.export_text()
    assert "01234567" in text and max(map(len, text.splitlines())) <= 80


def test_events_from_another_thread_do_not_block_the_drawing():
    display = LiveDisplay(console(terminal=True))
    end = events.subscribe(display)

    def emit() -> None:
        events.emit(StageStarted("ppo", RUN))
        for step in range(1, 300):
            events.emit(StageProgress("ppo", step, 300, {"ppo/score_mean": 1.0}))
        events.emit(StageAborted("ppo", "stopped", RUN / "stage.log", []))

    thread = threading.Thread(target=emit, daemon=True)
    with display:
        thread.start()
        thread.join(20)
    end()
    assert not thread.is_alive() and "ppo: failed: stopped" in said(display)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.24, "3.2 s"), (42.0, "42 s"), (59.7, "1m 00s"), (125.0, "2m 05s"), (3720.0, "1h 02m")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_a_stage_without_a_key_metric_has_an_empty_cell():
    assert (
        key_metric("promote", {}) == ""
        and key_metric("validate", {"data/rows_kept": 7656.0}) == "rows kept 7,656"
    )
