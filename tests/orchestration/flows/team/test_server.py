"""The server of the team's page: read only, for this machine alone, and never without an answer."""

import shutil
import sys
import threading
from pathlib import Path

import pytest
import uvicorn
from fastapi.testclient import TestClient
from team_pages import empty, filled

from flows.platform.pages import free_port
from flows.team import server
from rlhf_core.errors import RLHFError

LABELS = Path(__file__).resolve().parents[4] / "infra" / "labels"
HOST = "http://127.0.0.1:5100"


def client_of(make) -> TestClient:
    return TestClient(server.application(make), base_url=HOST)


def test_the_page_its_style_and_its_script_are_served_and_nothing_else():
    client = client_of(empty)
    for path, kind in (("/", "text/html"), ("/team.css", "text/css")):
        reply = client.get(path)
        assert reply.status_code == 200 and reply.headers["content-type"].startswith(kind)
    assert client.get("/team.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/health").text == "OK"
    for path in ("/docs", "/openapi.json", "/team.html.jinja", "/../pyproject.toml"):
        assert client.get(path).status_code == 404, path


def test_it_is_read_only_and_lets_no_other_site_show_or_read_it():
    client = client_of(empty)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert client.request(method, "/").status_code == 405
    reply = client.get("/")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "access-control-allow-origin" not in reply.headers
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"Host": "localhost:5100"}).status_code == 200


def test_many_readers_ask_the_servers_once():
    made = []

    def make():
        made.append(1)
        return empty()

    client = client_of(make)
    assert len({client.get("/").text for _ in range(5)}) == 1 and made == [1]


def test_a_page_that_cannot_be_made_says_why_and_later_it_can():
    answers = iter([RLHFError("state.json is damaged, http://ann:hidden@host"), None])

    def make():
        if error := next(answers):
            raise error
        return empty()

    client = client_of(make)
    reply = client.get("/")
    assert reply.status_code == 503 and "state.json is damaged" in reply.text
    assert "hidden" not in reply.text and reply.headers["content-type"].startswith("text/plain")
    assert client.get("/").status_code == 200


@pytest.mark.slow
def test_in_a_browser_the_page_fits_390_pixels_and_can_be_used_by_keyboard_alone(monkeypatch):
    """It needs a browser; the other tests hold what can be read off the page."""
    monkeypatch.syspath_prepend(str(LABELS))
    from browser import PROGRAMS, open_page

    sys.modules.pop("browser")
    if not any(map(shutil.which, PROGRAMS)):
        return
    contents = iter([filled("tiny-1443afb-1"), filled("tiny-1443afb-2"), filled("tiny-1443afb-2")])
    monkeypatch.setattr(server, "KEEP_SECONDS", 0.0)
    config = uvicorn.Config(
        server.application(lambda: next(contents)), port=(port := free_port()), log_level="error"
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        with open_page(390, 800) as page:
            page.visit(f"http://127.0.0.1:{port}/")
            page.wait_for("tiny-1443afb-1")
            assert page.value("document.documentElement.scrollWidth") <= 390
            assert page.value("getComputedStyle(document.querySelector('thead')).position") == (
                "absolute"
            )

            def press(key: str, code: int) -> str:
                for kind in ("keyDown", "keyUp"):
                    more = {"key": key, "windowsVirtualKeyCode": code}
                    more |= {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
                    page.call("Input.dispatchKeyEvent", type=kind, **more)
                return page.value("document.activeElement.textContent.trim()")

            assert press("Tab", 9) == "Skip to the content"
            assert page.value("getComputedStyle(document.activeElement).outlineWidth") == "3px"
            stops = [press("Tab", 9) for _ in range(5)]
            assert stops == ["MLflow", "Prefect", "Champions", "Latest runs", "Pause updates"]
            press("Enter", 13)
            assert page.value("document.activeElement.getAttribute('aria-pressed')") == "true"
            assert press("Tab", 9) == "tiny-1443afb-1"  # a link in the content
            page.value("refresh()")
            page.wait_for("tiny-1443afb-2")
            assert page.value("document.activeElement.textContent.trim()") == "tiny-1443afb-2"
    finally:
        running.should_exit = True
        thread.join(30)
