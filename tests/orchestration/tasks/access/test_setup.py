"""The rights of accounts after `rlhf access setup`, on a server with accounts."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from accounts import become, guarded_server, password
from command_line import rlhf_exit_code
from contests import contest_record
from mlflow import MlflowClient, MlflowException
from mlflow.server import get_app_client
from recipes import tiny_recipe
from registrar import Registrar

from flows.pipeline import flow
from rlhf_core.config import Registry
from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact
from tasks.approval import server_answer
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.candidates import candidates_of
from tasks.promotion.proposal import propose
from tasks.promotion.rights import require_rights
from tasks.promotion.signed_approval import approval_queue
from tasks.records import events
from tasks.records.approval_record import ApprovalRecord, VersionApproval, evidence_of
from tasks.records.run_record import Record
from tasks.records.workspace import Workspace
from tasks.registry.approval_queue import make_queue
from tasks.run_context import RunContext
from tasks.tracking.account import account_at
from tasks.tracking.client import connect
from tasks.tracking.tracker import tracking

pytestmark = pytest.mark.slow  # a password is hashed with every request
SETUP = ["access", "setup", "tiny", "--promoter", "pat", "--approver", "ann", "--approver", "bob"]


@pytest.fixture(scope="module")
def server(empty_store, tmp_path_factory):
    """Yield the address of a server on which an admin has parted the accounts."""
    folder = tmp_path_factory.mktemp("accounts")
    with guarded_server(empty_store, folder) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_HOME", str(folder / "home"))
        patch.setenv("MLFLOW_TRACKING_URI", address)
        become(patch, "admin")
        for name in ("pat", "ann"):
            patch.setenv(f"RLHF_PASSWORD_{name.upper()}", password(name))
        # as where a pipeline has made its models before
        get_app_client("basic-auth", tracking_uri=address).create_user(
            "pipeline", password("pipeline")
        )
        become(patch, "pipeline")
        connect(address).create_registered_model("tiny-policy")
        become(patch, "admin")
        assert rlhf_exit_code(*SETUP, "--dry-run") == 0
        assert connect(address).get_experiment_by_name("tiny-approvals") is None
        assert rlhf_exit_code(*SETUP) == 0
        yield address, folder / "home"


@pytest.fixture
def act(server, tmp_path, monkeypatch, capsys):
    """Run a command as an account, on a machine of its own; its exit code and all its output."""
    address, home = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

    def as_account(account: str, *words: str) -> tuple[int, str]:
        become(monkeypatch, account)
        if account == "bob":
            secret = (home / "passwords" / "bob").read_text()
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", secret)
        monkeypatch.setenv("RLHF_HOME", str(tmp_path / account))
        capsys.readouterr()
        code = rlhf_exit_code(*words)
        told = capsys.readouterr()
        return code, told.out + told.err

    return as_account


@pytest.fixture(scope="module")
def registered(server, tiny_models, tmp_path_factory) -> RegistryAliases:
    """As the pipeline's account: a reward model and three candidates, of which one asks."""
    address, home = server[0], tmp_path_factory.mktemp("pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", address)
        patch.setenv("RLHF_HOME", str(home))
        become(patch, "pipeline")
        registry = RegistryAliases(connect(address), Workspace(home), "tiny")
        made = Registrar(candidates_of(registry), tiny_models, candidate_of="tiny")
        made.add("reward", 1)
        add(made, 1)
        add(made, 2, asks="tiny-2")
        add(made, 3, asks="tiny-3")
        assert not propose(registry, "1", "pipeline run tiny-1").promoted
        yield registry


def add(made: Registrar, seed: int, asks: str = "") -> str:
    """Register a candidate; with a run's name it asks for approval."""
    digest = Artifact.of(made.models / f"policy-{seed}").digest
    records, tags = made.records("policy", digest), {}
    if seed > 1:
        champion = Artifact.of(made.models / "policy-1").digest
        records.append(contest_record(digest, champion, 0.7))
    now = datetime.now(UTC)
    made.approval = VersionApproval()
    if asks:
        asked = ApprovalRecord(
            evidence=evidence_of(digest, records),
            run=asks,
            asked_at=now,
            until=now + timedelta(hours=1),
        )
        made.approval = VersionApproval(required=True, record=asked)
        tags["approval"] = asked.model_dump_json()
    tags |= {"reward_version": "1", "registered_by": "pipeline"}
    return made.add("policy", seed, records, **tags)


