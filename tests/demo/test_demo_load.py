"""The page under more than it can do at once, on two processors, with bad uploads in between."""

import collections
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from coloured import free_port
from PIL import Image
from pngs import png_claiming

from normalkit.models.checkpoint import save_model
from normalkit.models.unet import UNetNormals

pytest.importorskip("gradio", reason='the page needs Gradio: pip install "normalkit[demo]"')
httpx = pytest.importorskip("httpx", reason="Gradio brings it")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is measured by /proc"),
]

VISITORS, VANDALS = 200, 50
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "best"
    save_model(folder, UNetNormals("tf_efficientnet_lite0", pretrained=False, resolution=320))
    return folder


@pytest.fixture
def page(checkpoint):
    """Its process and its address."""
    port = free_port()
    command = [sys.executable, "-m", "normalkit.cli", "demo", "--checkpoint", str(checkpoint), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        os.sched_setaffinity(process.pid, sorted(os.sched_getaffinity(0))[:2])
        line = process.stdout.readline()
        assert "Ctrl-C stops it" in line, line + process.stdout.read()
        yield process, line.split()[0]
    finally:
        process.terminate()
        rest = process.stdout.read()
        assert process.wait(60) == 0
        print(rest)


def memory(process, what):
    """Bytes that a process has now (VmRSS), or had at most (VmHWM)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(re.search(rf"{what}:\s+(\d+)", status)[1])


def photo(width, height, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def largest():
    """As PNG, which is decoded whole; of few colours, since a file may have 32 MiB."""
    file = io.BytesIO()
    blocks = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(blocks).resize((8000, 6000), Image.Resampling.NEAREST).save(file, "PNG", compress_level=1)
    return file.getvalue()


def client(address):
    return httpx.Client(base_url=address, timeout=900, verify=False)


def ask(http, content, name, session):
    """The view that a photo gives, or the polite refusal."""
    answer = http.post("/gradio_api/upload", files={"files": (name, content)})
    if answer.status_code == 503:
        return "refused", answer.json()["detail"]
    if answer.status_code != 200:
        return "bad", answer.text
    body = {"data": [{"path": answer.json()[0]}], "fn_index": 0, "session_hash": session}
    answer = http.post("/gradio_api/queue/join", json=body)
    if answer.status_code == 503:
        return "refused", answer.json()["detail"]
    assert answer.status_code == 200, answer.text
    with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
        for line in lines.iter_lines():
            event = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if event.get("msg") == "process_completed":
                view = event["output"]["data"][0]
                return "answered" if view.startswith("<normalkit-view") else "bad", view
    return "lost", ""


def normals(http, view):
    answer = http.get("/" + re.search(r'data-normals="([^"]*)"', view)[1])
    answer.raise_for_status()
    return answer.content


def together(address, works):
    """What each work gave, all begun at once."""
    gate, results = threading.Barrier(len(works)), [None] * len(works)

    def one(i, work):
        with client(address) as http:
            gate.wait(600)
            try:
                results[i] = work(http, f"session{i}")
            except Exception as error:
                results[i] = ("lost", repr(error))

    threads = [threading.Thread(target=one, args=(i, work)) for i, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_hundred_at_once_are_answered_or_asked_to_come_again(page):
    process, address = page
    good = photo(1600, 1200)
    bad = [
        (b"this is text", "notes.jpg"),
        (good[:5000], "half.jpg"),
        (png_claiming(60_000, 60_000, colour=2), "huge.png"),
        (b"", "empty.png"),
        (bytes(33 * MEBIBYTE), "many-bytes.png"),
    ]

    def visitor(http, session):
        kind, said = ask(http, good, f"{session}.jpg", session)
        return (kind, normals(http, said)) if kind == "answered" else (kind, said)

    def vandal(i):
        return lambda http, session: ask(http, *bad[i % len(bad)], session)

    with client(address) as http:
        before = normals(http, ask(http, good, "before.jpg", "before")[1])
    quiet = memory(process, "VmRSS")
    works = [visitor] * VISITORS
    for i in range(VANDALS):
        works.insert(5 * i, vandal(i))
    start = time.monotonic()
    results = together(address, works)
    seconds = time.monotonic() - start
    visitors = [result for result, work in zip(results, works, strict=True) if work is visitor]
    vandals = [result for result, work in zip(results, works, strict=True) if work is not visitor]
    grown = memory(process, "VmHWM") - quiet
    counts = collections.Counter(kind for kind, _ in visitors)
    print(
        f"{counts}, bad uploads {collections.Counter(kind for kind, _ in vandals)}, {seconds:.0f} s, at rest "
        f"{quiet / MEBIBYTE:.0f} MiB, peak {grown / MEBIBYTE:.0f} MiB more"
    )
    assert set(counts) <= {"answered", "refused"}, [
        said for kind, said in visitors if kind not in ("answered", "refused")
    ]
    assert counts["answered"] >= 16
    assert all("full" in said or "busy" in said for kind, said in visitors if kind == "refused")
    assert {kind for kind, _ in vandals} <= {"bad", "refused"}
    # The bad ones changed nothing: not while they came,
    assert {said for kind, said in visitors if kind == "answered"} == {before}
    # and not after.
    with client(address) as http:
        assert normals(http, ask(http, good, "after.jpg", "after")[1]) == before
    assert grown < 600 * MEBIBYTE


def test_the_memory_of_the_largest_photos_is_bounded_and_given_back(page):
    process, address = page
    with client(address) as http:
        ask(http, photo(640, 480), "first.jpg", "first")
        quiet = memory(process, "VmRSS")
        content, peaks = largest(), []
        for i in range(4):
            kind, said = ask(http, content, "large.png", f"large{i}")
            assert kind == "answered", said
            assert "Shrunk from 8000 x 6000 to 2048 x 1536" in said
            peaks.append(memory(process, "VmHWM") - quiet)
        print(f"at rest {quiet / MEBIBYTE:.0f} MiB, peaks {[round(peak / MEBIBYTE) for peak in peaks]} MiB more")
    assert peaks[-1] < 1536 * MEBIBYTE
    # No more for many than for one.
    assert peaks[-1] < 1.3 * peaks[0]
