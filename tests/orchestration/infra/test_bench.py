"""`make bench` runs, lets both sides take their steps in turn, and says honestly what is met."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
BENCH = ROOT / "infra" / "bench"
STEPPER = """
import sys
sys.path.insert(0, {bench!r})
from turns import PipedTurns
turns = PipedTurns()
while turns.taken < {steps}:
    open({log!r}, "a").write({name!r})
    turns.done(tokens=turns.taken)
sys.exit("no more rows")
"""


@pytest.fixture(autouse=True)
def bench_is_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))


def stepper(name: str, log: Path, *, gib: float = 0.1, steps: int = 100):
    """Return a program whose steps write their name into a file."""
    from measured_process import Program

    code = STEPPER.format(bench=str(BENCH), log=str(log), name=name, steps=steps)
    return Program(name, (sys.executable, "-c", code), dict(os.environ), gib)


def test_a_quick_run_takes_a_step_of_every_stage_and_writes_it(tmp_path, capsys):
    import run

    out = tmp_path / "bench.json"
    only = [w for name in ("ppo-equal", "sft-equal", "reward-ragged") for w in ("--only", name)]
    assert run.main(["--quick", "--without-trl", "--out", str(out), *only]) == 0
    found = json.loads(out.read_text())
    assert found["quick"] and list(found["comparisons"]) == [
        "ppo-equal",
        "sft-equal",
        "reward-ragged",
    ]
    ppo = found["comparisons"]["ppo-equal"]["programs"]
    for label in ("ours, fp32, four models", "ours, bf16, shared critic"):
        (step,) = ppo[label]["steps"]
        assert 0 < step["generate"] + step["score"] + step["update"] < step["step"]
    goals = [goal for one in found["comparisons"].values() for goal in one["goals"]]
    assert {goal["verdict"] for goal in goals} == {"trial", "not measured (--without-trl)"}
    assert "not measured (--without-trl)" in capsys.readouterr().out


def test_the_whole_run_is_started_as_make_run_does(monkeypatch, tmp_path):
    """Bug: it was started with the Prefect of the stages' environment."""
    import whole_run
    from control_environment import python_of_commands

    assert whole_run.program() == python_of_commands().with_name("rlhf")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "stage"))  # no commands around it
    assert whole_run.program() == Path(sys.executable).with_name("rlhf")


def test_padding_is_measured_for_every_kind_of_passes(capsys):
    import padding

    threads = torch.get_num_threads()
    padding.main(["--shape", "quick", "--repeats", "1"])
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if ", ratio " in line] == list(padding.PASSES)
    assert sum(line.startswith("padding, ") for line in lines) == 3


def test_programs_take_their_steps_in_turn_after_a_step_that_warms_up(tmp_path):
    from measured_process import measure

    log = tmp_path / "order"
    found, together = measure([stepper("A", log), stepper("B", log)], tmp_path, repeats=2)
    assert together and log.read_text() == "ABABAB"
    assert [step["tokens"] for step in found["A"].steps] == [1, 2]
    assert len(found["B"].peaks) == 1 and 0.001 < found["B"].peaks[0] < 1


def test_programs_that_memory_does_not_hold_together_run_one_after_the_other(tmp_path):
    from measured_process import measure

    log = tmp_path / "order"
    programs = [stepper("A", log, gib=1e6), stepper("B", log)]
    found, together = measure(programs, tmp_path, repeats=2)
    assert not together and log.read_text() == "AABBAABB"  # each process: warm-up and one step
    assert len(found["A"].steps) == len(found["A"].peaks) == 2


def test_a_program_that_ends_early_is_named_with_the_end_of_its_log(tmp_path):
    from measured_process import BenchFailed, measure

    with pytest.raises(BenchFailed, match=r"A ended; expected a step(.|\n)*no more rows"):
        measure([stepper("A", tmp_path / "order", steps=2)], tmp_path, repeats=3)


