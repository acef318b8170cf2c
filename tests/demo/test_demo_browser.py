"""The page in a real browser, without a window."""

import re
import shutil

import numpy as np
import pytest
import torch
from coloured import coloured, photo
from PIL import Image

from normalkit.codec import read_normals, rgb_to_normals
from normalkit.demo.page import QUEUE
from normalkit.geometry import angular_error
from normalkit.visualize.relight import relight

pytest.importorskip("gradio", reason='the page needs Gradio: pip install "normalkit[demo]"')
playwright = pytest.importorskip("playwright.sync_api", reason="driving a browser needs the package playwright")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("one_thread")]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A camera that films a moving figure, and no question whether the page may use it.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
WAIT = 100_000
"""Milliseconds; a machine may be busy."""


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser on this machine ({', '.join(BROWSERS)})")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=FLAGS, timeout=WAIT)
        yield running
        running.close()


@pytest.fixture(scope="module")
def desk(browser):
    """One for all pages, which then find their scripts in its cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(WAIT)
    yield context
    context.close()


@pytest.fixture
def visit(desk, address):
    """A function that opens the page; what went wrong in it fails the test in the end."""
    pages, wrong, asked = [], [], []

    def open_page(context=desk):
        page = context.new_page()
        pages.append(page)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: "Content Security Policy" in message.text and wrong.append(message.text))
        page.goto(address)
        page.wait_for_selector("normalkit-view")
        # Before its scripts are all there, Gradio takes a file and forgets it.
        page.wait_for_load_state("networkidle")
        return page

    open_page.asked = asked
    yield open_page
    for page in pages:
        page.close()
    assert wrong == []
    # Nothing is asked of any other machine, or of this one beside the page.
    assert asked
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def drop(page, content, name="photo.png"):
    file = {"name": name, "mimeType": "image/png", "buffer": content}
    page.set_input_files("#nk-photo input[type=file]", [file])


def canvas(page, name):
    """The pixels of a canvas, (H, W, 3)."""
    read = """canvas => [canvas.height, canvas.width,
        ...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]"""
    height, width, *data = page.locator(f".nk-{name}").first.evaluate(read)
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def settle(page):
    """Until a picture that was asked for is drawn."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def relit(picture, light):
    normals, _ = rgb_to_normals(torch.from_numpy(picture).permute(2, 0, 1))
    shown = relight(torch.from_numpy(picture).permute(2, 0, 1), normals, tuple(light), ambient=0.2, strength=1.2)
    return shown.permute(1, 2, 0).numpy().astype(int)


def test_a_photo_its_normals_and_a_light_that_is_dragged(visit):
    page = visit()
    drop(page, photo())
    page.wait_for_selector(".nk-ready")
    np.testing.assert_allclose(canvas(page, "normals").astype(int), coloured(), atol=1)
    before = len(visit.asked)
    box = page.locator(".nk-relit").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    for across, down in [(0.2, 0.3), (0.9, 0.5), (0.5, 0.98)]:
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"], steps=5)
        settle(page)
        light = page.locator("normalkit-view").evaluate("view => view.light")
        # Where the pointer is, as seen from the middle; towards the viewer what is left of length 1.
        assert light[:2] == pytest.approx([2 * across - 1, 2 * down - 1], abs=0.02)
        assert np.linalg.norm(light) == pytest.approx(1)
        assert light[2] < 0
        # The photo went through JPEG.
        difference = np.abs(canvas(page, "relit") - relit(coloured(), light))
        assert difference.mean() < 1.5
        assert np.percentile(difference, 99) <= 8
    page.mouse.up()
    page.mouse.move(box["x"], box["y"])
    settle(page)
    assert page.locator("normalkit-view").evaluate("view => view.light") == light
    # All of it in the browser.
    assert len(visit.asked) == before


def test_the_light_moves_by_keys_and_stays_for_the_next_photo(visit):
    page = visit()
    drop(page, photo())
    page.wait_for_selector(".nk-ready")
    page.locator(".nk-light").focus()
    former = page.locator("normalkit-view").evaluate("view => view.light")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    settle(page)
    light = page.locator("normalkit-view").evaluate("view => view.light")
    assert light[:2] == pytest.approx([former[0] + 0.15, former[1] + 0.05])
    page.locator("input[name=white]").check()
    settle(page)
    grey = canvas(page, "relit")
    assert (grey == grey[..., :1]).all()
    page.locator("input[name=white]").uncheck()
    turned = np.ascontiguousarray(coloured()[::-1])
    drop(page, photo(turned), "next.png")
    page.wait_for_function("() => document.querySelector('normalkit-view').dataset.name === 'next.png'")
    page.wait_for_selector(".nk-ready")
    np.testing.assert_allclose(canvas(page, "normals").astype(int), turned, atol=1)
    assert np.abs(canvas(page, "relit") - relit(turned, light)).mean() < 1.5


def test_what_a_pixel_faces_is_said_in_words(visit):
    page = visit()
    wall_and_floor = np.zeros((100, 100, 3), np.uint8)
    wall_and_floor[:50] = (128, 128, 0)  # (0, 0, -1)
    wall_and_floor[50:] = (128, 0, 128)  # (0, -1, 0)
    drop(page, photo(wall_and_floor))
    page.wait_for_selector(".nk-ready")
    for down, words in [(0.25, "towards you (0.00, 0.00, -1.00)"), (0.75, "up (0.00, -1.00, 0.00)")]:
        box = page.locator(".nk-normals").bounding_box()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + down * box["height"])
        assert page.locator(".nk-readout").inner_text() == words
    # Its colour on the key is where it points: up.
    dot = page.locator(".nk-key .nk-dot").evaluate("dot => [dot.style.left, dot.style.top].map(parseFloat)")
    assert dot == pytest.approx([50, 0], abs=0.5)


