"""Energy between two readings of counters, and the counters that a machine has."""

import pytest

from tasks.execution.energy import (
    CPU,
    GPU,
    EnergyCounter,
    EnergyMeter,
    chosen_gpus,
    processor_counters,
)


def counter(kind: str, *readings: float | None, wraps_at: float | None = None) -> EnergyCounter:
    found = iter(readings)
    return EnergyCounter(kind, lambda: next(found), wraps_at)


def test_the_joules_of_a_kind_are_the_sum_over_its_devices():
    meter = EnergyMeter([counter(GPU, 10, 15), counter(GPU, 100, 140), counter(CPU, 0, 7)])
    assert meter() == {GPU: 45, CPU: 7}


def test_a_device_without_an_answer_leaves_its_kind_out_until_the_next_one():
    meter = EnergyMeter([counter(GPU, 10, 15, 20), counter(GPU, 100, None, 190)])
    assert meter() == {}
    assert meter() == {GPU: 10 + 90}


def test_a_counter_that_begins_anew_is_counted_on_and_another_one_is_not():
    meter = EnergyMeter([counter(CPU, 990, 5, wraps_at=1000), counter(GPU, 990, 5, 9)])
    assert meter() == {CPU: 15}
    assert EnergyMeter([])() == {}


def test_a_driver_that_was_loaded_anew_is_counted_from_then_on():
    meter = EnergyMeter([counter(GPU, 990, 5, 9)])
    assert [meter(), meter()] == [{}, {GPU: 4}]


def zone(folder, name: str, label: str, joules: float) -> None:
    (folder / name).mkdir()
    (folder / name / "name").write_text(f"{label}\n")
    (folder / name / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
    (folder / name / "max_energy_range_uj").write_text("262143328850\n")


def test_the_processor_is_its_packages_and_not_their_parts(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 12.0)
    zone(tmp_path, "intel-rapl:0:0", "core", 5.0)
    zone(tmp_path, "intel-rapl:1", "psys", 40.0)
    (one,) = processor_counters(tmp_path)
    assert (one.kind, one.read(), one.wraps_at) == (CPU, 12.0, pytest.approx(262143.32885))
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()  # as where only root may read it
    assert processor_counters(tmp_path) == [] == processor_counters(tmp_path / "none")


@pytest.mark.parametrize(
    ("visible", "places"),
    [
        (None, [0, 1, 2]),
        ("2,0", [2, 0]),
        ("GPU-b", [1]),
        ("", []),
        ("-1", []),
        ("1,-1,2", [1]),
        ("MIG-4", None),
        ("7", None),
    ],
)
def test_the_gpus_of_a_stage_are_those_that_it_may_use(monkeypatch, visible, places):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert chosen_gpus(["GPU-a1", "GPU-b2", "GPU-c3"]) == places
