"""A route of vLLM's server that says how many requests its engine has: vLLM's server imports this.

vLLM computes with the requests that it has at the moment. Without a pause, the last bits of a reply
depend on arrival times. The sampler therefore pauses the engine, sends all requests, and lets the
engine go on when it has them.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

PATH = "/queued"
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class QueuedRequests:
    """ASGI middleware, by vLLM's `--middleware`: answers GET /queued with a number."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer the route, and hand every other request on."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        count = scope["app"].state.engine_client.get_num_unfinished_requests()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"queued": count}).encode()})
