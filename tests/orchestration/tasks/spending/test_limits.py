"""Limits on what a run takes: decisions, messages, and a run that is stopped by one."""

import pytest
from workspaces import client, started

from rlhf_core.config import Limits
from rlhf_core.errors import LimitReached
from rlhf_core.gates.decide import LIMITS
from tasks.execution.usage import Usage
from tasks.records.run_record import find_records
from tasks.records.workspace import Workspace
from tasks.spending.limits import decide_limits, limit_reached
from tasks.spending.spent import Spent

SPENT = Spent({"sft": Usage(1800.0, 1.0), "ppo": Usage(5400.0, 3.0, 2.0)}, (0.5, 4.0), "EUR")


@pytest.fixture
def record(synthetic):
    from synthetic import Story

    return synthetic.write(Story("tiny-a-1"))


def decided(record, **limits: float) -> dict[str, tuple[float, bool]]:
    found = decide_limits(Limits(**limits), SPENT, record, "ppo")
    return {one.gate: (one.value, one.passed) for one in found}


def test_each_limit_is_decided_by_what_all_stages_have_taken(record):
    """By hand: 2 h of the clock, 4 core hours, 2 GPU hours, 4 x 0.5 + 2 x 4 of money."""
    assert decided(record, hours=2.1, cpu_hours=5, gpu_hours=2.5, money=11) == {
        "limits.hours": (2.0, True),
        "limits.cpu_hours": (4.0, True),
        "limits.gpu_hours": (2.0, True),
        "limits.money": (10.0, True),
    }
    assert decided(record, hours=2, money=10) == {
        "limits.hours": (2.0, False),
        "limits.money": (10.0, False),
    }
    assert decided(record) == {}


def test_the_error_says_how_much_what_took_it_and_what_to_do(record):
    ended = LimitReached("stopped after step 4, with a checkpoint")
    found = decide_limits(Limits(hours=2, gpu_hours=9), SPENT, record, "ppo")
    assert str(limit_reached(found, SPENT, "tiny", ended)) == (
        "limits.hours of the recipe 'tiny' is reached: the run has taken 2 hours, required less"
        " than 2 (sft 0.5, ppo 1.5). ppo stopped after step 4, with a checkpoint. Raise"
        " limits.hours, and run again: it goes on from there."
    )
    assert limit_reached([], SPENT, "tiny", ended) is ended
    (money,) = decide_limits(Limits(money=9), SPENT, record, "ppo")
    assert money.reason == "the run has taken 10 EUR, required less than 9"


@pytest.mark.slow
def test_a_limit_ends_the_run_between_stages_and_a_raised_one_repeats_nothing(
    rlhf, home, recipe_file, plan, monkeypatch
):
    monkeypatch.delenv("RLHF_PRICES", raising=False)
    code, _, err = rlhf("run", str(recipe_file), "--set", "limits.money=5")
    assert code == 2 and "limits.money is 5, but there is no price table" in err
    assert started(home) == []
    plan(validate={"seconds": 3.0})
    run = ("run", str(recipe_file), "--until", "sft", "--set")
    code, _, err = rlhf(*run, "limits.hours=0.0008")  # 2.88 s: validate ends beyond them
    assert code == 2 and "limits.hours of the recipe 'tiny' is reached" in err
    assert "RLHF-G003" in err and "Raise limits.hours" in err
    (record,) = find_records(Workspace(home), "latest")
    last = record.stages[-1]
    (decision,) = last.limits
    assert (decision.gate, decision.passed, decision.threshold) == (f"{LIMITS}hours", False, 0.0008)
    assert decision.value >= 0.0008 and record.status == "FAILED" and last.status == "FAILED"
    assert record.decisions == [] and record.verdicts == [decision]
    tags = client(home).get_run(last.run_id).data.tags
    assert tags["gate.limits.hours"].startswith("refused: ") and tags["verdict"] == "refused"
    assert "limits.hours" in rlhf("gates", "latest")[1]
    assert "has no items" in rlhf("gates", "latest", "--explain", "limits.hours")[1]
    assert started(home)[0] == "validate"
    assert rlhf(*run, "limits.hours=1")[0] == 0
    assert started(home)[-1] == "sft"
