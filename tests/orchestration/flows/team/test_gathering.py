"""The content of the team's page, from real stores: records, ledgers, campaigns, a dead server."""

from datetime import UTC, datetime

import pytest
from recipes import tiny_recipe
from synthetic import Story

from flows.platform import state
from flows.platform.pages import free_port
from flows.team.gathering import Parts, gather
from rlhf_core.errors import RLHFError
from tasks.promotion.promotion import PromotionRequest, promote
from tasks.records.process_identity import ProcessIdentity
from tasks.records.run_record import Record, record_lock
from tasks.records.workspace import Workspace


@pytest.fixture
def champions(registrar):
    """The workspace of a registry whose first policy is champion."""
    return registrar


def test_the_champions_are_those_of_the_ledger_with_time_person_and_evidence(champions):
    promote(champions.registry, PromotionRequest(version="2", reason="release 12"))
    policy, reward = gather().champions
    entry = champions.registry.ledger.entries()[-1]
    assert (policy.model, policy.version, policy.by) == ("tiny-policy", "2", entry.by)
    assert policy.since == entry.ended and policy.digest == champions.digests["policy", "2"]
    assert policy.evidence[0].startswith("contest won: it wins 70.0% of ")
    assert policy.evidence[-1] == "release 12" and policy.problem == ""
    assert policy.link == "http://127.0.0.1:5000/#/models/tiny-policy/versions/2"
    # the reward model came with the first policy, and stayed
    assert (reward.model, reward.version, reward.entry) == ("tiny-reward", "1", 1)
    assert "there was no champion to beat" in reward.evidence


def test_an_alias_that_somebody_moved_is_named(champions):
    client = champions.registry.client
    client.set_registered_model_alias("tiny-policy", "champion", "3")
    policy, reward = gather().champions
    assert policy.version == "1" and reward.problem == ""
    assert "policy@champion is version 3, the ledger says version 1" in policy.problem


def test_runs_that_have_not_ended_are_shown_also_where_twenty_are_later(home):
    workspace, recipe = Workspace(home), tiny_recipe()
    first = Record.new(workspace, recipe, "tiny-a-0")
    first.started -= 10_000
    first.save(workspace)
    for number in range(1, 23):
        record = Record.new(workspace, recipe, f"tiny-a-{number}")
        record.status, record.ended, record.error = "FAILED", record.started + 5000, "no disk\nmore"
        record.started += number
        record.save(workspace)
    with record_lock(workspace, first.id):
        found = gather()
    assert [run.name for run in found.running] == ["tiny-a-0"]
    assert [run.name for run in found.runs] == [f"tiny-a-{n}" for n in range(22, 2, -1)]
    latest = found.runs[0]
    assert (latest.state, latest.tone) == ("failed", "bad")
    assert latest.note == "no disk Not all in MLflow yet: rlhf sync."
    (waits,) = found.waiting
    assert waits.what.startswith("22 runs are not in MLflow in full: ") and waits.do == "rlhf sync"


def test_a_run_in_mlflow_links_to_the_server_that_shows_the_workspaces_store(synthetic, home):
    record = synthetic.tell(Story("told")).record
    port = free_port()
    state.write(Workspace(home), state.Platform(prefect_port=1, mlflow_port=port, pool="p"))
    (run,) = gather().runs
    assert run.state == "finished" and run.href.startswith(
        f"http://127.0.0.1:{port}/#/experiments/"
    )
    assert run.href.endswith(record.run_id) and [s.name for s in run.stages][:2] == [
        "validate",
        "sft",
    ]


def test_a_campaign_waits_for_each_person_and_then_for_who_opened_it(home):
    from campaigns import opened_campaign

    campaign = opened_campaign(Workspace(home), 4, "ann", "bob")
    campaign.answer("ann")
    (waits,) = gather().waiting
    assert (waits.whom, waits.what) == ("bob", "campaign week-48: 2 pairs to compare")
    assert "/review-queue?" in waits.href
    campaign.answer("bob")
    (waits,) = gather().waiting
    assert waits.do == "rlhf label close week-48"


def test_a_service_that_was_given_up_waits_for_whoever_runs_the_platform(home):
    workspace = Workspace(home)
    dead = ProcessIdentity.current().model_copy(update={"started": "1"})
    service = state.Service(name="mlflow", owner=dead, health="", log=home / "mlflow.log")
    trouble = state.Trouble(deaths=9, last=datetime.now(UTC), why="exit code 1", given_up=True)
    state.write(
        workspace,
        state.Platform(
            prefect_port=1,
            mlflow_port=2,
            pool="p",
            services={"mlflow": service},
            troubles={"mlflow": trouble},
        ),
    )
    found = gather()
    assert found.services[0].tone == "bad" and "given up" in found.services[0].state
    assert [(one.what, one.do) for one in found.waiting] == [
        ("mlflow has died 9 times and stays down", "rlhf up")
    ]


def test_without_mlflow_and_prefect_the_page_has_the_runs_and_says_what_is_missing(
    home, monkeypatch
):
    record = Record.new(Workspace(home), tiny_recipe(), "tiny-a-1")
    record.save(Workspace(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:hidden@127.0.0.1:{free_port()}")
    found = gather()
    assert [run.name for run in found.runs] == ["tiny-a-1"]
    assert found.champions == [] and found.mlflow == found.prefect == ""
    assert "does not answer, and the champions are in its registry" in found.problems["champions"]
    assert "Prefect's server does not answer." in found.problems["deployments"]
    assert "hidden" not in str(found)


def test_a_part_that_raises_is_a_line_and_passwords_are_not_in_it():
    parts = Parts()

    def raises(error):
        def part():
            raise error

        return part

    assert parts.read("live", raises(OSError("no http://ann:hidden@host here"))) == []
    assert parts.read("live", raises(RLHFError("said clearly."))) == []
    assert parts.problems == {"live": "OSError: no http://ann:***@host here said clearly."}
