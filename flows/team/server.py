"""Serve the team's page: `python -m flows.team.server PORT`, as `rlhf up` does.

It listens on this machine alone and has no accounts, as the other servers of `rlhf up`. It answers
GET and changes nothing. Requests under another host name are refused, so that a page of another
site cannot read it through the browser of somebody on this machine.
"""

import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from flows.platform.state import HOST
from flows.team.content import TeamContent
from flows.team.rendering import FOLDER, render

HOSTS = [HOST, "localhost"]
KEEP_SECONDS = 5.0  # how long a page is shown to others, so that many readers ask the servers once
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Latest:
    """The latest page, made anew when it is old and somebody asks."""

    def __init__(self, make: Callable[[], TeamContent]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._page, self._until = "", 0.0

    def page(self) -> str:
        """Return the page, at most KEEP_SECONDS old."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._page = render(self._make())
                self._until = time.monotonic() + KEEP_SECONDS
            return self._page


def _gathered() -> TeamContent:
    from flows.team.gathering import gather  # MLflow, which takes seconds and 200 MiB

    return gather()


def application(make: Callable[[], TeamContent] = _gathered) -> FastAPI:
    """Return the application with its three files and a health check."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    latest = Latest(make)

    @app.middleware("http")
    async def with_headers(request: Request, call_next: Callable) -> Response:
        reply: Response = await call_next(request)
        reply.headers.update(HEADERS)
        return reply

    @app.get("/")
    def page() -> Response:  # in a thread: it asks MLflow and Prefect
        try:
            return Response(latest.page(), media_type="text/html")
        except Exception as error:
            return Response(_failed(error), media_type="text/plain", status_code=503)

    @app.get("/health")
    def health() -> Response:
        return Response("OK", media_type="text/plain")

    for name, kind in (("team.css", "text/css"), ("team.js", "text/javascript")):
        app.add_api_route(f"/{name}", _file(name, kind), methods=["GET"])
    return app


def _file(name: str, kind: str) -> Callable[[], Response]:
    text = (FOLDER / name).read_text(encoding="utf-8")
    return lambda: Response(text, media_type=kind)


def _failed(error: Exception) -> str:
    from tasks.tracking.client import brief

    return f"The page cannot be made ({datetime.now(UTC):%H:%M:%S} UTC): {brief(error)}\n"


if __name__ == "__main__":
    uvicorn.run(application(), host=HOST, port=int(sys.argv[1]), log_level="warning")
