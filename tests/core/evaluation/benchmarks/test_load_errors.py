"""The errors of a benchmark that cannot be loaded: which are retried."""

import httpx
import pytest

from rlhf_core.errors import BadInput, StageFailed
from rlhf_core.evaluation.benchmarks.load_errors import not_loaded


def caused(cause: Exception) -> Exception:
    """Return an error as `datasets` raises it for another one."""
    error = RuntimeError("An error occurred")
    error.__cause__ = cause
    return error


def answered(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "https://hub.example")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status))


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)


AWAY = [
    ConnectionError("Couldn't reach the hub"),
    TimeoutError("slow"),
    httpx.ConnectTimeout("slow"),
    answered(503),
    answered(429),
]


@pytest.mark.parametrize("error", AWAY, ids=lambda error: str(error))
def test_a_hub_that_is_away_is_tried_again(error):
    for each in (error, caused(error)):
        found = not_loaded("mine", "folder", each)
        assert isinstance(found, StageFailed) and "does not answer" in str(found)


@pytest.mark.parametrize("error", [answered(404), FileNotFoundError("none"), ValueError("odd")])
def test_what_the_same_input_brings_again_is_not(error):
    found = not_loaded("mine", "folder", caused(error))
    assert isinstance(found, BadInput)
    assert f"the benchmark mine of folder cannot be loaded ({type(error).__name__}" in str(found)


def test_where_asking_the_hub_is_forbidden_trying_again_helps_nothing(monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    assert isinstance(not_loaded("mine", "folder", AWAY[0]), BadInput)
