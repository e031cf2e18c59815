"""The one address of a live model: an ASGI server that passes requests on to vLLM's servers.

`python -m rlhf_core.live.router NAME FOLDER PORT` reads FOLDER/routes.json at every change. Each
request gets a server by share. It stays with that server until its reply is given, so that other
routes drop no request. A request that a server does not take at all, or whose connection breaks
before the reply begins, goes to another one.
"""

import asyncio
import json
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from rlhf_core.live.asgi import ASGIMessage, ASGIReceive, ASGISend
from rlhf_core.live.reply_log import VARIABLE, ReplyLog
from rlhf_core.live.routes import Route, RouteFile, in_order

HOST = "127.0.0.1"
ROUTES = "routes.json"
PASSED_ON = ("/v1/chat/completions", "/v1/completions")
REPLY_SECONDS = 600.0  # between two parts of a reply
CONNECTIONS = 512  # concurrent requests; the others queue here
IDLE_SECONDS = 2.0  # of a connection that is used again; a server closes it after 5
UNENCODED = (
    "the request has a number or character that a server cannot get (NaN, Infinity or half of a"
    " surrogate pair); expected JSON in UTF-8"
)


class Router:
    """The ASGI application. name: of the model, as clients give it."""

    def __init__(self, name: str, routes: RouteFile):
        self.name, self.routes = name, routes
        self.under_way: Counter[str] = Counter()  # requests by model
        self.answered: Counter[str] = Counter()
        self._draw = random.Random()
        self._client = httpx.AsyncClient(
            trust_env=False,
            timeout=httpx.Timeout(REPLY_SECONDS, connect=5.0),
            limits=httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=IDLE_SECONDS),
        )

    async def __call__(self, scope: ASGIMessage, receive: ASGIReceive, send: ASGISend) -> None:
        """Answer one request, or take part in the server's start and end."""
        if scope["type"] == "lifespan":
            await _live_and_end(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["path"] in PASSED_ON and scope["method"] == "POST":
            await self._pass_on(scope["path"], receive, send)
        else:
            await self._page(scope["path"], send)

    async def _page(self, path: str, send: ASGISend) -> None:
        if path == "/health":
            await _json(send, 200 if self.routes.read() else 503, {"name": self.name})
        elif path == "/requests":
            counts = {"under_way": dict(self.under_way), "answered": dict(self.answered)}
            await _json(send, 200, counts)
        elif path == "/v1/models":
            model = {"id": self.name, "object": "model", "owned_by": "rlhf"}
            await _json(send, 200, {"object": "list", "data": [model]})
        else:
            await _refuse(send, 404, f"no route {path}; expected one of {', '.join(PASSED_ON)}")

    async def _pass_on(self, path: str, receive: ASGIReceive, send: ASGISend) -> None:
        try:
            body = json.loads(await _body(receive))
            model = body["model"]
        except (ValueError, KeyError, TypeError, RecursionError):
            await _refuse(send, 400, f"expected a JSON object with the model {self.name!r}")
            return
        if model != self.name:
            await _refuse(send, 404, f"no model {model!r}; expected {self.name!r}")
            return
        for route in in_order(self.routes.read(), self._draw):
            try:
                content = _encoded(body | {"model": route.model})
            except ValueError:
                await _refuse(send, 400, UNENCODED)
                return
            self.under_way[route.model] += 1
            try:
                if await self._asked(route, path, content, (receive, send)):
                    self.answered[route.model] += 1
                    return
            finally:
                self.under_way[route.model] -= 1
        await _refuse(send, 503, f"no server of {self.name} answers; see rlhf live status")

    async def _asked(
        self, route: Route, path: str, content: bytes, client: tuple[ASGIReceive, ASGISend]
    ) -> bool:
        """Give the client the server's reply; return False when the server took no request.

        A client that goes away ends the request, which frees the server.
        """
        receive, send = client
        replying = asyncio.ensure_future(self._replied(route, path, content, send))
        gone = asyncio.ensure_future(_is_gone(receive))
        await asyncio.wait({replying, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not replying.done():
            replying.cancel()
            return True
        return await replying

    async def _replied(self, route: Route, path: str, content: bytes, send: ASGISend) -> bool:
        headers = {"authorization": f"Bearer {route.key}", "content-type": "application/json"}
        url = route.address + path.removeprefix("/v1")
        request = self._client.build_request("POST", url, content=content, headers=headers)
        try:
            reply = await self._client.send(request, stream=True)
        except (httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            # the server may be at work on it, and another one would take as long again
            seconds = f"{REPLY_SECONDS:g} s"
            await _refuse(send, 504, f"{route.model} did not begin to reply within {seconds}")
            return True
        except httpx.TransportError:
            return False
        try:
            kind = reply.headers.get("content-type", "application/json").encode()
            start = {"type": "http.response.start", "status": reply.status_code}
            await send(start | {"headers": [(b"content-type", kind)]})
            async for part in reply.aiter_bytes():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await reply.aclose()
        return True


async def _body(receive: ASGIReceive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _encoded(body: dict[str, Any]) -> bytes:
    """Return a body as JSON. Raises ValueError for what JSON or UTF-8 cannot have."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()


async def _is_gone(receive: ASGIReceive) -> None:
    """Return when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: ASGISend, status: int, text: str) -> None:
    await _json(send, status, {"error": {"message": text, "type": "rlhf", "code": status}})


async def _json(send: ASGISend, status: int, content: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


async def _live_and_end(receive: ASGIReceive, send: ASGISend) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def main(name: str, folder: Path, port: int) -> None:
    """Serve until this process is asked to end; replies under way are given first."""
    import uvicorn

    router = Router(name, RouteFile(folder / ROUTES))
    uvicorn.run(
        ReplyLog(router) if VARIABLE in os.environ else router,
        host=HOST,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=60,
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
