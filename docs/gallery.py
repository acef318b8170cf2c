r"""The pictures of the gallery.

python docs/gallery.py --kitchen red_kitchen/val

The photographs come with packages: `pip install scikit-image==0.26.0 scikit-learn==1.9.1 matplotlib==3.11.2`, and
Debian's `libjxl-testdata`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torchvision.utils import make_grid

from normalkit import SyntheticRooms, load_model, normals_to_rgb
from normalkit.cli import run_script
from normalkit.files import atomic_file
from normalkit.images import read_image, to_pillow
from normalkit.inference import predict_with_error
from normalkit.visualize import comparison_grid, save_figure

FOLDER = Path(__file__).parent / "gallery"
ROOMS, ACROSS, SIZE = 100, 10, (96, 128)

# Chosen by this rule before the network had seen any of them, and none left out since: every photograph in the four
# packages whose shorter side has at least 300 pixels and for which the package, or the file itself, leads to who made
# it and to a free licence. A photograph is what a camera saw of a scene: no texture, no microscope's or telescope's
# picture, no scan, no drawing. Of several files of one picture the first in colour counts.
PHOTOS: dict[str, dict[str, str]] = {
    "indoors": {
        "room": "libjxl-testdata/jxl/hdr_room.png",
        "coffee": "skimage/data/coffee.png",
        "clock, camera moved": "skimage/data/clock_motion.png",
        "coins": "skimage/data/coins.png",
    },
    "people": {
        "astronaut": "skimage/data/astronaut.png",
        "Grace Hopper": "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "cameraman": "skimage/data/camera.png",
        "Chelsea": "skimage/data/chelsea.png",
    },
    "outdoors": {
        "temple": "sklearn/datasets/images/china.jpg",
        "rocket": "skimage/data/rocket.jpg",
        "cliff": "libjxl-testdata/external/wesaturate/500px/cvo9xd_keong_macan_srgb8.png",
    },
    "plants": {
        "dahlia": "sklearn/datasets/images/flower.jpg",
        "asters": "libjxl-testdata/jxl/flower/flower.png",
        "tulips": "libjxl-testdata/external/wesaturate/500px/tmshre_riaphotographs_srgb8.png",
        "blossoms": "libjxl-testdata/external/wesaturate/500px/u76c0g_bliznaca_srgb8.png",
    },
}

# Of the kitchen those frames that lie a quarter, a half and three quarters of the way through.
KITCHEN = (1, 2, 3)

DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}


@dataclass(frozen=True)
class Config:
    """Draw the gallery."""

    only: Literal["rooms", "photos"] | None = None
    """One part of it; by default both."""
    kitchen: Path | None = None
    """Folder of red_kitchen's val; without it those frames are left as they are."""
    debian: Path = Path("/usr/share/libjxl-testdata")
    """What Debian's package of that name installs."""
    out: Path = FOLDER
    """Folder for the pictures."""


def main(cfg: Config) -> None:
    """Draw what is asked for."""
    photos = {} if cfg.only == "rooms" else found(cfg)
    cfg.out.mkdir(exist_ok=True)
    if cfg.only != "photos":
        rooms = [SyntheticRooms(ROOMS, size=SIZE, seed=0)[i] for i in range(ROOMS)]
        write_tiles(cfg.out / "rooms.jpg", [room["image"] for room in rooms])
        write_tiles(
            cfg.out / "rooms-normals.jpg", [normals_to_rgb(room["normals"], room["mask"]) / 255 for room in rooms]
        )
    for name, paths in photos.items():
        write_predictions(cfg.out / f"{name}.jpg", paths)


def found(cfg: Config) -> dict[str, dict[str, Path]]:
    """Where the photographs are, by figure and name; an error where one is missing, before anything is drawn."""
    photos = {figure: {name: find(cfg, where) for name, where in members.items()} for figure, members in PHOTOS.items()}
    if cfg.kitchen is not None:
        photos["kitchen"] = frames(cfg.kitchen)
    return photos


def frames(kitchen: Path) -> dict[str, Path]:
    """Those frames of the kitchen, by name."""
    found = sorted(kitchen.glob("*.color.jpg"))
    parts = len(KITCHEN) + 1
    if len(found) < parts:
        raise FileNotFoundError(f"--kitchen {kitchen}: {len(found)} frames; wanted red_kitchen's val")
    chosen = [found[len(found) * part // parts] for part in KITCHEN]
    return {frame.name.partition(".")[0]: frame for frame in chosen}


def find(cfg: Config, where: str) -> Path:
    """The file of a photograph, in the package that it comes with."""
    package, _, rest = where.partition("/")
    if package in DISTRIBUTIONS:
        spec = find_spec(package)
        folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
        mend = f"pip install {DISTRIBUTIONS[package]}"
    else:
        folders, mend = [cfg.debian], f"apt-get install {package}, or --debian for where it is unpacked"
    for folder in folders:
        if (folder / rest).is_file():
            return folder / rest
    raise FileNotFoundError(f"{where}: not here; {mend}")


def write_tiles(path: Path, pictures: list[torch.Tensor]) -> None:
    """Pictures of one size, beside and below one another."""
    with atomic_file(path) as temporary:
        to_pillow(make_grid(torch.stack(pictures), ACROSS, padding=2)).save(temporary, quality=85)


def write_predictions(path: Path, photos: dict[str, Path]) -> None:
    """A figure with a row for each photograph: itself, its normals, and the error that the network expects."""
    model = load_model()
    answers = [predict_with_error(model, photo) for photo in photos.values()]
    figure = comparison_grid(
        [read_image(photo) for photo in photos.values()],
        [normals for normals, _ in answers],
        expected=[error for _, error in answers],
        names=list(photos),
    )
    save_figure(figure, path, dpi=150)


if __name__ == "__main__":
    run_script(main, Config)
