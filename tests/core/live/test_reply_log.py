"""The middleware that logs a sample of a server's replies."""

import asyncio
import json
import stat

import pytest

from rlhf_core.live.reply_log import UNLOGGED, VARIABLE, ReplyLog, remove_unfinished

BODY = json.dumps({"messages": [{"role": "user", "content": "my name is Ann"}]}).encode()
CHOICE = {"message": {"content": "hi"}, "finish_reason": "stop"}
ANSWER = {"id": "chatcmpl-1", "model": "tiny-policy-3", "choices": [CHOICE]}


async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": scope.get("status", 200), "headers": []})
    whole = json.dumps(ANSWER).encode()
    await send({"type": "http.response.body", "body": whole[:9], "more_body": True})
    await send({"type": "http.response.body", "body": whole[9:]})


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Ask a server with the log; return the records that are written then."""

    def asked(rate=1.0, redact="", times=1, **scope):
        settings = {"folder": str(tmp_path), "rate": rate, "redact": redact}
        monkeypatch.setenv(VARIABLE, json.dumps(settings))
        given = {"type": "http", "path": "/v1/chat/completions", "headers": []} | scope
        sent = []

        async def receive():
            return {"type": "http.request", "body": BODY}

        async def send(message):
            sent.append(message)

        async def run():
            log = ReplyLog(app)
            for _ in range(times):
                await log(given, receive, send)
            while log._writing:
                await asyncio.sleep(0.01)

        asyncio.run(run())
        assert len(sent) == 3 * times  # the client gets every part, whatever the log does
        return [json.loads(file.read_text()) for file in sorted(tmp_path.iterdir())]

    return asked


def test_what_a_killed_router_has_left_half_written_is_removed_and_whole_replies_stay(tmp_path):
    for name in (".1-a.json", "2-b.json", "refused"):
        (tmp_path / name).write_text("{")
    remove_unfinished(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["2-b.json", "refused"]
    remove_unfinished(tmp_path / "absent")


def test_a_logged_reply_has_prompt_reply_and_version(ask, tmp_path):
    (record,) = ask()
    assert record["request"]["messages"] == [{"role": "user", "content": "my name is Ann"}]
    assert record["reply"]["content"] == "hi" and record["reply"]["id"] == "chatcmpl-1"
    assert record["reply"]["model"] == "tiny-policy-3"
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_sample_of_the_replies_is_logged(ask):
    assert 10 < len(ask(rate=0.3, times=100)) < 55


def test_a_rate_of_zero_logs_nothing(ask):
    assert ask(rate=0.0, times=20) == []


def test_a_request_that_says_so_is_not_logged(ask):
    assert ask(headers=[(UNLOGGED, b"1")]) == []


def test_other_routes_and_failed_requests_are_not_logged(ask):
    assert ask(path="/health") == []
    assert ask(status=400) == []


def test_redaction_comes_before_anything_is_written(ask):
    (record,) = ask(redact="builtins:repr")
    assert record["request"]["messages"][0]["content"] == "'my name is Ann'"


def test_a_record_that_cannot_be_written_leaves_no_half_file(ask, monkeypatch, tmp_path):
    def full(record, file):
        file.write("{")
        raise OSError("no space left on device")

    monkeypatch.setattr(json, "dump", full)
    assert ask() == [] and list(tmp_path.iterdir()) == []


def test_a_reply_whose_redaction_fails_is_nowhere(ask, caplog):
    assert ask(redact="builtins:int") == []  # the text is no number, so that it raises
    assert "Ann" not in caplog.text
