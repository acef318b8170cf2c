r"""The pictures of the gallery.

python docs/gallery.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.utils import make_grid

from normalkit import SyntheticRooms, normals_to_rgb
from normalkit.files import atomic_file
from normalkit.images import to_pillow

FOLDER = Path(__file__).parent / "gallery"
ROOMS, ACROSS, SIZE = 100, 10, (96, 128)


def main() -> None:
    """Draw them all."""
    FOLDER.mkdir(exist_ok=True)
    rooms = [SyntheticRooms(ROOMS, size=SIZE, seed=0)[i] for i in range(ROOMS)]
    _write("rooms.jpg", [room["image"] for room in rooms])
    _write("rooms-normals.jpg", [normals_to_rgb(room["normals"], room["mask"]) / 255 for room in rooms])


def _write(name: str, pictures: list[torch.Tensor]) -> None:
    with atomic_file(FOLDER / name) as path:
        to_pillow(make_grid(torch.stack(pictures), ACROSS, padding=2)).save(path, quality=85)


if __name__ == "__main__":
    main()
