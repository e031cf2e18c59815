"""An S3-compatible server whose objects are the files of a folder, for measurements.

    .venv/stage/bin/python infra/bench/object_folder.py FOLDER PORT

It holds nothing in memory, which moto does: that one reads a whole object for every range. It asks
for no credentials and takes plain bodies: set AWS_REQUEST_CHECKSUM_CALCULATION=when_required.
"""

import itertools
import shutil
import sys
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PIECE = 2**20
PARTS = ".parts"
ETAG, WHEN = '"e"', "2026-01-01T00:00:00Z"


class Objects(BaseHTTPRequestHandler):
    """The answers to requests: objects whole, in ranges and in parts, and listings."""

    protocol_version = "HTTP/1.1"
    root = Path()
    numbers = itertools.count(1)

    def do_GET(self) -> None:
        """Send an object, a range of one, or a listing."""
        file, query = self._asked()
        if "list-type" in query:
            self._send(self._listing(query.get("prefix", ""), query.get("delimiter", "")))
        elif not file.is_file():
            self._send(b"", status=404)
        else:
            self._send_file(file, self.headers.get("range", "").removeprefix("bytes="))

    def do_HEAD(self) -> None:
        """Send the size of an object."""
        file, _ = self._asked()
        found = file.is_file()
        self._send(b"", status=200 if found else 404, length=file.stat().st_size if found else 0)

    def do_PUT(self) -> None:
        """Store an object, or a part of one."""
        file, query = self._asked()
        if "uploadId" in query:
            file = self.root / PARTS / query["uploadId"] / f"{int(query['partNumber']):05}"
        file.parent.mkdir(parents=True, exist_ok=True)
        left = int(self.headers["content-length"])
        with file.open("wb") as target:
            while left and (piece := self.rfile.read(min(left, PIECE))):
                left -= target.write(piece)
        self._send(b"")

    def do_POST(self) -> None:
        """Begin an upload in parts, or put its parts together."""
        file, query = self._asked()
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if "uploads" in query:
            upload = f"<UploadId>{next(self.numbers)}</UploadId>"
            self._send_xml("InitiateMultipartUploadResult", upload)
            return
        parts = self.root / PARTS / query["uploadId"]
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as target:
            for part in sorted(parts.iterdir()):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, target, PIECE)
        shutil.rmtree(parts)
        self._send_xml("CompleteMultipartUploadResult", f"<ETag>{ETAG}</ETag>")

    def _asked(self) -> tuple[Path, dict[str, str]]:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        named = {name: values[0] for name, values in query.items()}
        return self.root / unquote(parts.path).strip("/"), named

    def _listing(self, prefix: str, delimiter: str) -> bytes:
        bucket, _ = self._asked()
        names = sorted(
            str(file.relative_to(bucket)) for file in bucket.rglob("*") if file.is_file()
        )
        folders, rows = {}, []
        for name in (name for name in names if name.startswith(prefix)):
            first, found, _ = name[len(prefix) :].partition(delimiter or "\0")
            if found:
                folders[f"{prefix}{first}{found}"] = None
            else:
                size = (bucket / name).stat().st_size
                rows.append(f"<Key>{escape(name)}</Key><Size>{size}</Size><ETag>{ETAG}</ETag>")
        text = "".join(
            f"<Contents>{row}<LastModified>{WHEN}</LastModified></Contents>" for row in rows
        )
        for name in folders:
            text += f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
        return (
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{text}</ListBucketResult>".encode()
        )

    def _send_file(self, file: Path, wanted: str) -> None:
        size = file.stat().st_size
        first, _, last = wanted.partition("-")
        begin, end = int(first or 0), min(int(last or size), size - 1)
        span = {"Content-Range": f"bytes {begin}-{end}/{size}"} if wanted else {}
        self._send(b"", status=206 if wanted else 200, length=end + 1 - begin, **span)
        if size:
            with file.open("rb") as source:
                self.connection.sendfile(source, begin, end + 1 - begin)

    def _send_xml(self, name: str, text: str) -> None:
        self._send(f"<{name}>{text}</{name}>".encode())

    def _send(
        self, body: bytes, *, status: int = 200, length: int | None = None, **headers: str
    ) -> None:
        self.send_response(status)
        size = str(len(body) if length is None else length)
        usual = {"Content-Length": size, "ETag": ETAG, "Last-Modified": formatdate(usegmt=True)}
        for name, value in (usual | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write no line for a request."""


if __name__ == "__main__":
    Objects.root = Path(sys.argv[1])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Objects).serve_forever()