def test_a_second_run_changes_nothing_and_no_password_is_shown(server, act):
    code, told = act("admin", *SETUP)
    assert code == 0 and told == "Nothing to do: the accounts of tiny are parted.\n"
    file = server[1] / "passwords" / "bob"  # the one account without a variable
    assert file.stat().st_mode & 0o777 == 0o600 and len(file.read_text()) >= 12
    assert [path.name for path in file.parent.iterdir()] == ["bob"]


def test_only_an_admin_sets_up_and_the_trainer_is_no_promoter(act):
    code, told = act("pat", *SETUP)
    assert code == 2 and "the account pat is no admin" in told
    code, told = act("admin", "access", "setup", "tiny", "--promoter", "pipeline")
    assert code == 2 and "both the pipeline's account and a promoter" in told


def test_a_wrong_password_is_refused_by_every_command(server, act, monkeypatch):
    for words in (SETUP, ["history", "tiny"], ["audit"], ["promote", "tiny", "1"]):
        code, told = act("nobody", *words)
        assert code == 2 and "accepts no user name and password of yours" in told, told


def test_two_setups_at_once_make_everything_once(server, tmp_path):
    environment = {"MLFLOW_TRACKING_URI": server[0], "MLFLOW_TRACKING_USERNAME": "admin"}
    environment |= {"MLFLOW_TRACKING_PASSWORD": password("admin"), "RLHF_HOME": str(tmp_path)}
    words = ["access", "setup", "twice", "--promoter", "tom"]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", "from flows.cli.app import main; main()", *words],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert "scrypt" not in "".join(told) and "Warning" not in "".join(told)
    assert "".join(told).count("create the account tom") == 1


def test_the_server_says_which_account_acts(server, monkeypatch):
    become(monkeypatch, "pat")
    found = account_at(server[0])
    assert (found.name, found.identity, found.is_admin) == ("pat", "account", False)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-password")
    with pytest.raises(BadInput, match="accepts no user name and password of yours"):
        account_at(server[0])


def test_a_recipe_that_may_not_register_is_refused_before_it_trains(server, monkeypatch):
    become(monkeypatch, "pipeline")
    with pytest.raises(BadInput, match=r"may not write tiny-policy.*separate_promoter=true"):
        require_rights(server[0], Registry(name="tiny"))
    require_rights(server[0], Registry(name="tiny", separate_promoter=True))
    require_rights(server[0], Registry(name="not-there-yet"))


@pytest.mark.parametrize(
    "write",
    [
        lambda client: client.set_registered_model_alias("tiny-policy", "champion", "1"),
        lambda client: client.create_model_version("tiny-policy", "models:/tiny-policy/1"),
        lambda client: client.create_model_version("tiny-ledger", "ledger:/tiny"),
        lambda client: client.delete_model_version("tiny-candidate-ledger", "1"),
        lambda client: client.create_run(
            client.get_experiment_by_name("tiny-promoted").experiment_id
        ),
    ],
    ids=["alias", "version", "ledger", "delete a proposal", "files of the promoter"],
)
def test_the_pipeline_can_register_and_not_promote(registered, server, monkeypatch, write):
    become(monkeypatch, "pipeline")
    with pytest.raises(MlflowException, match=r"Permission denied|403"):
        write(MlflowClient(server[0]))


def test_the_promoter_promotes_what_the_pipeline_registered(registered, server, act):
    code, told = act("pipeline", "promote", "tiny-candidate", "1")
    assert code == 3 and "does not let the account pipeline write tiny-policy" in told
    assert "an account with the role tiny-promoter" in told
    code, told = act("pat", "promote", "tiny-candidate", "1", "--reason", "release")
    assert code == 0 and "Version 1 of tiny-policy is the champion" in told
    client = MlflowClient(server[0])
    version = client.get_model_version_by_alias("tiny-policy", "champion")
    assert version.tags["copied_from"] == "models:/tiny-candidate-policy/1"
    code, told = act("ann", "audit", "--json")
    events = [(e["event"], e["by"], e["identity"]) for e in json.loads(told)]
    asked = ("approval", "", "")  # the two candidates that wait for an answer
    assert events.count(asked) == 2
    assert [event for event in events if event != asked] == [
        ("propose", "pipeline", "account"),
        ("promote", "pat", "account"),
    ]


