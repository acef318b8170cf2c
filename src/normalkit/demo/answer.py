"""What the page gives for a photo: pictures of its normals to look at, and files of them to keep."""

from __future__ import annotations

import html
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from normalkit.codec import normals_to_rgb, write_normals
from normalkit.images import FORMATS, open_picture, read_image, to_pillow
from normalkit.inference import predict

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BAD_PHOTO", "photo_path", "read_photo", "view_of", "write_download"]

MAX_PIXELS = 50_000_000
"""Of a photo: what the phones with the most have. Memory grows with it."""

MAX_SIDE = 2048
"""Pixels; a photo with a longer side is shrunk to it first, so that its files and the memory they take are bounded."""

VIEW_SIDE = 768
"""Pixels of the longer side of what is looked at; the browser lights each of them anew while the light is dragged."""

BAD_PHOTO = (OSError, ValueError, MemoryError)
"""What a photo that cannot be used raises; the message is for whoever dropped it."""

Kind = Literal["png", "png16", "npy"]


def photo_path(payload: object, folder: Path) -> Path:
    """The file that the browser uploaded; nothing else on the machine can be named.

    Args:
        payload: What the browser sent: a mapping whose `path` is where its upload was put.
        folder: Where uploads are put.

    Raises:
        ValueError: It names anything but a file in `folder`, or one that is no longer there.
    """
    path = payload.get("path") if isinstance(payload, dict) else None
    if not isinstance(path, str) or not is_inside(path, folder):
        raise ValueError("this is no photo that was dropped on the page; drop one")
    if not os.path.isfile(path):
        raise ValueError("the photo is no longer kept; drop it again")
    return Path(path)


def is_inside(path: object, folder: Path) -> bool:
    """Whether something is the path of what is, or would be, in a folder, once links and dots are followed.

    Args:
        path: Anything; what is no string is not.
        folder: The folder.
    """
    if not isinstance(path, str) or "\0" in path:
        return False
    try:
        return os.path.isabs(path) and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    except (OSError, ValueError):
        return False


def read_photo(path: Path) -> tuple[Tensor, str]:
    """A photo within the bounds of the page.

    Args:
        path: A picture in any format of `normalkit.images.read_image`.

    Returns:
        (3, H, W) uint8, and what was done to it in words, "" for nothing.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no picture, is broken, or has more than `MAX_PIXELS`. The message has its name, not its
            folder.
    """
    try:
        with open_picture(path, FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise ValueError(
                    f"{path}: {width} x {height} pixels; this page takes up to {MAX_PIXELS // 10**6} million: shrink "
                    "it, or use the command normalkit predict"
                )
            # A JPEG is decoded at a half, a quarter or an eighth where that is large enough: as good, in less memory.
            picture.draft(None, (MAX_SIDE, MAX_SIDE))
            pixels = read_image(picture)
    except BAD_PHOTO as error:
        raise type(error)(str(error).replace(str(path), path.name)) from error
    shrunk = _at_most(pixels, MAX_SIDE)
    _, lower, narrower = shrunk.shape
    if {lower, narrower} == {height, width}:
        return shrunk, ""
    if (width > height) != (narrower > lower):
        width, height = height, width  # It was turned upright.
    return shrunk, f"Shrunk from {width} x {height} to {narrower} x {lower} pixels; normalkit predict keeps its size."


def view_of(model: nn.Module, path: Path, folder: Path) -> str:
    """The normals of a photo, as the element that shows them on the page.

    Args:
        model: As in `normalkit.models`.
        path: The photo.
        folder: Where the page may serve files from; two are added to it.

    Returns:
        HTML: `<normalkit-view>`, which `view.js` draws.

    Raises:
        OSError: The photo cannot be read, or its view not written.
        ValueError: The photo is no picture, is broken, or too large.
        MemoryError: It does not fit into the device's memory.
    """
    photo, note = read_photo(path)
    normals = predict(model, photo)
    _, height, width = photo.shape
    place = _new_folder(folder)
    # Quality 95 without colour sub-sampling: what is lit shows every fault of the photo.
    to_pillow(_at_most(photo, VIEW_SIDE)).save(place / "photo.jpg", quality=95, subsampling=0)
    to_pillow(normals_to_rgb(_at_most(normals, VIEW_SIDE))).save(place / "normals.png", compress_level=1)
    return _element(
        {
            "photo": _address(place / "photo.jpg"),
            "normals": _address(place / "normals.png"),
            "name": path.name,
            "size": f"{width} x {height}",
            "note": note,
        }
    )


def write_download(model: nn.Module, path: Path, folder: Path, *, kind: Kind, convention: str) -> Path:
    """The normals of a photo, as a file to keep.

    They are computed once more: to keep them for every photo would take more memory than that takes time.

    Args:
        model: As in `normalkit.models`.
        path: The photo.
        folder: Where the page may serve files from; one is added to it.
        kind: png has 8 bits a channel, png16 16; npy is float32.
        convention: Axes of the file, which also says so itself.

    Returns:
        The file, named for the photo.

    Raises:
        OSError: The photo cannot be read, or the file not written.
        ValueError: The photo is no picture, is broken, or too large; or an argument is none of the above.
        MemoryError: It does not fit into the device's memory.
    """
    normals = predict(model, read_photo(path)[0])
    file = _new_folder(folder) / f"{path.stem}.normals.{'npy' if kind == 'npy' else 'png'}"
    write_normals(file, normals, convention=convention, bits=16 if kind == "png16" else 8)
    return file


def message(text: str) -> str:
    """HTML that says on the page what is wrong with a photo.

    Args:
        text: Plain; nothing in it is taken for HTML.
    """
    return f'<div class="nk-message" role="alert">{html.escape(text)}</div>'


def _at_most(picture: Tensor, side: int) -> Tensor:
    """(3, H, W) with no side longer than `side`; itself where it has none."""
    _, height, width = picture.shape
    longer = max(height, width)
    if longer <= side:
        return picture
    size = [max(1, round(height * side / longer)), max(1, round(width * side / longer))]
    shrunk: Tensor = resize(picture, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    return shrunk


def _new_folder(folder: Path) -> Path:
    """One whose name cannot be guessed: whoever has an address may fetch what is there."""
    place = folder / secrets.token_hex(16)
    place.mkdir()
    return place


def _address(file: Path) -> str:
    return f"gradio_api/file={quote(file.as_posix())}"


def _element(values: Mapping[str, str]) -> str:
    attributes = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in values.items())
    return f"<normalkit-view {attributes}></normalkit-view>"
