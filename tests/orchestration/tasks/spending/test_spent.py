"""The use of a run, and its price."""

import json

import pytest
from recipes import tiny_recipe

from rlhf_core.errors import ConfigError
from tasks.analysis.board.prices import Prices
from tasks.execution.resource_usage import FILE
from tasks.execution.usage import Usage
from tasks.records.run_record import Record, StageRecord
from tasks.records.workspace import Workspace
from tasks.spending.spent import Spent, money_of, price_here, prices_of, spent_by


def test_a_run_has_taken_what_its_results_took_whichever_run_made_them(home):
    record = Record.new(Workspace(home), tiny_recipe(), "tiny-a-1")
    for stage, seconds in (("sft", 40.0), ("ppo", 60.0)):
        folder = home / "runs" / f"{stage}-1"
        folder.mkdir(parents=True)
        line = {"step": 1, "time": 9.0, "seconds": seconds, "metrics": {}}
        (folder / FILE).write_text(json.dumps(line) + "\n")
        record.stages.append(
            StageRecord(stage=stage, run_dir=folder, cached=stage == "sft", started=1)
        )
    found = spent_by(record, None)
    assert found.total.seconds == 100.0 and found.amount("hours") == pytest.approx(100 / 3600)
    assert found.amount("gpu_hours") == 0.0
    assert found.with_stage("ppo", Usage(20.0)).total.seconds == 60.0


def test_the_price_is_that_of_this_machines_gpu():
    prices = Prices(currency="EUR", cpu_hour=0.1, gpu_hour=1.0, gpu={"H200": 4.0})
    assert price_here(prices, {"gpus": "NVIDIA H200, NVIDIA H200"}) == (0.1, 4.0)
    assert price_here(prices, {"gpus": "none"}) == (0.1, 1.0)
    assert price_here(None, {}) is None
    assert money_of(Usage(0.0, 10.0, 2.0), (0.1, 4.0)) == pytest.approx(9.0)


def test_the_parts_are_the_stages_that_took_something():
    spent = Spent({"validate": Usage(), "sft": Usage(3600.0), "ppo": Usage(5400.0)})
    assert spent.parts("hours") == "sft 1, ppo 1.5"


def test_a_price_table_that_cannot_be_used_stops_only_a_run_that_is_limited_by_it(
    home, monkeypatch
):
    monkeypatch.delenv("RLHF_PRICES", raising=False)
    limited = tiny_recipe(limits={"money": 5.0})
    with pytest.raises(ConfigError, match=r"limits\.money is 5, but there is no price table"):
        prices_of(limited, Workspace(home))
    (home / "prices.toml").write_text("cpu_hour = -1\n")
    assert prices_of(tiny_recipe(), Workspace(home)) is None
    with pytest.raises(ConfigError, match="cpu_hour"):
        prices_of(limited, Workspace(home))
    (home / "prices.toml").write_text("cpu_hour = 1\n")
    assert prices_of(limited, Workspace(home)) == Prices(cpu_hour=1)
