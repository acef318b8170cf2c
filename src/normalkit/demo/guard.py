"""What stands between the network and the page: the addresses, sizes and numbers of requests that it takes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from normalkit.demo.answer import is_inside

__all__ = ["Guard", "keep_newest"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_UPLOAD = 32 * 2**20
"""Bytes; a photo of 50 million pixels as JPEG has half of it."""

MAX_REQUEST = 64 * 2**10
"""Bytes of a request that is no upload: photos are named in it, not held."""

MAX_UPLOADS = 16
"""At a time."""

MAX_KEPT = 2**30
"""Bytes of photos and results; beyond it the oldest go."""

_FORM = 2**14
"""Bytes that a form may add to its file."""

_GET = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static|svelte)/[\w./-]+"
    r"|/gradio_api/(startup-events|info|theme\.css|app_id|queue/data|upload_progress|heartbeat/\w+)"
)
_POST = re.compile(r"/gradio_api/(upload|queue/join|reset|cancel)")
_FILE = "/gradio_api/file="
_UPLOAD = "/gradio_api/upload"

_HEADERS = (
    # Gradio evaluates the templates of its page. Nothing may come from, or be sent to, another host.
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
        b"worker-src 'self' blob:; object-src 'none'; frame-ancestors 'self'; base-uri 'self'; form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Guard:
    """ASGI middleware that lets through what the page itself asks for, and refuses the rest in one line.

    Gradio has more addresses than this page needs, among them some that fetch a URL or a file that a visitor names.

    Args:
        app: What is guarded.
        folder: Where uploads and results are; no other file is served or named.
        hosts: Names by which the server may be called, None for any. With those of this machine no page elsewhere
            can reach it by a name that it made resolve to this machine; nor, then, from its own.
        max_upload: Bytes of a file.
        max_uploads: At a time.
        max_kept: Bytes in `folder`.
    """

    def __init__(
        self,
        app: App,
        *,
        folder: Path,
        hosts: Iterable[str] | None = None,
        max_upload: int = MAX_UPLOAD,
        max_uploads: int = MAX_UPLOADS,
        max_kept: int = MAX_KEPT,
    ) -> None:
        self.app, self.folder = app, folder
        self.hosts = None if hosts is None else frozenset(hosts)
        self.max_upload, self.max_uploads, self.max_kept = max_upload, max_uploads, max_kept
        self._uploads = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # Nothing of the page is a web socket.
        refusal = self._refusal(scope)
        if refusal is not None:
            return await _refuse(send, *refusal)
        if scope["path"] == _UPLOAD:
            return await self._upload(scope, receive, send)
        if scope["method"] == "POST":
            body = await _body(receive)
            if not self._names_uploads_alone(body):
                return await _refuse(send, 403, "a path or address in the request is no file dropped on this page")
            receive = _replayed(body, receive)
        return await self.app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        method, path = scope["method"], scope["path"]
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self.hosts is not None and _host(headers.get(b"host", "")) not in self.hosts:
            return 421, f"this page answers to {' and '.join(sorted(self.hosts))} alone"
        origin = headers.get(b"origin")
        if self.hosts is not None and origin not in (None, f"http://{headers[b'host']}"):
            return 403, "another page may not use this one"
        if method in ("GET", "HEAD"):
            return self._refused_read(path, scope.get("query_string", b""))
        if method != "POST" or not _POST.fullmatch(path):
            return 404, "no such address on this page"
        length = headers.get(b"content-length", "")
        if not length.isascii() or not length.isdigit():
            return 411, "the request does not say how long it is"
        limit = self.max_upload + _FORM if path == _UPLOAD else MAX_REQUEST
        if int(length) > limit:
            return 413, f"too large: {int(length):,} bytes; this page takes up to {limit:,}"
        if path == _UPLOAD and self._uploads >= self.max_uploads:
            return 503, "This page is busy. Please try again in a moment."
        return None

    def _refused_read(self, path: str, query: bytes) -> tuple[int, str] | None:
        if path.startswith(_FILE):
            allowed = is_inside(path.removeprefix(_FILE), self.folder)
            return None if allowed else (403, "this page serves no such file")
        # A link may choose light or dark, and nothing else: Gradio would read a saved state by its name.
        chosen = path != "/" or re.fullmatch(rb"|__theme=(light|dark)", query)
        return None if chosen and _GET.fullmatch(path) and ".." not in path else (404, "no such address on this page")

    async def _upload(self, scope: Message, receive: Receive, send: Send) -> None:
        self._uploads += 1
        try:
            await self.app(scope, receive, _with_headers(send))
        finally:
            self._uploads -= 1
            keep_newest(self.folder, self.max_kept)

    def _names_uploads_alone(self, body: bytes) -> bool:
        """Whether each file in a request is one in the folder; Gradio would fetch a URL, or copy a file."""
        try:
            parts = [json.loads(body or b"null")]
        except (ValueError, RecursionError):
            return False
        while parts:
            part = parts.pop()
            if isinstance(part, dict):
                if "path" in part and not is_inside(part["path"], self.folder):
                    return False
                parts += part.values()
            elif isinstance(part, list):
                parts += part
        return True


def keep_newest(folder: Path, max_bytes: int) -> None:
    """Remove the oldest files below a folder until those that stay have no more than so many bytes together.

    Args:
        folder: The folder; others may write to it meanwhile.
        max_bytes: Of all files.
    """
    found = []
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                status = os.stat(os.path.join(root, name))
                found.append((status.st_mtime_ns, status.st_size, os.path.join(root, name)))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > max_bytes:
            with suppress(OSError):
                os.unlink(path)
                if os.path.dirname(path) != str(folder):
                    os.rmdir(os.path.dirname(path))


def _host(value: str) -> str:
    """The name in a Host header, without its port."""
    return re.sub(r":\d*$", "", value).lower()


async def _body(receive: Receive) -> bytes:
    """All of it: its length is known to be small."""
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sent


async def _refuse(send: Send, status: int, text: str) -> None:
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    # What was sent is not read: the connection cannot serve another request.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
