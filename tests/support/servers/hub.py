"""A small server with the interface of the Hugging Face hub, its data sets in memory."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class Hub:
    """The data sets of a hub, by name: revisions, and the files of each commit."""

    def __init__(self) -> None:
        self.revisions: dict[str, dict[str, str]] = {}
        self.commits: dict[tuple[str, str], Files] = {}

    def commit(self, name: str, files: dict[str, str | bytes], *, branch: str = "main") -> str:
        """Add a commit of these files as the head of a branch, and return its hash."""
        content = {
            path: text.encode() if isinstance(text, str) else text for path, text in files.items()
        }
        sha = hashlib.sha1(repr(sorted(content.items())).encode()).hexdigest()
        self.revisions.setdefault(name, {})[branch] = sha
        self.commits[name, sha] = content
        return sha

    def find(self, name: str, revision: str) -> tuple[str, Files] | str:
        """Return commit and files of a revision, or the hub's code for what is not there."""
        if name not in self.revisions:
            return "RepoNotFound"
        sha = self.revisions[name].get(revision, revision)
        if (name, sha) not in self.commits:
            return "RevisionNotFound"
        return sha, self.commits[name, sha]


@contextlib.contextmanager
def serve_hub(hub: Hub, cache: Path) -> Iterator[dict[str, str]]:
    """Serve a hub and yield the variables with which a client finds it, caching in `cache`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            self._api("/".join(parts[2:4]), parts[4:])
        elif parts[0] == "datasets" and parts[3:4] == ["resolve"]:
            self._file("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        else:
            self._send(404, b"{}")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[4:5] != ["paths-info"]:
            self._send(404, b"{}")
            return
        found = self._found("/".join(parts[2:4]), parts[5])
        if found:
            wanted = json.loads(body)["paths"]
            self._json([item for item in _tree(found[1], "") if item["path"] in wanted])

    def _api(self, name: str, rest: list[str]) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        found = self._found(name, revision)
        if not found:
            return
        sha, files = found
        if rest[:1] == ["tree"]:
            self._json(_tree(files, "/".join(rest[2:])))
            return
        siblings = [{"rfilename": path} for path in files]
        self._json({"id": name, "sha": sha, "private": False, "tags": [], "siblings": siblings})

    def _file(self, name: str, revision: str, path: str) -> None:
        found = self._found(name, revision)
        if not found:
            return
        sha, files = found
        if path not in files:
            self._send(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
            return
        self._send(200, files[path], X_Repo_Commit=sha, ETag=f'"{_oid(files[path])}"')

    def _found(self, name: str, revision: str) -> tuple[str, Files] | None:
        found = self.hub.find(name, revision)
        if isinstance(found, str):
            self._send(401 if found == "RepoNotFound" else 404, b"{}", X_Error_Code=found)
            return None
        return found

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), Content_Type="application/json")

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _tree(files: Files, folder: str) -> list[dict]:
    """Return the files and folders below `folder`, all of them."""
    inside = [path for path in files if not folder or path.startswith(f"{folder}/")]
    folders = {str(parent) for path in inside for parent in Path(path).parents} - {".", folder}
    return [
        *(
            {"type": "directory", "path": path, "oid": _oid(path.encode()), "size": 0}
            for path in sorted(folders)
        ),
        *(
            {"type": "file", "path": path, "oid": _oid(files[path]), "size": len(files[path])}
            for path in sorted(inside)
        ),
    ]
