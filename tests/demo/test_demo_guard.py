"""What the page refuses before Gradio sees it; Gradio itself is not needed here."""

import asyncio
import json
import os

import pytest

from normalkit.demo.guard import Guard, keep_newest


class Inner:
    """An application that says what came through."""

    def __init__(self):
        self.bodies = []

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-inner", b"1")]})
        await send({"type": "http.response.body", "body": b"through"})


def ask(guard, method, path, body=b"", *, query=b"", headers=(), chunk=10):
    """The status, headers and body of an answer."""
    given = [(b"host", b"127.0.0.1:7860"), (b"content-length", str(len(body)).encode())]
    given = [
        *(pair for pair in given if pair[0] not in dict(headers)),
        *(pair for pair in headers if pair[1] is not None),
    ]
    pieces = [body[i : i + chunk] for i in range(0, len(body), chunk)] or [b""]
    sent = []

    async def receive():
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": given}
    asyncio.run(guard(scope, receive, send))
    start, *rest = sent
    return start["status"], dict(start["headers"]), b"".join(part["body"] for part in rest)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "kept"
    (place / "abc").mkdir(parents=True)
    (place / "abc" / "photo.jpg").write_bytes(b"photo")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return place


@pytest.fixture
def guard(folder):
    return Guard(Inner(), folder=folder, hosts=("127.0.0.1", "localhost"), max_upload=1000, max_kept=10_000)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/config",
        "/assets/index-DphvyggB.js",
        "/static/js/iframeResizer.contentWindow.min.js",
        "/gradio_api/queue/data",
        "/gradio_api/heartbeat/abc123",
    ],
)
def test_what_the_page_needs_goes_through_with_headers_that_keep_it_at_home(guard, path):
    status, headers, body = ask(guard, "GET", path)
    assert (status, body, headers[b"x-inner"]) == (200, b"through", b"1")
    policy = dict(part.split(None, 1) for part in headers[b"content-security-policy"].decode().split(";"))
    assert policy["default-src"] == "'self'"
    allowed = {source for sources in policy.values() for source in sources.split()}
    assert allowed == {"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/proxy=http://example.org/x"),
        ("GET", "/proxy=http://example.org/x"),
        ("GET", "/gradio_api/deep_link"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/monitoring"),
        ("GET", "/assets/../../../routes.py"),
        ("GET", "/static/%2e%2e/routes.py"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/api/predict"),
        ("POST", "/gradio_api/call/_show"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/stream/1"),
        ("POST", "/"),
        ("PUT", "/gradio_api/upload"),
        ("DELETE", "/"),
    ],
)
def test_addresses_that_the_page_does_not_need_are_refused(guard, method, path):
    status, headers, body = ask(guard, method, path)
    assert status == 404
    assert json.loads(body)["detail"] == "no such address on this page"
    assert b"content-security-policy" in headers
    assert guard.app.bodies == []


def test_the_first_page_takes_no_saved_state(guard):
    assert ask(guard, "GET", "/", query=b"__theme=dark")[0] == 200
    assert ask(guard, "GET", "/", query=b"deep_link=../../secret")[0] == 404
    assert ask(guard, "GET", "/", query=b"__theme=dark&deep_link=a")[0] == 404


def test_only_what_is_kept_is_served(guard, folder, tmp_path):
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    assert ask(guard, "GET", f"/gradio_api/file={folder}/abc/photo.jpg")[0] == 200
    for path in [
        tmp_path / "secret.jpg",
        folder / ".." / "secret.jpg",
        folder / "link.jpg",
        "/etc/passwd",
        "//etc/passwd",
        "abc/photo.jpg",
        f"{folder}x/photo.jpg",
        "http://example.org/a.jpg",
        "https://127.0.0.1/a.jpg",
        "file:///etc/passwd",
        f"{folder}/abc\0/etc/passwd",
        "",
    ]:
        assert ask(guard, "GET", f"/gradio_api/file={path}")[0] == 403, path
    assert len(guard.app.bodies) == 1


def test_a_request_names_nothing_but_uploads(guard, folder, tmp_path):
    good = {"path": str(folder / "abc" / "photo.jpg"), "url": "http://127.0.0.1:7860/gradio_api/file=x", "meta": {}}
    body = json.dumps({"data": [good, "OPENCV"], "fn_index": 0, "session_hash": "a"}).encode()
    assert ask(guard, "POST", "/gradio_api/queue/join", body)[0] == 200
    # In pieces, and whole again behind the guard.
    assert guard.app.bodies == [body]
    for path in [
        "/etc/passwd",
        str(tmp_path / "secret.jpg"),
        f"{folder}/../secret.jpg",
        "http://example.org/a.jpg",
        "https://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "abc/photo.jpg",
        None,
        7,
        ["/etc/passwd"],
    ]:
        for nested in ({"path": path}, {"a": [[{"b": {"path": path, "meta": {"_type": "gradio.FileData"}}}]]}):
            body = json.dumps({"data": [nested], "fn_index": 0, "session_hash": "a"}).encode()
            assert ask(guard, "POST", "/gradio_api/queue/join", body)[0] == 403, path
    for body in [b"{", b"\xff", b"[" * 5000, b'{"data": [' * 5000]:
        assert ask(guard, "POST", "/gradio_api/queue/join", body)[0] == 403
    assert len(guard.app.bodies) == 1


def test_requests_are_bounded(guard):
    assert ask(guard, "POST", "/gradio_api/upload", bytes(1000))[0] == 200
    status, headers, body = ask(guard, "POST", "/gradio_api/upload", bytes(1000 + 2**14 + 1))
    assert (status, headers[b"connection"]) == (413, b"close")
    assert json.loads(body)["detail"] == "too large: 17,385 bytes; this page takes up to 17,384"
    assert ask(guard, "POST", "/gradio_api/queue/join", bytes(2**16 + 1))[0] == 413
    for length in (None, b"", b"-1", b"1e3", "²".encode("latin-1")):
        assert ask(guard, "POST", "/gradio_api/upload", b"x", headers=[(b"content-length", length)])[0] == 411
    assert len(guard.app.bodies) == 1


@pytest.mark.parametrize("host", [b"evil.example", b"evil.example:7860", b"127.0.0.1.evil.example", b"", b"[::2]:7860"])
def test_a_name_that_was_made_to_lead_here_is_refused(guard, host):
    assert ask(guard, "GET", "/", headers=[(b"host", host)])[0] == 421


def test_names_of_this_machine_and_with_no_list_any_are_taken(guard, folder):
    for host in (b"localhost", b"LOCALHOST:9", b"127.0.0.1"):
        assert ask(guard, "GET", "/", headers=[(b"host", host)])[0] == 200
    assert ask(Guard(Inner(), folder=folder), "GET", "/", headers=[(b"host", b"gpu7:7860")])[0] == 200


def test_another_page_in_the_same_browser_is_refused(guard):
    for origin in (b"http://evil.example", b"null", b"https://127.0.0.1:7860", b"http://127.0.0.1:1"):
        assert ask(guard, "POST", "/gradio_api/upload", b"x", headers=[(b"origin", origin)])[0] == 403
    assert ask(guard, "POST", "/gradio_api/upload", b"x", headers=[(b"origin", b"http://127.0.0.1:7860")])[0] == 200


def test_uploads_beyond_a_number_are_asked_to_come_again(folder):
    async def scenario():
        release, started, statuses = asyncio.Event(), [], []

        async def slow(scope, receive, send):
            started.append(scope)
            await release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def receive():
            return {"type": "http.request", "body": b"x", "more_body": False}

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        guard = Guard(slow, folder=folder, max_uploads=2)
        scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": [(b"content-length", b"1")]}
        first = [asyncio.create_task(guard(scope, receive, send)) for _ in range(2)]
        await asyncio.sleep(0)
        await guard(scope, receive, send)
        assert statuses == [503]
        release.set()
        await asyncio.gather(*first)
        # Those that are done make room.
        await guard(scope, receive, send)
        assert (statuses, len(started)) == ([503, 200, 200, 200], 3)

    asyncio.run(scenario())


def test_web_sockets_find_nobody(guard):
    async def never(*_):
        raise AssertionError

    assert asyncio.run(guard({"type": "websocket", "path": "/"}, never, never)) is None


def test_the_oldest_files_go_first(folder):
    (folder / "abc" / "photo.jpg").unlink()
    for i, name in enumerate(["abc/a", "new", "def/b", "def/c"]):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1000 + i, 1000 + i))
    keep_newest(folder, 300)
    # An emptied folder goes with its file.
    assert sorted(path.name for path in folder.rglob("*")) == ["b", "c", "def", "new"]
    keep_newest(folder, 100)
    assert sorted(path.name for path in folder.rglob("*")) == ["c", "def"]
    keep_newest(folder, 0)
    assert folder.is_dir()


def test_after_an_upload_what_is_kept_is_bounded(guard, folder):
    for i in range(30):
        (folder / f"{i}.jpg").write_bytes(bytes(1000))
    assert ask(guard, "POST", "/gradio_api/upload", b"x")[0] == 200
    assert sum(path.stat().st_size for path in folder.rglob("*.jpg")) <= 10_000
