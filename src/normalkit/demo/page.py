"""What stands on the page, and what happens when it is used."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import nn

from normalkit.demo.answer import BAD_PHOTO, MAX_PIXELS, Kind, message, photo_path, view_of, write_download
from normalkit.geometry import Convention
from normalkit.visualize.grid import colour_sphere

if TYPE_CHECKING:
    import gradio

__all__ = ["build_page", "page_head", "page_style"]

QUEUE = 32
"""Photos that may wait; whoever comes later is asked to try again."""

EMPTY = "<normalkit-view></normalkit-view>"
"""The view before there is a photo."""

_HEADING = """
<div class="nk-heading">
  <h1>Surface normals of a photo</h1>
  <p>Drop a photo or take one: each pixel is coloured by the direction that its surface faces.
  Then move the light. The photo stays on this machine.</p>
</div>
"""
_HINT = (
    f"# Drop a photo here\nor click to choose one: JPEG, PNG, WebP, TIFF, BMP or GIF, up to {MAX_PIXELS // 10**6} MP"
)
_KINDS: dict[Kind, str] = {"png": "Save PNG", "png16": "Save 16-bit PNG", "npy": "Save NPY"}


def build_page(model: nn.Module, folder: Path) -> gradio.Blocks:
    """The page, ready to be launched.

    Args:
        model: As in `normalkit.models`; one photo at a time goes through it.
        folder: Where the browser's uploads are put, and results for it.

    Raises:
        ImportError: Gradio is not installed.
    """
    import gradio as gr

    with gr.Blocks(title="normalkit", analytics_enabled=False) as page:
        gr.HTML(_HEADING)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                photo = gr.Image(
                    label="Photo",
                    type="filepath",
                    sources=["upload", "webcam", "clipboard"],
                    image_mode=None,
                    buttons=[],
                    height=300,
                    placeholder=_HINT,
                    elem_id="nk-photo",
                )
            with gr.Column(scale=5, min_width=320):
                view = gr.HTML(EMPTY, elem_id="nk-view")
                with gr.Row(elem_id="nk-download"):
                    names = [convention.name for convention in Convention]
                    axes = gr.Dropdown(names, value=names[0], label="Axes of the file", min_width=150)
                    keep = {
                        kind: gr.Button(label, size="md", min_width=110, elem_id=f"nk-{kind}")
                        for kind, label in _KINDS.items()
                    }
                file = gr.DownloadButton("File", visible="hidden", elem_id="nk-file")
        one_at_a_time: dict[str, Any] = {
            "concurrency_limit": 1,
            "concurrency_id": "model",
            # The functions are given what the browser sent: Gradio opens no picture.
            "preprocess": False,
            "api_visibility": "private",
        }
        # In one thread, whichever of Gradio's asks: each thread that has run a network keeps memory for the next time.
        worker = ThreadPoolExecutor(1, thread_name_prefix="normalkit-demo")
        photo.change(partial(_show, worker, model, folder), photo, view, trigger_mode="always_last", **one_at_a_time)
        for kind, button in keep.items():
            made = button.click(partial(_keep, worker, model, folder, kind), [photo, axes], file, **one_at_a_time)
            made.success(None, js="() => { document.querySelector('#nk-file').click(); }")
    # Its own addresses do not skip the queue.
    page.queue(max_size=QUEUE, default_concurrency_limit=1, api_open=False)
    assert isinstance(page, gr.Blocks)
    return page


def page_head() -> str:
    """What goes into the page's head: the script of the view, its style, and the key to its colours."""
    key = io.BytesIO()
    Image.fromarray(colour_sphere(257).permute(1, 2, 0).numpy()).save(key, "PNG")
    address = f"data:image/png;base64,{base64.b64encode(key.getvalue()).decode()}"
    given = json.dumps({"key": address, "style": _file("view.css")})
    return f"<script>window.normalkit = {given};\n{_file('view.js')}</script>"


def page_style() -> str:
    """The page's style sheet."""
    return _file("page.css")


def _file(name: str) -> str:
    return files("normalkit.demo").joinpath(name).read_text(encoding="utf-8")


def _show(worker: Executor, model: nn.Module, folder: Path, payload: object) -> str:
    """The view of the photo, or what is wrong with it."""
    if payload is None:
        return EMPTY
    try:
        return worker.submit(view_of, model, photo_path(payload, folder), folder).result()
    except BAD_PHOTO as error:
        return message(str(error))


def _keep(worker: Executor, model: nn.Module, folder: Path, kind: Kind, payload: object, convention: object) -> str:
    """The file for the browser; what is wrong is shown beside the page."""
    import gradio as gr

    try:
        if payload is None:
            raise ValueError("there is no photo yet; drop one")
        path = photo_path(payload, folder)
        done = worker.submit(write_download, model, path, folder, kind=kind, convention=str(convention))
        return str(done.result())
    except BAD_PHOTO as error:
        raise gr.Error(str(error), duration=None, print_exception=False) from error
