"""The router of a live model, asked as an ASGI application."""

import asyncio
import json
import socket

import pytest

from rlhf_core.live import router
from rlhf_core.live.routes import Route, RouteFile


@pytest.fixture
def listener():
    """A server that takes connections and never replies."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        found.listen()
        yield found


@pytest.fixture
def ask(tmp_path):
    """Ask a router whose requests go to these addresses, the first one first; return the reply."""

    def asked(body: bytes, *addresses: str) -> tuple[int, dict]:
        routes = RouteFile(tmp_path / "routes.json")
        routes.write(
            [
                Route(version=f"{n}", model=f"m-{n}", address=address, key="k", share=not n)
                for n, address in enumerate(addresses)
            ]
        )
        sent: list[dict] = []
        coming = [{"type": "http.request", "body": body}]

        async def receive():
            return coming.pop() if coming else await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        async def run():
            scope = {"type": "http", "method": "POST", "path": router.PASSED_ON[0]}
            await router.Router("tiny", routes)(scope, receive, send)

        asyncio.run(run())
        return sent[0]["status"], json.loads(b"".join(each.get("body", b"") for each in sent))

    return asked


def address_of(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}/v1"


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", '"\\ud800"'])
def test_a_request_that_no_server_can_get_is_refused(ask, listener, value):
    body = f'{{"model": "tiny", "temperature": {value}}}'.encode()
    status, reply = ask(body, address_of(listener))
    assert status == 400 and "half of a surrogate pair" in reply["error"]["message"]


def test_a_request_that_is_nested_too_deeply_is_refused(ask):
    assert ask(b"[" * 200_000)[0] == 400


def test_a_slow_request_is_not_asked_a_second_time(ask, listener, monkeypatch):
    monkeypatch.setattr(router, "REPLY_SECONDS", 0.3)
    with socket.socket() as second:
        second.bind(("127.0.0.1", 0))
        second.listen()
        second.setblocking(False)
        status, reply = ask(b'{"model": "tiny"}', address_of(listener), address_of(second))
        assert status == 504 and "m-0 did not begin to reply" in reply["error"]["message"]
        with pytest.raises(BlockingIOError):
            second.accept()


def test_a_request_that_a_server_does_not_take_goes_to_another_one(ask, listener, monkeypatch):
    monkeypatch.setattr(router, "REPLY_SECONDS", 0.3)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        status, reply = ask(b'{"model": "tiny"}', address_of(closed), address_of(listener))
    assert status == 504 and "m-1 did not" in reply["error"]["message"]
