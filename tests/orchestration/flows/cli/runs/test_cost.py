"""`rlhf cost`: table and JSON, with and without prices."""

import json

from made_runs import MadeRun, write_runs

from flows import api


def made(name: str, hours: float) -> MadeRun:
    metrics = {"cost/ppo_cpu_hours": hours, "cost/ppo_seconds": 60.0}
    return MadeRun(name, metrics, {"hardware.gpus": "none"}, start=3_600_000)


def test_what_runs_took_is_printed_with_and_without_prices(rlhf, home, monkeypatch):
    monkeypatch.delenv("RLHF_PRICES", raising=False)
    assert rlhf("cost")[:2] == (0, "No runs.\n")
    write_runs(home / "mlflow.db", [made("tiny-a-1", 1.5), made("tiny-a-2", 0.5)])
    code, out, err = rlhf("cost", "--by", "run")
    assert code == 0 and err == "" and "Without prices" in out and "core hours" in out
    (home / "prices.toml").write_text('currency = "EUR"\ncpu_hour = 2\n')
    out = rlhf("cost", "--by", "run")[1]
    rows = [line.split() for line in out.splitlines() if line.split()]
    assert ["tiny-a-1", "1", "0.00", "1.50", "0.00", "3.00"] in rows
    assert ["total", "2", "0.00", "2.00", "0.00", "4.00"] in rows and "cost EUR" in out
    printed = json.loads(rlhf("cost", "tiny", "--json")[1])
    assert printed == api.cost("tiny").as_json()
    assert printed["total"]["money"] == 4.0 and printed["currency"] == "EUR"
    assert rlhf("cost", "--since", "1h")[1] == "No runs in that time.\n"
    assert rlhf("cost", "nosuch")[1] == "No runs of nosuch; there are runs of tiny.\n"
    assert rlhf("cost", "--by", "nosuch")[0] == 2


def test_energy_has_a_column_once_a_run_has_measured_it(rlhf, home, monkeypatch):
    monkeypatch.delenv("RLHF_PRICES", raising=False)
    write_runs(home / "mlflow.db", [made("tiny-a-2", 1.0)])
    out = rlhf("cost", "--by", "run")[1]
    assert "Energy of GPUs and processors: not measured." in out and "kWh" not in out
    measured = made("tiny-a-1", 1.0)
    measured.metrics["cost/ppo_gpu_kwh"] = 0.25
    write_runs(home / "mlflow.db", [measured])
    out = rlhf("cost", "--by", "run")[1]
    rows = [line.split() for line in out.splitlines() if line.split()]
    assert "Energy of processors: not measured." in out and "GPU kWh" in out
    assert ["tiny-a-1", "1", "0.00", "1.00", "0.00", "0.250"] in rows
    assert ["tiny-a-2", "1", "0.00", "1.00", "0.00", "not", "measured"] in rows
    assert ["total", "2", "0.00", "2.00", "0.00", "0.250"] in rows
