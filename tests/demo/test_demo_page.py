"""The page as a browser's requests see it."""

import http.server
import inspect
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from coloured import coloured, free_port, photo
from PIL import Image
from pngs import png_claiming

from normalkit.cli import Demo
from normalkit.codec import read_normals, rgb_to_normals
from normalkit.demo.page import QUEUE
from normalkit.demo.server import serving
from normalkit.geometry import angular_error

pytest.importorskip("gradio", reason='the page needs Gradio: pip install "normalkit[demo]"')
httpx = pytest.importorskip("httpx", reason="Gradio brings it")

pytestmark = pytest.mark.usefixtures("one_thread")


class Visitor:
    """Does what the page's script does."""

    def __init__(self, address):
        self.http = httpx.Client(base_url=address, timeout=60)
        self.number = 0

    def upload(self, content, name="photo.png"):
        answer = self.http.post("/gradio_api/upload", files={"files": (name, content)})
        answer.raise_for_status()
        return answer.json()[0]

    def join(self, data, function=0, session=None):
        self.number += 1
        body = {"data": data, "fn_index": function, "session_hash": session or f"s{id(self)}n{self.number}"}
        return self.http.post("/gradio_api/queue/join", json=body), body["session_hash"]

    def outcome(self, session):
        """What a function gave, or its error."""
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
            for line in lines.iter_lines():
                event = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if event.get("msg") == "process_completed":
                    return event["output"]["data"][0] if event["success"] else event["output"]["error"]
        raise AssertionError("the page never answered")

    def view(self, content, name="photo.png"):
        answer, session = self.join([{"path": self.upload(content, name), "meta": {"_type": "gradio.FileData"}}])
        assert answer.status_code == 200, answer.text
        return self.outcome(session)

    def picture(self, view, which):
        answer = self.http.get("/" + re.search(rf'data-{which}="([^"]*)"', view)[1])
        answer.raise_for_status()
        return np.array(Image.open(io.BytesIO(answer.content)))


@pytest.fixture
def visitor(address):
    visitor = Visitor(address)
    yield visitor
    visitor.http.close()


@pytest.fixture
def elsewhere():
    """A server of pictures, and what it was asked for."""
    asked = []

    class Pictures(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            self.wfile.write(photo())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/a.png", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_photo_is_answered(visitor):
    view = visitor.view(photo(), "a b.png")
    assert 'data-name="a b.png"' in view
    np.testing.assert_allclose(visitor.picture(view, "normals").astype(int), coloured(), atol=1)
    assert np.abs(visitor.picture(view, "photo").astype(int) - coloured()).mean() < 2


@pytest.mark.parametrize(("function", "suffix", "degrees"), [(1, "png", 0.4), (3, "png", 0.002), (5, "npy", 1e-3)])
def test_a_download_has_the_normals(visitor, tmp_path, function, suffix, degrees):
    answer, session = visitor.join([{"path": visitor.upload(photo(), "a.png")}, "DSINE"], function)
    assert answer.status_code == 200
    file = visitor.outcome(session)
    assert file["orig_name"] == f"a.normals.{suffix}"
    (tmp_path / file["orig_name"]).write_bytes(visitor.http.get(f"/gradio_api/file={file['path']}").content)
    # The file states its convention.
    normals, mask = read_normals(tmp_path / file["orig_name"])
    truth, _ = rgb_to_normals(torch.from_numpy(coloured()).permute(2, 0, 1))
    assert mask.all()
    assert angular_error(normals, truth, dim=0).max() < degrees


def test_a_download_without_a_photo_says_so(visitor):
    session = visitor.join([None, "OPENCV"], 1)[1]
    assert visitor.outcome(session) == "there is no photo yet; drop one"


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"this is text", "notes.jpg", "notes.jpg: not a JPEG"),
        (b"", "empty.png", "empty.png: the file is empty"),
        (photo()[:400], "half.png", "half.png: the file is truncated or broken"),
        (b"<svg onload=alert(1)>", "a.svg", "a.svg: not a JPEG"),
    ],
)
def test_what_is_no_photo_is_said_on_the_page(visitor, content, name, said):
    view = visitor.view(content, name)
    assert view.startswith(f'<div class="nk-message" role="alert">{said}')
    assert "/tmp" not in view


def test_a_picture_of_too_many_pixels_is_refused(visitor):
    view = visitor.view(png_claiming(10_000, 10_000, colour=2), "large.png")
    assert "large.png: 10000 x 10000 pixels; this page takes up to 50 million" in view


def test_no_file_but_an_upload_is_read(visitor, tmp_path):
    (tmp_path / "secret.png").write_bytes(photo())
    kept = visitor.upload(photo())
    for path in [
        "/etc/passwd",
        str(tmp_path / "secret.png"),
        kept + "/../../../secret.png",
        "pyproject.toml",
        __file__,
    ]:
        for payload in ({"path": path}, {"path": path, "meta": {"_type": "gradio.FileData"}}):
            assert visitor.join([payload])[0].status_code == 403
            # Nor in the place of the axes.
            assert visitor.join([{"path": kept}, payload], 1)[0].status_code == 403
        assert visitor.http.get(f"/gradio_api/file={path}").status_code == 403


