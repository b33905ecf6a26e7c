"""The server: one thread per connection, a table of routes, and what a test can make go wrong."""

import json
import re
import socket
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.hub.repositories import Repository


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Any
    body: bytes
    authorized: bool

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body or b"{}")


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered; anything but bytes is sent as JSON."""

    status: int
    content: Any = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, code: str, message: str) -> "Reply":
        """An error, as the Hub's clients read it."""
        return cls(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})


Route = Callable[["HubServer", Request, re.Match[str]], Reply]


class HubServer:
    """A Hub on loopback; a context manager.

    Attributes:
        url: What HF_ENDPOINT has to be.
        token: That may write, and read private repositories.
        repositories: By kind ("models", ...) and name.
        large: Contents of large files by sha256.
        requests: How often each kind of request came.
        uploads: How often a large file was begun to be sent, by sha256.
        ranges: The Range headers of downloads of large files.
        downloads: How often a large file was asked for, by sha256.
        cut_downloads: How many of the next downloads of large files break off half-way.
        cut_only: The sha256 of the one large file whose downloads break off; None is any.
        cut_uploads: How many of the next uploads of large files the connection breaks in the middle of.
        refuse_uploads: How many uploads of large files fail after one that arrives.
    """

    def __init__(self, root: Path, *, user: str = "tester", token: str = "hf_local"):
        self.root, self.user, self.token = root, user, token
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.downloads: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.cut_only: str | None = None
        self.cut_downloads = self.cut_uploads = self.refuse_uploads = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        port = self._server.server_port
        self.url = f"http://127.0.0.1:{port}"
        # Another host, as on the real Hub: clients do not follow this redirect on HEAD, and so see its headers.
        self.storage_url = f"http://localhost:{port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables for a process of a user with its own cache and the token."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def answer(self, request: Request) -> Reply:
        """The reply of the first route that fits."""
        from tests.hub.routes import ROUTES

        if request.headers.get("Authorization") and not request.authorized:  # read nothing either, public or not
            return Reply.error(401, "", "Invalid credentials in Authorization header")
        for method, pattern, route in ROUTES:
            match = re.fullmatch(pattern, request.path)
            if match and request.method in (method, "HEAD" if method == "GET" else method):
                self.requests[route.__name__] += 1
                with self._lock:
                    return route(self, request, match)
        self.requests[f"unknown: {request.method} {request.path}"] += 1
        return Reply.error(404, "", f"no route {request.method} {request.path}")

    def breaks_off(self, request: str) -> bool:
        """Whether the connection of this request breaks in the middle of its body."""
        with self._lock:
            sha256 = request.rpartition("/_large/")[2]
            self.uploads[sha256] += 1
            self.cut_uploads -= (cut := self.cut_uploads > 0)
            return cut

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _serve(self) -> None:
                url = urllib.parse.urlsplit(self.path)
                if self.command == "PUT" and hub.breaks_off(url.path):
                    self.rfile.read(int(self.headers["Content-Length"]) // 2)
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                authorized = self.headers.get("Authorization") == f"Bearer {hub.token}"
                query = urllib.parse.parse_qs(url.query)
                request = Request(
                    method=self.command,
                    path=urllib.parse.unquote(url.path),
                    query=query,
                    headers=self.headers,
                    body=self._body(),
                    authorized=authorized,
                )
                self._send(hub.answer(request))

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def _send(self, reply: Reply) -> None:
                content = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
                self.send_response(reply.status)
                kind = "application/octet-stream" if isinstance(reply.content, bytes) else "application/json"
                headers = {"Content-Type": kind, "Content-Length": str(len(content))} | reply.headers
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                if reply.headers.get("X-Cut"):
                    self.wfile.write(content[: len(content) // 2])
                    self.close_connection = True
                else:
                    self.wfile.write(content)

        return Handler
