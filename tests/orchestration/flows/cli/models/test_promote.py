"""`rlhf promote`, `rlhf rollback`, `rlhf history`: exit codes, messages, tables."""

import json

import pytest

pytestmark = pytest.mark.usefixtures("registrar")


@pytest.mark.parametrize("command", ["promote", "rollback", "history"])
def test_every_command_explains_itself(rlhf, command):
    code, out, _ = rlhf(command, "--help")
    assert code == 0 and f" {command} [OPTIONS]" in out and "--json" in out


@pytest.mark.parametrize("name", ["tiny", "tiny-policy"])
def test_a_promotion_a_rollback_and_their_history(rlhf, name):
    code, out, err = rlhf("promote", name, "2", "--expect-current", "1", "--reason", "better [1]")
    assert (
        code == 0
        and out
        == "Version 2 of tiny-policy is the champion: it wins 70.0% of 250 decided prompts by"
        " eval/win_rate_vs_champion (lower 95.63% bound 63.7%) against version 1, contest 1 on"
        " these held-out prompts.\n"
    ), err
    code, out, _ = rlhf("rollback", name, "--json")
    assert code == 0 and json.loads(out)["version"] == "1" and json.loads(out)["entry"] == 3
    code, out, err = rlhf("history", name)
    assert code == 0 and err == "" and "better [1]" in out
    lines = [line.split() for line in out.splitlines() if "│" in line]
    assert [(line[1], line[6], line[8], line[10]) for line in lines] == [
        ("1", "promote", "tiny-policy", "1"),
        ("2", "promote", "tiny-policy", "2"),
        ("3", "rollback", "tiny-policy", "1"),
    ]
    document = json.loads(rlhf("history", name, "--json")[1])
    assert document["champion"]["policy"]["version"] == "1" and document["problems"] == []
    assert [entry["state"] for entry in document["entries"]] == ["done"] * 3
    assert (
        document["entries"][1]["reason"] == "better [1]"
        and document["entries"][1]["plan"]["after"]["policy@previous"] == "1"
    )


def test_an_approval_given_with_the_promotion_stands_in_the_history(rlhf):
    words = ["promote", "tiny", "2", "--approved-by", "Ann  Lee", "--comment", "read [50] replies"]
    code, out, err = rlhf(*words)
    assert code == 0 and out.endswith("; approved by Ann Lee: read [50] replies.\n"), err
    assert "approved by Ann Lee: read [50] replies" in rlhf("history", "tiny")[1]


def test_the_reward_model_is_meant_by_its_name(rlhf, registry):
    code, out, _ = rlhf("promote", "tiny-reward", "2")
    assert (
        code == 0
        and "Version 2 of tiny-reward is the champion" in out
        and registry.aliases()["reward@champion"] == "2"
    )
    code, _, err = rlhf("promote", "tiny-reward", "1", "--override-contest", "none needed")
    assert code == 2 and "fights no contest" in err
    assert rlhf("rollback", "tiny-reward")[0] == 0 and registry.aliases()["reward@champion"] == "1"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (
            ["promote", "tiny", "5"],
            3,
            "rlhf: refused: Version 5 of tiny-policy is not promoted: it wins 40.0%",
        ),
        (["promote", "tiny", "2", "--expect-current", "4"], 3, "is version 1, expected version 4"),
        (["promote", "tiny", "2", "--expect-current", "0"], 3, "is version 1, expected none"),
        (
            ["promote", "tiny", "99"],
            2,
            "rlhf: error: version 99 of tiny-policy does not exist; it was never made, or deleted."
            " Expected one of its versions: 1, 2, 3, 4, 5.\n",
        ),
        (["promote", "tiny", str(10**30)], 2, f"version {10**30} of tiny-policy does not exist"),
        (["promote", "tiny-reward", "9"], 2, "Expected one of its versions: 1, 2.\n"),
        (["rollback", "nosuch"], 2, "no registered model nosuch-policy"),
        (
            ["promote", "tinny", "1"],
            2,
            "no registered model tinny-policy; found tiny-policy, tiny-reward",
        ),
        (["promote", "tiny", "0"], 2, "Usage"),
        (["promote", "tiny", "2", "--adopt"], 2, "--adopt needs --reason"),
        (["promote", "tiny", "2", "--reason", "x" * 1001], 2, "expected at most 1000"),
        (["promote", "tiny", "2", "--approved-by", "Ann"], 2, "--comment is missing"),
        (["promote", "tiny", "2", "--comment", "fine"], 2, "--approved-by is missing"),
        (
            ["promote", "tiny-reward", "2", "--approved-by", "Ann", "--comment", "fine"],
            2,
            "promoted without approval",
        ),
        (["rollback", "tiny"], 3, "no earlier champion"),
    ],
)
def test_a_refusal_is_one_message_and_its_exit_code(rlhf, words, code, says):
    found, out, err = rlhf(*words)
    assert (found, out) == (code, "") and says in err and "Traceback" not in err


