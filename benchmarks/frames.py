"""Frames for the benchmarks: of a recording, or generated rooms in files of the same layout."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from normalkit.data import RGBDNormals, SyntheticRooms
from normalkit.data.sample import Transform

SIZE = 240, 320
"""Of generated frames, as those of the recording that the results use."""


@contextmanager
def open_frames(data: Path | None, *, frames: int, transform: Transform | None) -> Iterator[RGBDNormals]:
    """The first frames of a recording, their normals computed and cached before; None for generated ones."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "rooms") if data is None else data
        if data is None:
            write_rooms(root, frames)
        elif (data / "train").is_dir():
            root = data / "train"
        found = RGBDNormals(root, frames=slice(frames), cache=Path(folder, "cache"), transform=transform)
        for index in range(len(found)):
            found[index]
        yield found


def write_rooms(folder: Path, frames: int) -> None:
    """Generated rooms as a recording of 7-Scenes: colour as JPEG, depth as PNG in millimetres."""
    folder.mkdir()
    rooms = SyntheticRooms(frames, size=SIZE)
    for index in range(frames):
        room = rooms[index]
        pixels = (255 * room["image"]).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"frame-{index:06}.color.jpg", quality=95)
        millimetres = (1000 * room["depth"][0]).round().clamp(0, 65535).numpy().astype(np.uint16)
        Image.fromarray(millimetres).save(folder / f"frame-{index:06}.depth.png")
    np.savetxt(folder / "camera-intrinsics.txt", rooms[0]["intrinsics"].numpy())
