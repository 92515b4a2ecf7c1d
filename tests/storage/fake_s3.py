"""A small S3 on loopback: as much of its protocol as the store speaks, every request noted.

It holds buckets in memory, knows no signatures, and ends with its context. ``python -m`` never starts it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

MAX_KEYS = 100


@dataclass
class FakeS3:
    """What the server holds and was asked.

    ``objects`` by "bucket/key"; ``requests`` as (method, "bucket/key?query", range header); ``fail_next`` answers 500 to
    so many requests; ``forget_answers`` does what a PUT asks and then answers 500, as a broken connection would look.
    """

    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    fail_next: int = 0
    forget_answers: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """What a client must find in its environment to come here."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
        }

    def asked(self, method: str, below: str = "") -> list[str | None]:
        """The range headers of requests of that method for names that contain ``below``."""
        return [found for verb, name, found in self.requests if verb == method and below in name]


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _entry(key: str, data: bytes) -> str:
    when = "<LastModified>2026-11-23T09:00:00.000Z</LastModified>"
    return f"<Contents><Key>{escape(key)}</Key>{when}<ETag>{escape(_tag(data))}</ETag><Size>{len(data)}</Size></Contents>"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = (
        True  # head and body are two writes, of which the second would wait for an answer
    )
    s3: FakeS3

    def log_message(self, format: str, *args: object) -> None:
        """The tests' output is theirs."""

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def _begin(self) -> tuple[str, bytes, bool]:
        """The object's name, the request's body, and whether to fail."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = urlsplit(self.path).query
        with self.s3.lock:
            name = self._name()
            self.s3.requests.append(
                (self.command, f"{name}?{query}" if query else name, self.headers.get("Range"))
            )
            failing = self.s3.fail_next > 0
            self.s3.fail_next -= failing
        return name, body, failing

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        if "list-type" in urlsplit(self.path).query:
            self._list()
        else:
            self._get()

    def _get(self) -> None:
        name, _, failing = self._begin()
        data = self.s3.objects.get(name)
        if failing or data is None:
            self._answer(500 if failing else 404)
            return
        headers = {
            "ETag": _tag(data),
            "Last_Modified": "Mon, 23 Nov 2026 09:00:00 GMT",
            "Accept_Ranges": "bytes",
        }
        if self.headers.get("If-Match") not in (None, _tag(data)):
            self._answer(412)
            return
        if self.command == "HEAD":
            self._answer(200, Content_Length=str(len(data)), **headers)
            return
        wanted = self.headers.get("Range")
        if wanted is None:
            self._answer(200, data, **headers)
            return
        low, _, high = wanted.removeprefix("bytes=").partition("-")
        first = int(low) if low else max(len(data) - int(high), 0)
        last = min(int(high), len(data) - 1) if low and high else len(data) - 1
        if first >= len(data):
            self._answer(416)
            return
        headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
        self._answer(206, data[first : last + 1], **headers)

    def do_PUT(self) -> None:
        name, body, failing = self._begin()
        if failing:
            self._answer(500)
            return
        with self.s3.lock:
            if self.headers.get("If-None-Match") == "*" and name in self.s3.objects:
                self._answer(412)
                return
            self.s3.objects[name] = body
            forgotten = self.s3.forget_answers > 0
            self.s3.forget_answers -= forgotten
        self._answer(500 if forgotten else 200, ETag=_tag(body))

    def do_DELETE(self) -> None:
        name, _, failing = self._begin()
        self.s3.objects.pop(name, None)
        self._answer(500 if failing else 204)

    def do_POST(self) -> None:  # of several objects at once
        bucket, body, failing = self._begin()
        keys = [part.partition("</Key>")[0] for part in body.decode().split("<Key>")[1:]]
        for key in keys:
            self.s3.objects.pop(f"{bucket}/{key}", None)
        gone = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self._answer(500 if failing else 200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    def _list(self) -> None:
        bucket, _, failing = self._begin()
        bucket = bucket.rstrip("/")
        if failing:
            self._answer(500)
            return
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", query.get("start-after", ""))
        found: list[tuple[str, bool]] = []
        for name in sorted(self.s3.objects):
            key = name.removeprefix(f"{bucket}/")
            if key == name or not key.startswith(prefix):
                continue
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            entry = (key[: end + 1], True) if end >= 0 else (key, False)
            if entry[0] > after and entry not in found[-1:]:
                found.append(entry)
        more, found = len(found) > MAX_KEYS, found[:MAX_KEYS]
        rows = "".join(
            f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
            if common
            else _entry(key, self.s3.objects[f"{bucket}/{key}"])
            for key, common in found
        )
        token = f"<NextContinuationToken>{escape(found[-1][0])}</NextContinuationToken>" if more else ""
        body = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>"
        self._answer(200, body.encode(), Content_Type="application/xml")


@contextmanager
def fake_s3() -> Iterator[FakeS3]:
    """Run one on a free port until the context ends."""
    s3 = FakeS3()
    handler = type("Handler", (_Handler,), {"s3": s3})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    s3.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield s3
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
