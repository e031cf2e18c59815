"""A log of replies around the router: an ASGI middleware that writes a sample of them to files.

Nothing is logged unless RLHF_REPLY_LOG is set. A reply that the sample does not take, and one that
the redaction hook raises at, leaves no trace. One file per reply: it is complete or absent, and who
has stored it elsewhere removes it.
"""

import asyncio
import contextlib
import json
import logging
import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from rlhf_core.live.asgi import ASGIMessage, ASGIReceive, ASGISend
from rlhf_core.live.chat_bodies import Redact, read_reply, read_request
from rlhf_core.named_functions import load_function

VARIABLE = "RLHF_REPLY_LOG"  # JSON: folder, rate (share of the replies), redact (module:function)
UNLOGGED = b"x-rlhf-unlogged"  # header of a request that is no user's
ROUTE = "/chat/completions"
ROLE = "redaction hook"
log = logging.getLogger("rlhf.live")
ASGIApp = Callable[[ASGIMessage, ASGIReceive, ASGISend], Awaitable[None]]


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed router has left half written in a folder that no router writes to."""
    for file in folder.glob(".*.json"):
        file.unlink(missing_ok=True)


class ReplyLog:
    """The middleware, with the settings in RLHF_REPLY_LOG."""

    def __init__(self, app: ASGIApp):
        settings = json.loads(os.environ[VARIABLE])
        self.app, self.folder = app, Path(settings["folder"])
        self.rate: float = settings["rate"]
        hook = settings["redact"]
        self.redact: Redact | None = load_function(hook, ROLE) if hook else None
        self._writing: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: ASGIMessage, receive: ASGIReceive, send: ASGISend) -> None:
        """Answer a request, and write it with its reply once that is given."""
        wanted = scope["type"] == "http" and scope["path"].endswith(ROUTE)
        if not wanted or _is_unlogged(scope) or random.random() >= self.rate:
            await self.app(scope, receive, send)
            return
        asked, given, status = bytearray(), bytearray(), [0]
        began = time.time()

        async def heard() -> ASGIMessage:
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def said(message: ASGIMessage) -> None:
            status[0] = message.get("status", status[0])
            given.extend(message.get("body", b""))
            await send(message)

        await self.app(scope, heard, said)
        if status[0] == 200:
            writing = asyncio.create_task(
                asyncio.to_thread(self._write, bytes(asked), bytes(given), began)
            )
            self._writing.add(writing)  # a task that nobody holds may be collected
            writing.add_done_callback(self._writing.discard)

    def _write(self, asked: bytes, given: bytes, began: float) -> None:
        took = time.time() - began
        name = f"{int(1e6 * began)}-{secrets.token_hex(8)}.json"
        new = self.folder / f".{name}"
        try:
            record = {
                "time_ms": int(1000 * began),
                "duration_ms": int(1000 * took),
                "request": read_request(asked, self.redact),
                "reply": read_reply(given, self.redact),
            }
            number = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(number, "w", encoding="utf-8") as file:
                json.dump(record, file)
            new.rename(self.folder / name)
        except Exception:  # a request must not fail for its log, nor its text be in another log
            log.warning("A reply was not logged.", exc_info=False)
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)


def _is_unlogged(scope: ASGIMessage) -> bool:
    return any(name == UNLOGGED for name, _ in scope["headers"])