def test_a_download_is_a_file_that_the_library_reads(visit, tmp_path):
    page = visit()
    drop(page, photo(), "kitchen.png")
    page.wait_for_selector(".nk-ready")
    truth, _ = rgb_to_normals(torch.from_numpy(coloured()).permute(2, 0, 1))
    # The first once more: a second click is no less than a first.
    for button, suffix, degrees in [
        ("png", "png", 0.4),
        ("png16", "png", 0.002),
        ("npy", "npy", 1e-3),
        ("png", "png", 0.4),
    ]:
        with page.expect_download() as kept:
            page.click(f"#nk-{button}")
        assert kept.value.suggested_filename == f"kitchen.normals.{suffix}"
        kept.value.save_as(tmp_path / kept.value.suggested_filename)
        normals, _ = read_normals(tmp_path / kept.value.suggested_filename)
        error = angular_error(normals, truth, dim=0).max()
        assert error < degrees
        # 16 bits are more than 8.
        assert button != "png" or error > 0.01


def test_a_frame_of_the_camera_is_answered(visit):
    page = visit()
    page.click("#nk-photo button[aria-label='Capture from camera']")
    page.click("#nk-photo [title='grant webcam access'] button")
    # There is no frame to take before the first has come.
    page.wait_for_function("() => document.querySelector('#nk-photo video')?.videoWidth > 0")
    page.click("#nk-photo [title='capture photo']")
    page.wait_for_selector(".nk-ready")
    assert canvas(page, "normals").std() > 0


def clear(page):
    page.locator("#nk-photo button[aria-label*='lear'], #nk-photo button[aria-label*='emove']").first.click()
    page.wait_for_function("() => document.querySelector('normalkit-view')?.dataset.name === undefined")


def test_what_is_no_photo_is_said_where_its_normals_would_be(visit):
    page = visit()
    bad = [
        (b"this is text", "notes.jpg", "notes.jpg: not a JPEG"),
        (photo()[:400], "half.png", "half.png: the file is truncated or broken"),
    ]
    for content, name, said in bad:
        drop(page, content, name)
        page.wait_for_selector(".nk-message")
        assert page.locator(".nk-message").inner_text().startswith(said)
        clear(page)
    drop(page, bytes(33 * 2**20), "large.png")
    page.get_by_text(re.compile("exceed the maximum allowed size of 32.0 Mb")).first.wait_for()


KINDS = {
    "1pixel": (Image.new("RGB", (1, 1), (128, 128, 0)), "PNG"),
    "grey": (Image.new("L", (50, 40), 90), "PNG"),
    "cmyk": (Image.new("CMYK", (50, 40), (0, 90, 90, 0)), "JPEG"),
    "alpha": (Image.new("RGBA", (50, 40), (128, 128, 0, 128)), "PNG"),
    "16bit": (Image.fromarray(np.full((40, 50), 257 * 90, np.uint16)), "PNG"),
    "tiff": (Image.fromarray(np.full((40, 50), 257 * 90, np.uint16)), "TIFF"),
}


def test_pictures_of_every_kind_are_shown(visit):
    page = visit()
    for name, (picture, kind) in KINDS.items():
        drop(page, photo(picture, kind), f"{name}.{kind.lower()}")
        page.wait_for_selector(".nk-ready")
        assert canvas(page, "normals").shape == (picture.height, picture.width, 3)
        clear(page)


def test_a_full_queue_is_said_politely(visit, model):
    page = visit()
    model.go.clear()
    try:
        drop(page, photo())
        page.wait_for_function(
            "() => performance.getEntriesByName(location.href + 'gradio_api/queue/join?').length > 0"
        )
        path = page.evaluate(
            """async () => {
                const form = new FormData();
                form.append("files", new Blob(["x"]), "x.png");
                return (await (await fetch("gradio_api/upload", {method: "POST", body: form})).json())[0];
            }"""
        )
        fill = """async ([path, count]) => {
            const statuses = [];
            for (let i = 0; i < count; i++) {
                const body = JSON.stringify({data: [{path}], fn_index: 0, session_hash: "filler" + i});
                const headers = {"Content-Type": "application/json"};
                statuses.push((await fetch("gradio_api/queue/join", {method: "POST", body, headers})).status);
            }
            return statuses;
        }"""
        assert page.evaluate(fill, [path, QUEUE + 2])[-1] == 503
        late = visit()
        drop(late, photo())
        late.get_by_text(re.compile("queue is full|busy", re.IGNORECASE)).first.wait_for()
    finally:
        model.go.set()
    page.wait_for_selector(".nk-ready")


def test_nothing_stands_out_at_the_side_of_a_phone(visit, browser):
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    context.set_default_timeout(WAIT)
    page = visit(context)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    drop(page, photo(coloured(30, 400)), "a" * 80 + ".png")
    page.wait_for_selector(".nk-ready")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    sides = page.locator(".nk-stage, .nk-tool").evaluate_all("all => all.map(e => e.getBoundingClientRect().right)")
    assert len(sides) == 4
    assert max(sides) <= 390
    context.close()