def test_no_address_is_fetched(visitor, elsewhere):
    url, asked = elsewhere
    for payload in ({"path": url}, {"path": url, "url": url, "meta": {"_type": "gradio.FileData"}}):
        assert visitor.join([payload])[0].status_code == 403
        assert visitor.join([None, payload], 1)[0].status_code == 403
    assert visitor.http.get(f"/gradio_api/file={url}").status_code == 403
    assert visitor.http.get(f"/gradio_api/proxy={url}").status_code == 404
    # An upload may come with an address, as from the page itself, where it is; it is not looked at.
    session = visitor.join([{"path": visitor.upload(photo()), "url": url}])[1]
    assert visitor.outcome(session).startswith("<normalkit-view")
    # A picture within the request is none that was uploaded.
    inline = visitor.join([{"path": "", "url": "data:image/png;base64,AAAA"}])[0]
    assert inline.status_code == 403
    assert asked == []
    assert httpx.get(url).status_code == 200
    assert asked == ["/a.png"]


def test_the_queue_cannot_be_skipped_and_no_function_called_by_name(visitor):
    for path in ("run/_show", "api/_show", "run/predict", "call/_show", "call/v2/_show"):
        assert visitor.http.post(f"/gradio_api/{path}", json={"data": [None], "fn_index": 0}).status_code == 404
    assert visitor.http.get("/gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}


def test_pages_elsewhere_cannot_use_it(visitor, address):
    assert visitor.http.get("/", headers={"Host": "evil.example"}).status_code == 421
    for origin, status in [("http://evil.example", 403), ("null", 403), (address.rstrip("/"), 200)]:
        files = {"files": ("a.png", photo())}
        assert visitor.http.post("/gradio_api/upload", files=files, headers={"Origin": origin}).status_code == status
    # Others on the network reach it where that is asked for alone.
    assert inspect.signature(serving).parameters["host"].default == Demo(Path()).host == "127.0.0.1"


def test_the_page_asks_for_nothing_from_elsewhere(visitor):
    page = visitor.http.get("/").text
    loaded = re.findall(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="([^"]*)"', page)
    assert loaded
    assert [link for link in loaded if re.match(r"(https?:)?//", link)] == []
    settings = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", page)[1])
    assert settings["analytics_enabled"] is False
    assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", visitor.http.get("/theme.css").text)


def test_a_full_queue_refuses_and_then_answers_again(visitor, model):
    path = visitor.upload(photo())
    model.go.clear()
    try:
        first = visitor.join([{"path": path}])
        answers = [visitor.join([{"path": path}]) for _ in range(QUEUE + 8)]
        refused = [answer for answer, _ in answers if answer.status_code == 503]
        # One is at work, and may have left the queue by now.
        assert 7 <= len(refused) <= 8
        assert all(answer.json()["detail"].startswith("Queue is full") for answer in refused)
    finally:
        model.go.set()
    for answer, session in [first, *answers]:
        if answer.status_code == 200:
            assert visitor.outcome(session).startswith("<normalkit-view")
    assert visitor.view(photo()).startswith("<normalkit-view")


@contextmanager
def taken(port):
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        yield


def test_a_port_that_is_taken_or_none_is_named(model):
    port = free_port()
    with taken(port), pytest.raises(OSError, match=f"--host 127.0.0.1 --port {port} .*choose another"):
        serving(model, port=port).__enter__()
    for port in (0, -1, 65536):
        with pytest.raises(ValueError, match=f"--port {port}: wanted 1 to 65535"):
            serving(model, port=port).__enter__()
    with pytest.raises(OSError, match=r"--host 192.0.2.7"):
        serving(model, host="192.0.2.7", port=free_port()).__enter__()


def test_what_was_dropped_is_gone_when_the_page_is(model):
    with serving(model, port=free_port()) as address:
        visitor = Visitor(address)
        path = visitor.upload(photo())
        with open(path, "rb") as kept:
            assert kept.read() == photo()
        visitor.http.close()
    with pytest.raises(FileNotFoundError):
        open(path, "rb").close()


def test_a_page_whose_terminal_is_closed_leaves_no_photo(tmp_path):
    port = free_port()
    code = f"import coloured; from normalkit.demo.server import serve; serve(coloured.Itself(), port={port})"
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}

    def hear():
        """Under nohup these tests ignore the signal, and what they start would, too."""
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=hear) as process:
        Visitor(process.stdout.readline().split()[0]).upload(photo())
        assert list(tmp_path.rglob("*.png"))
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
    assert not list(tmp_path.rglob("*.png"))