def test_a_history_of_nothing_says_so(rlhf, registry):
    registry.client.create_registered_model("other-reward")
    code, out, _ = rlhf("history", "other", "--verify")
    assert code == 0 and out.startswith("No attempt to promote other is recorded.\n")
    assert "Nothing to verify yet" in out and "1 to 0" not in out
    assert json.loads(rlhf("history", "other", "--json")[1])["entries"] == []


@pytest.mark.parametrize("options", [[], ["--verify"], ["--json"]])
def test_a_history_of_a_model_that_is_not_there_is_refused(rlhf, options):
    code, out, err = rlhf("history", "nosuch", *options)
    assert (code, out) == (2, "") and "no registered model nosuch-policy; found" in err
    assert "tiny-policy" in err


def test_history_shows_what_is_wrong_and_refusals_with_their_reason(rlhf, registry):
    rlhf("promote", "tiny", "5")
    registry.client.set_registered_model_alias("tiny-policy", "champion", "5")
    code, out, err = rlhf("history", "tiny")
    assert code == 0 and "wins 40.0%" in out and "refused" in out
    assert "policy@champion is version 5, the ledger says version 1" in err


def test_a_ledger_is_verified_and_an_altered_one_ends_with_exit_code_3(rlhf, registry):
    rlhf("promote", "tiny", "2")
    code, out, _ = rlhf("history", "tiny", "--verify")
    assert code == 0 and "Entries that a later one vouches for: 1 to 1, unaltered." in out
    registry.client.set_model_version_tag("tiny-ledger", "1", "reason", "another")
    code, _, err = rlhf("history", "tiny", "--verify")
    assert code == 3 and "altered, added or deleted after entry 2" in err
    assert rlhf("history", "tiny", "--verify", "--json")[0] == 3


def test_the_audit_is_a_table_csv_or_json_and_names_an_altered_ledger(rlhf, registry):
    rlhf("promote", "tiny", "2")
    code, out, _ = rlhf("audit")
    assert code == 0 and "3 events" in out and "tiny-policy" in out
    lines = rlhf("audit", "--csv")[1].splitlines()
    columns = "time,event,model,version,by,outcome,reason,evidence,identity"
    assert lines[0] == columns and len(lines) == 4 and lines[1].endswith(",declared")
    events = [(each["event"], each["version"]) for each in json.loads(rlhf("audit", "--json")[1])]
    assert events == [("promote", "1"), ("promote", "2"), ("contest", "2")]
    assert json.loads(rlhf("audit", "--json", "--since", "2999-01-01")[1]) == []
    registry.client.set_model_version_tag("tiny-ledger", "1", "reason", "another")
    code, out, err = rlhf("audit")
    assert code == 3 and "3 events" in out and "tiny: One of entries 1 to 1 was altered" in err


def test_without_a_server_every_command_is_one_error(rlhf, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for words in (["promote", "tiny", "2"], ["rollback", "tiny"], ["history", "tiny"]):
        code, out, err = rlhf(*words)
        assert (
            code == 1
            and out == ""
            and "http://127.0.0.1:9 does not answer" in err
            and "Nothing was changed" in err
        )


def test_a_dry_run_says_what_would_happen_and_writes_nothing(rlhf, registry):
    before = registry.aliases(), len(registry.ledger.entries())
    code, out, err = rlhf("promote", "tiny", "2", "--dry-run")
    assert code == 0 and err == ""
    lines = [line.split() for line in out.splitlines()]
    assert lines[3][:2] == ["contest", "ok"] and lines[-2][:4] == ["smoke", "test", "not", "tried"]
    assert lines[-1][:2] == ["Would", "promote"]
    code, out, _ = rlhf("promote", "tiny", "5", "--dry-run", "--json")
    assert code == 3 and json.loads(out)["allowed"] is False
    code, out, _ = rlhf("rollback", "tiny", "--dry-run")
    assert code == 3 and "has no earlier champion" in out
    assert (registry.aliases(), len(registry.ledger.entries())) == before
