"""One page of a headless Chromium: open, click, type and take pictures, as a person does.

It speaks the DevTools protocol with the browser that is installed (chromium or google-chrome);
clicks are mouse events at places on the page, not calls of its functions.
"""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# leaves that are seen and have this text, in the order of the page
SEEN = """(text) => [...document.querySelectorAll('*')].filter(one =>
    one.children.length === 0 && one.getClientRects().length
    && (one.textContent || one.placeholder || '').trim() === text)"""


class Page:
    """A page that is open."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers = socket, itertools.count(1)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Return the answer to a command of the protocol. Raises RuntimeError for a refused one."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv(timeout=300))).get("id") != number:
            pass  # an event
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression!r:.80}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 300) -> Any:
        """Return the value of an expression once it is true. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while not (found := self.value(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression!r:.200} is not true after {seconds:g} s")
            time.sleep(0.1)
        return found

    def visit(self, address: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=address)

    @property
    def text(self) -> str:
        """The text that is seen."""
        return self.value("document.body?.innerText || ''")

    def wait_for(self, text: str) -> None:
        """Wait until the page shows a text."""
        self.wait(f"(document.body?.innerText || '').includes({json.dumps(text)})")

    def ready(self, text: str, number: int = 0) -> str:
        """Return the JavaScript of what has this text, once it is there and not disabled."""
        leaf = f"({SEEN})({json.dumps(text)})[{number}]"
        self.wait(f"!!{leaf} && !{leaf}.closest(':disabled')")
        return leaf

    def click(self, text: str, number: int = 0) -> None:
        """Click on what has exactly this text, once it can be. number: of several, from 0."""
        leaf = self.ready(text, number)
        self.value(f"{leaf}.scrollIntoView({{block: 'center'}})")
        self.click_at(
            f"(() => {{ const box = {leaf}.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )

    def click_at(self, place: str) -> None:
        """Press and release the mouse where a JavaScript expression says: [x, y] in pixels."""
        x, y = self.value(place)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            more = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def write(self, text: str) -> None:
        """Type a text where the cursor is."""
        self.call("Input.insertText", **{"text": text})

    def picture(self, file: Path) -> None:
        """Write what is seen as PNG."""
        found = self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def open_page(width: int = 1200, height: int = 700) -> Iterator[Page]:
    """Yield a page of a fresh browser, which ends with the block.

    Raises RuntimeError where no browser is installed.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise RuntimeError(f"no browser found; install one of {', '.join(PROGRAMS)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        options += [f"--window-size={width},{height}", "--hide-scrollbars", "--disable-gpu"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = subprocess.Popen(
            [program, *options, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            with connect(_page_socket(Path(profile)), max_size=None) as socket:
                page = Page(socket)
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                page.call("Emulation.setDeviceMetricsOverride", **size)
                yield page
        finally:
            os.killpg(browser.pid, 15)
            browser.wait()


def _page_socket(profile: Path) -> str:
    """Return the address of the first page, once the browser has said its port."""
    file, end = profile / "DevToolsActivePort", time.monotonic() + 300
    while time.monotonic() < end:
        with contextlib.suppress(OSError, IndexError, httpx.HTTPError, StopIteration):
            port = file.read_text(encoding="utf-8").split()[0]
            listed = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
            return next(one["webSocketDebuggerUrl"] for one in listed if one["type"] == "page")
        time.sleep(0.1)
    raise RuntimeError("the browser has not started within 300 s")