def test_an_approval_comes_from_another_account_on_any_machine(registered, server, act):
    assert act("pat", "promote", "tiny-candidate", "1")[0] == 0
    code, told = act("pat", "promote", "tiny-candidate", "2")
    assert code == 3 and "nobody has answered" in told and "rlhf approve tiny-2" in told
    words = ("promote", "tiny-candidate", "2", "--approved-by", "Ann", "--comment", "yes")
    code, told = act("pat", *words)
    assert code == 2 and "--approved-by is not taken" in told
    code, told = act("ann", "approve", "tiny-2", "--by", "Bob")
    assert code == 2 and "the approver is the account ann" in told
    code, told = act("pipeline", "approve", "tiny-2")
    assert code == 2 and "was registered by pipeline" in told
    code, told = act("pat", "approve", "tiny-2")
    assert code == 2 and "expected one of ann, bob" in told

    code, told = act("ann", "approve", "tiny-2", "--comment", "reads well")
    assert code == 0 and told == "tiny-2: approved by ann: reads well\n"
    code, told = act("bob", "approve", "tiny-2", "--reject", "--comment", "too late")
    assert code == 2 and "decided already: approved by ann" in told
    code, told = act("pat", "promote", "tiny-candidate", "2")
    assert code == 0 and "Version 2 of tiny-policy is the champion" in told, told
    told = act("ann", "audit", "--json")[1]
    (approval,) = [e for e in json.loads(told) if e["outcome"] == "approved"]
    assert (approval["by"], approval["identity"]) == ("ann", "account")
    assert approval["model"] == "tiny-policy" and approval["reason"] == "reads well"


def test_a_rejection_stops_the_promoter(registered, act):
    assert act("bob", "approve", "tiny-3", "--reject")[0] == 2  # without a reason
    assert act("bob", "approve", "tiny-3", "--reject", "--comment", "rude")[0] == 0
    code, told = act("pat", "promote", "tiny-candidate", "3", "--override-contest", "shown")
    assert code == 3 and "not approved by bob: rude" in told


def test_the_pipeline_can_neither_answer_nor_say_who_may(registered, server, monkeypatch):
    become(monkeypatch, "pipeline")
    queue = approval_queue(connect(server[0]), "tiny")
    now = datetime.now(UTC)
    asked = ApprovalRecord(evidence="f" * 64, run="tiny-9", asked_at=now, until=now)
    assert queue.ask(asked).state == queue.ask(asked).state == "waiting"
    with pytest.raises(BadInput, match="may not approve; expected one of ann, bob"):
        queue.answer(asked, "pipeline", approve=True, comment="")
    from tasks.registry.approval_queue import set_members

    with pytest.raises(MlflowException, match=r"Permission denied|403"):
        set_members(queue, ["pipeline"])
    with pytest.raises(MlflowException):  # of that name there is one
        make_queue(queue.client, queue.experiment_id, ["pipeline"])


def test_a_renamed_experiment_hides_no_approval_and_a_second_one_counts_for_nothing(
    registered, server, act, monkeypatch
):
    become(monkeypatch, "pipeline")
    client = connect(server[0])
    before = approval_queue(client, "tiny")
    client.rename_experiment(before.experiment_id, "renamed")
    try:
        make_queue(client, client.create_experiment("tiny-approvals"), ["pipeline"])
        assert approval_queue(client, "tiny") == before
        assert act("admin", *SETUP)[1].count("queue") == 0
        become(monkeypatch, "pipeline")
        with pytest.raises(MlflowException, match=r"Permission denied|403"):
            client.set_registered_model_tag("tiny-ledger", "approval_queue", "1/1")
    finally:
        become(monkeypatch, "admin")
        client.delete_experiment(client.get_experiment_by_name("tiny-approvals").experiment_id)


def test_a_run_that_waits_takes_the_answer_of_an_account(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[0])
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    become(monkeypatch, "pipeline")
    workspace, now = Workspace(tmp_path), datetime.now(UTC)
    record = Record.new(workspace, tiny_recipe(registry={"name": "tiny"}), "tiny-8")
    asked = ApprovalRecord(
        evidence="8" * 64, run="tiny-8", asked_at=now, until=now + timedelta(hours=1)
    )

    def as_ann(event: object) -> None:
        if isinstance(event, events.ApprovalAsked):
            become(monkeypatch, "ann")
            queue.answer(asked, "ann", approve=True, comment="reads well")

    end = events.subscribe(as_ann)
    with tracking(workspace, record) as tracker:
        record.save(workspace)
        assert tracker.flush()
        context = RunContext(tiny_recipe(registry={"name": "tiny"}), workspace, record_id=record.id)
        queue = server_answer.queue_of(context)

        @flow(name="waits", persist_result=False)
        def waits() -> ApprovalRecord:
            return server_answer.answer(context, asked, queue, "May it be promoted?")

        decided = waits()
    end()
    assert (decided.state, decided.by, decided.comment) == ("approved", "ann", "reads well")
    assert decided.identity == "account"
