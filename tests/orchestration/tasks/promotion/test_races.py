"""Twenty promoters at once, on SQLite and on a live MLflow server.

The server's files change, it hangs, it dies.
"""

import shutil
import signal
import time
from collections import Counter

import pytest
from mlflow_server import mlflow_server
from registrar import Registrar

from flows.platform.pages import free_port
from rlhf_core.errors import PromotionRefused, RLHFError, StageFailed
from tasks.promotion import aliases, transaction
from tasks.promotion.aliases import RegistryAliases, champion_history, drift
from tasks.promotion.promotion import PromotionRequest, history, promote, rollback
from tasks.records.workspace import Workspace
from tasks.registry.fetching import fetch
from tasks.tracking.client import connect

COUNT = 20


def require_one_winner(registry: RegistryAliases, results: list[dict], before: int) -> None:
    """Check that one promoter won and the others were refused with a reason.

    All are in the ledger, and it agrees with the aliases.
    """
    assert [result["code"] for result in results] == [0] * COUNT
    winners = [result for result in results if result.get("promoted")]
    losers = [result for result in results if "error" in result]
    assert len(winners) == 1 and len(losers) == COUNT - 1, results
    assert all(result["kind"] == "PromotionRefused" for result in losers), losers
    assert all(
        "one attempt at a time" in loser["error"] or "somebody else was faster" in loser["error"]
        for loser in losers
    )
    entries = registry.ledger.entries()
    assert [entry.number for entry in entries] == list(range(1, before + COUNT + 1))
    assert Counter(entry.outcome for entry in entries[before:]) == {"done": 1, "refused": COUNT - 1}
    champion = champion_history(entries)[-1]
    assert (
        champion.policy.version == winners[0]["version"]
        and drift(champion, registry.aliases()) is None
    )


def jobs() -> list[dict]:
    """Return promoters of two policies that both saw version 1 as champion."""
    return [
        {"action": "promote", "version": "2" if number % 2 else "3", "expects": "1"}
        for number in range(COUNT)
    ]


def test_twenty_promoters_at_once_leave_one_champion_and_a_complete_ledger(promoters, registry):
    require_one_winner(registry, promoters.run(registry, *jobs()), before=1)


@pytest.mark.slow
def test_a_policy_and_a_reward_model_promoted_at_once_leave_what_the_ledger_says(
    promoters, registry
):
    kinds = ["policy", "reward"] * 4
    jobs = [{"action": "promote", "kind": kind, "version": "2", "expects": "1"} for kind in kinds]
    results = promoters.run(registry, *jobs)
    assert [result["code"] for result in results] == [0] * len(jobs)
    won = [result["model"] for result in results if result.get("promoted")]
    assert won and len(won) == len(set(won))  # at most one of each kind
    assert all(result.get("promoted") or result["kind"] == "PromotionRefused" for result in results)
    entries = registry.ledger.entries()
    assert all(entry.outcome for entry in entries) and history(registry).problems == []
    last = [entry.model for entry in entries if entry.outcome == "done"][-1]
    champions = registry.aliases()
    assert champions["policy@champion"] == ("2" if "tiny-policy" in won else "1")
    assert champions["reward@champion"] == ("2" if last == "tiny-reward" else "1")


@pytest.mark.slow
def test_twenty_rollbacks_at_once_go_back_by_whole_steps(promoters, registry):
    promote(registry, PromotionRequest(version="2"))
    promote(registry, PromotionRequest(version="4"))
    results = promoters.run(registry, *[{"action": "rollback"} for _ in range(COUNT)])
    done = [result["version"] for result in results if result.get("promoted")]
    # one that came late found the first one finished
    assert done in (["2"], ["2", "1"], ["1", "2"])
    assert (
        champion_history(registry.ledger.entries())[-1].policy.version
        == registry.aliases()["policy@champion"]
        == min(done)
    )
    assert all(entry.outcome for entry in registry.ledger.entries())


# a live server


@pytest.fixture(scope="module")
def patient():
    """Give requests 30 s: twenty clients on two cores are slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        yield


@pytest.fixture(scope="module")
def server(patient, empty_store, tmp_path_factory):
    """Yield the address and the folder of a running MLflow server."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    shutil.copy(empty_store, folder / "db")
    with mlflow_server(folder, port):
        yield f"http://127.0.0.1:{port}", folder


@pytest.fixture
def make_registry(tiny_models, tmp_path, monkeypatch):
    """Return a function that fills a registry on a server.

    It holds policies 1 (champion), 2 and 3 (both beat it), and their reward models.
    """

    def make(uri: str, name: str) -> RegistryAliases:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        registry = RegistryAliases(connect(uri), Workspace(tmp_path / "home"), name)
        registrar = Registrar(registry, tiny_models)
        for seed in (1, 2):
            registrar.add("reward", seed)
        registrar.policy(1)
        registrar.policy(2, beats="1")
        registrar.policy(3, beats="1", reward="2")
        promote(registry, PromotionRequest(version="1"))
        return registry

    return make


@pytest.mark.slow
def test_twenty_promoters_at_once_on_a_server(promoters, server, make_registry):
    registry = make_registry(server[0], "race")
    require_one_winner(registry, promoters.run(registry, *jobs()), before=1)
    assert rollback(registry, PromotionRequest()).version == "1"


def test_files_changed_on_the_server_are_refused_though_this_machine_has_a_good_copy(
    server, make_registry
):
    registry = make_registry(server[0], "files")
    version = registry.version("policy", "2")
    fetch(registry.workspace, version)
    logged = version.source.rpartition("/models/")[2].split("/")[0]
    (stored,) = (
        path for path in (server[1] / "artifacts").rglob("*.safetensors") if logged in path.parts
    )
    good = stored.read_bytes()
    stored.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    before = registry.aliases()
    with pytest.raises(PromotionRefused, match="version 2 of files-policy has other weights"):
        promote(registry, PromotionRequest(version="2"))
    assert registry.aliases() == before
    stored.write_bytes(good)
    assert promote(registry, PromotionRequest(version="2")).promoted


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_leaves_an_attempt_that_the_next_command_ends(
    patient, empty_store, make_registry, tmp_path, monkeypatch
):
    smoke, folder, port = transaction.smoke_test_alias, tmp_path / "server", free_port()
    folder.mkdir()
    shutil.copy(empty_store, folder / "db")
    with mlflow_server(folder, port) as send:
        registry = make_registry(f"http://127.0.0.1:{port}", "tiny")

        def die(*args):
            send(signal.SIGKILL)
            smoke(*args)

        monkeypatch.setattr(transaction, "smoke_test_alias", die)
        began = time.monotonic()
        with pytest.raises(
            StageFailed, match=r"entry 2 .* could not be ended .*completes or undoes it"
        ):
            promote(registry, PromotionRequest(version="2"))
        assert time.monotonic() - began < 60
        monkeypatch.setattr(transaction, "smoke_test_alias", smoke)
    with mlflow_server(folder, port) as send:
        assert (
            registry.aliases()["policy@champion"] == "2"
            and not registry.ledger.entries()[-1].outcome
        )
        assert history(registry).problems == ["Entry 2 was completed."]
        assert (
            registry.ledger.entries()[1].outcome == "done"
            and registry.aliases()["policy@previous"] == "1"
        )
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
        send(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(RLHFError, match=r"does not answer .*Nothing was changed"):
            aliases.open_registry("tiny")
        assert time.monotonic() - began < 20