@pytest.mark.parametrize(
    "ours, theirs, target, found",
    [
        ([4.0, 6.0, 9.0], [10.0, 10.0, 10.0], {"at_most": 0.6}, (0.6, 0.4, 0.9, "met")),
        ([4.0, 6.1, 9.0], [10.0, 10.0, 10.0], {"at_most": 0.6}, (0.61, 0.4, 0.9, "not met")),
        ([4.0, 6.0, 9.0], [2.0, 6.0, 9.0], {"at_least": 1.0}, (1.0, 1.0, 2.0, "met")),
        ([4.0], [8.0], {"at_least": 0.9}, (0.5, 0.5, 0.5, "not met")),
        ([4.0], [8.0], {}, (0.5, 0.5, 0.5, "for information")),
    ],
)
def test_a_goal_is_decided_by_the_median_of_the_ratios_of_neighbours(ours, theirs, target, found):
    from goals import Goal, decide, step_ratio
    from measured_process import Measured

    sides = {
        name: Measured([{"step": s, "cpu": s} for s in steps])
        for name, steps in (("o", ours), ("t", theirs))
    }
    outcome = decide(Goal("a goal", step_ratio("o", "t"), **target), sides)
    assert (outcome.median, outcome.low, outcome.high, outcome.verdict) == pytest.approx(found)


def test_a_goal_without_its_program_is_not_measured_and_says_why():
    from goals import Goal, decide, speed_ratio

    outcome = decide(Goal("a goal", speed_ratio("o", "t"), at_least=1.5), {}, why="no index")
    assert (outcome.median, outcome.verdict) == (None, "not measured (no index)")


def test_replies_of_other_lengths_on_the_two_sides_are_refused():
    from comparisons import UnequalWork, require_equal_work
    from measured_process import Measured

    sides = {name: Measured([{"reply_tokens": n}]) for name, n in (("ours", 48.0), ("TRL", 47.0))}
    with pytest.raises(UnequalWork, match=r"48.0.*47.0.*expected the same"):
        require_equal_work(sides)
    require_equal_work({"ours": sides["ours"], "plain": Measured([{"step": 1.0}])})


def test_both_sides_read_the_same_rows(tmp_path):
    import workload
    from shapes import QUICK

    from rlhf_core.batching.batch import encode
    from rlhf_core.data.splits import load_split
    from rlhf_core.data.tokenizer import load_tokenizer

    tokens = workload.write(tmp_path, QUICK)
    ids, tokenizer = (
        json.loads((tmp_path / "tokens.json").read_text()),
        load_tokenizer(tmp_path / "model"),
    )
    assert {len(prompt) for prompt in ids["prompts"]} == {QUICK.prompt_tokens}
    rows = load_split(tmp_path / "equal" / "comparisons_train.jsonl")
    for side in ("chosen", "rejected"):
        read = [one.prompt + one.response for one in encode(tokenizer, rows, side)]
        assert read == [row[side] for row in ids["reward_equal"]]
        assert {len(one) for one in read} == {QUICK.equal}
    assert tokens["equal"]["sft"] == QUICK.demonstrations * QUICK.equal


@pytest.mark.slow
def test_a_quick_run_beside_trl_measures_every_goal(tmp_path):
    import trl_environment

    try:
        trl_environment.prepare()
    except trl_environment.NotInstallable as error:
        pytest.skip(f"TRL cannot be installed here: {error}")
    command = [sys.executable, str(BENCH / "run.py"), "--quick", "--out", str(tmp_path / "b.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "b.json").read_text())["comparisons"]
    goals = [goal for one in found.values() for goal in one["goals"]]
    assert {goal["verdict"] for goal in goals} == {"trial"}
    assert all(0 < goal["low"] <= goal["median"] <= goal["high"] for goal in goals)


def test_two_parts_of_one_turn_are_compared_by_the_clock_and_by_the_processors():
    from goals import Goal, decide, within_turn
    from measured_process import Measured

    step = {"step": 9.0, "cpu": 5.0, "raw": 3.0, "ours": 6.0, "raw_cpu": 2.0, "ours_cpu": 2.5}
    goal = Goal("raw to ours", within_turn("rollouts", "raw", "ours"), at_least=0.95)
    outcome = decide(goal, {"rollouts": Measured([step])})
    assert (outcome.median, outcome.cpu, outcome.verdict) == (0.5, 0.8, "not met")
