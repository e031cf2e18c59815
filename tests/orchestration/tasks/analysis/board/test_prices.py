"""The price table: where it is, and what is wrong with it."""

import pytest

from rlhf_core.errors import ConfigError
from tasks.analysis.board.prices import Prices, load_prices
from tasks.records.workspace import Workspace

TABLE = 'currency = "EUR"\ncpu_hour = 0.04\ngpu_hour = 2.5\n[gpu]\nH200 = 3.9\n"H200 NVL" = 3.5\n'


def test_the_file_that_is_named_counts_before_that_of_the_workspace(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path)
    monkeypatch.delenv("RLHF_PRICES", raising=False)
    assert load_prices(workspace) is None
    (tmp_path / "prices.toml").write_text(TABLE)
    prices = load_prices(workspace)
    assert prices.currency == "EUR" and prices.cpu_hour == 0.04
    assert [prices.of_gpu(name) for name in ("NVIDIA H200", "NVIDIA H200 NVL", "NVIDIA A10")] == [
        3.9,
        3.5,
        2.5,
    ]
    (tmp_path / "mine.toml").write_text("gpu_hour = 1")
    monkeypatch.setenv("RLHF_PRICES", str(tmp_path / "mine.toml"))
    assert load_prices(workspace) == Prices(gpu_hour=1.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("cpu_hour = ", "not valid TOML"),
        ("cpu_hour = -1", "cpu_hour: .*found -1"),
        ("gpuhour = 1", "gpuhour: .* expected currency, cpu_hour"),
        ("[gpu]\nH200 = -2", "gpu.H200 is no price"),
    ],
)
def test_a_bad_table_is_one_error(tmp_path, monkeypatch, text, says):
    file = tmp_path / "mine.toml"
    monkeypatch.setenv("RLHF_PRICES", str(file))
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_prices(Workspace(tmp_path))
