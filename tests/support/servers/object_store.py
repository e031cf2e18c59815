"""A small S3-compatible server with its objects in memory, whole or in parts, for botocore."""

import contextlib
import itertools
import threading
from collections.abc import Iterator
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

WHEN = "Thu, 01 Jan 2026 00:00:00 GMT"


@contextlib.contextmanager
def object_store(buckets: dict[str, dict[str, bytes]]) -> Iterator[dict[str, str]]:
    """Serve {bucket: {key: content}} and yield the variables with which a client finds it."""
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_Handler,), {"buckets": buckets, "parts": {}})
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "user",
            "AWS_SECRET_ACCESS_KEY": "password",
            "AWS_DEFAULT_REGION": "us-east-1",
            # else a body comes in chunks with trailers
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    buckets: dict[str, dict[str, bytes]]
    parts: dict[str, dict[int, bytes]]  # of uploads that are not complete
    numbers = itertools.count(1)

    def do_GET(self) -> None:
        objects, key, query = self._target()
        if key:
            self._send_object(objects[key])
            return
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(content)}</Size><LastModified>2026-01-01T00:00:00Z</LastModified>"
            "</Contents>"
            for name, content in itertools.islice(
                sorted(objects.items()), int(query.get("max-keys", ["1000"])[0])
            )
        )
        self._send(
            f"<ListBucketResult><KeyCount>{rows.count('<Key>')}</KeyCount>{rows}</ListBucketResult>".encode()
        )

    def do_HEAD(self) -> None:
        objects, key, _ = self._target()
        self._send(b"", length=len(objects[key]))

    def do_PUT(self) -> None:
        objects, key, query = self._target()
        body = self.rfile.read(int(self.headers["content-length"]))
        if "uploadId" in query:
            self.parts[query["uploadId"][0]][int(query["partNumber"][0])] = body
        else:
            objects[key] = body
        self._send(b"")

    def do_POST(self) -> None:
        objects, key, query = self._target()
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if "uploads" in query:
            upload = str(next(self.numbers))
            self.parts[upload] = {}
            self._send(
                f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>".encode()
            )
            return
        objects[key] = b"".join(
            part for _, part in sorted(self.parts.pop(query["uploadId"][0]).items())
        )
        self._send(b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")

    def _target(self) -> tuple[dict[str, bytes], str, dict]:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        return self.buckets[bucket], key, parse_qs(parts.query, keep_blank_values=True)

    def _send_object(self, content: bytes) -> None:
        wanted = self.headers.get("range", "").removeprefix("bytes=")
        if not wanted:
            self._send(content)
            return
        first, _, last = wanted.partition("-")
        end = min(int(last or len(content)), len(content) - 1)
        self._send(
            content[int(first) : end + 1],
            status=206,
            Content_Range=f"bytes {first}-{end}/{len(content)}",
        )

    def _send(
        self, body: bytes, *, status: int = 200, length: int | None = None, **headers: str
    ) -> None:
        self.send_response(status)
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        size = str(len(body) if length is None else length)
        for name, value in (
            {"Content-Length": size, "ETag": '"e"', "Last-Modified": WHEN} | more
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
