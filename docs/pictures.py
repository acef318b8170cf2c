r"""The pictures of the concepts, the tutorials and the API.

python docs/pictures.py --recording ../shared/data/red_kitchen/train
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tempfile
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torchvision.transforms import v2
from torchvision.tv_tensors import Image

from normalkit import (
    Convention,
    RGBDNormals,
    SurfaceNormals,
    SyntheticRooms,
    convert_normals,
    load_model,
    normals_to_rgb,
    predict,
)
from normalkit.files import atomic_file
from normalkit.images import read_depth, read_image, to_pillow
from normalkit.integrate import normals_to_depth
from normalkit.transforms import Intrinsics, RandomCameraRotation
from normalkit.visualize import colour_sphere, error_map, relight, save_figure
from normalkit.visualize.charts import study_figure
from normalkit.visualize.figure import new_figure

DOCS = Path(__file__).resolve().parent
SNIPPET = runpy.run_path(str(DOCS / "notebook.py"))["SNIPPET"]
API = DOCS / "api" / "pictures"


@dataclass(frozen=True)
class Config:
    """Draw them all."""

    recording: Path | None = None
    """RGB-D frames for the page on cameras; without them its picture stays as it is."""


def main(cfg: Config) -> None:
    """Do it."""
    API.mkdir(exist_ok=True)
    room = SyntheticRooms(10, size=(240, 320), seed=0)[4]
    save_figure(axes_figure(room), DOCS / "concepts" / "axes.png", dpi=110)
    check_data_picture(DOCS / "learn" / "check-data.png")
    if cfg.recording is not None:
        save_figure(recording_figure(cfg.recording), DOCS / "learn" / "rgbd-camera.jpg", dpi=150)
    _save("transforms.jpg", transforms_figure(room))
    _save("grid.jpg", grid_figure(room))
    _save("relight.jpg", relight_figure(room))
    _save("integrate.jpg", integrate_figure(room))
    _save("study.png", study())


def axes_figure(room: dict) -> Figure:
    """One room in the colours of each convention, and where its axes point."""
    figure = new_figure(7.2, 6.1)
    width, height, gap = 0.48, 0.435, 0.02
    for i, convention in enumerate(Convention):
        left, bottom = (i % 2) * (width + gap) + gap / 2, (1 - i // 2) * (height + 0.065) + gap / 2
        panel = figure.add_axes((left, bottom, width, height))
        turned = convert_normals(room["normals"], Convention.OPENCV, convention, dim=0)
        panel.imshow(normals_to_rgb(turned, room["mask"]).permute(1, 2, 0), aspect="auto")
        panel.set_axis_off()
        panel.set_title(convention.name, fontsize=11, fontweight="bold", pad=4)
        draw_axes(figure.add_axes((left, bottom, 0.36 * width, 0.42 * height)), convention)
    return figure


def draw_axes(axes: Axes, convention: Convention) -> None:
    """Arrows along x and y as the picture shows them; z is a dot towards the viewer, or a cross away from him."""
    axes.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), xticks=[], yticks=[])
    for (x, y), letter, sign in zip(((1, 0), (0, -1)), "xy", convention.signs, strict=False):
        arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.6, "shrinkA": 5, "shrinkB": 0}
        axes.annotate("", (sign * x, sign * y), (0, 0), arrowprops=arrow)
        axes.text(1.25 * sign * x, 1.25 * sign * y, letter, ha="center", va="center", fontsize=11)
    away = convention.signs[2] > 0
    axes.plot(0, 0, "o", markersize=11, markerfacecolor="white", markeredgecolor="black", markeredgewidth=1.4)
    axes.plot(0, 0, "x" if away else "o", markersize=6 if away else 4, color="black", markeredgewidth=1.4)
    x, y = (-0.5 * convention.signs[0], 0.5 * convention.signs[1])
    axes.text(x, y, "z", ha="center", va="center", fontsize=11)


def check_data_picture(out: Path) -> None:
    """The picture that the command on the page of one's own data draws, of the files that the page writes."""
    page = (DOCS / "learn" / "own-data.md").read_text(encoding="utf-8")
    command = re.search(r"^normalkit (check-data .*)$", page, re.MULTILINE)
    snippet = SNIPPET.search(page)
    assert command is not None
    assert snippet is not None
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        exec(compile(snippet["code"], "own-data.md", "exec"), {})
        words = [word.strip("'") for word in command[1].split()]
        subprocess.run([sys.executable, "-m", "normalkit.cli", *words], check=True)
        with atomic_file(out) as path:
            picture = to_pillow(read_image("look.png").float() / 255)
            picture.thumbnail((1400, 1400))
            picture.save(path, optimize=True)


def recording_figure(folder: Path) -> Figure:
    """A frame, its depth and the normals that are computed from it."""
    frames = RGBDNormals(folder, frames=slice(200, 201))
    sample, frame = frames[0], frames.frames[0]
    assert frame.depth is not None
    depth = read_depth(frame.depth)[0]
    panels = [
        ("Colour", sample["image"].permute(1, 2, 0), {}),
        ("Depth (black: none)", depth.where(depth > 0, torch.nan), {"cmap": "viridis"}),
        ("Normals from it", normals_to_rgb(sample["normals"], sample["mask"]).permute(1, 2, 0), {}),
    ]
    return _panels(panels)


def transforms_figure(room: dict) -> Figure:
    """What transforms do to a picture, and to the normals with it."""
    whole = {
        "image": Image(room["image"]),
        "normals": SurfaceNormals(room["normals"]),
        "intrinsics": Intrinsics(room["intrinsics"], canvas_size=tuple(room["image"].shape[-2:])),
    }
    torch.manual_seed(3)
    moved = {
        "As it is": whole,
        "Mirrored": v2.RandomHorizontalFlip(1.0)(whole),
        "Turned by 20°": v2.RandomRotation((20, 20))(whole),
        "Camera panned": RandomCameraRotation(pan=25)(whole),
    }
    tops = [(name, sample["image"].permute(1, 2, 0), {}) for name, sample in moved.items()]
    below = [("", _colours(sample["normals"]), {}) for sample in moved.values()]
    return _panels(tops, below)


def grid_figure(room: dict) -> Figure:
    """The key to the colours, the network's answer, and its error."""
    answer = predict(load_model(), (255 * room["image"]).byte())
    return _panels(
        [
            ("image", room["image"].permute(1, 2, 0), {}),
            ("colour_sphere", colour_sphere(321).permute(1, 2, 0), {}),
            ("normals_to_rgb of the truth", _colours(room["normals"]), {}),
            ("error_map of a prediction", error_map(answer, room["normals"], room["mask"]), {"cmap": "inferno"}),
        ]
    )


def relight_figure(room: dict) -> Figure:
    """A photo with a lamp at each side."""
    photo = (255 * room["image"]).byte()
    lights = {"from the left": (-1, 0, -0.3), "from above": (0, -1, -0.3), "from the right": (1, 0, -0.3)}
    lit = [
        (f"{name} {light}", relight(photo, room["normals"], light).permute(1, 2, 0), {})
        for name, light in lights.items()
    ]
    return _panels([("the photo", photo.permute(1, 2, 0), {}), *lit])


def integrate_figure(room: dict) -> Figure:
    """Depth from true normals beside the true depth."""
    depth, mask = normals_to_depth(room["normals"], room["intrinsics"])
    true = room["depth"][0]
    true = true / true[mask].median()
    scale = {"cmap": "viridis", "vmin": 0.4, "vmax": 2.0}
    return _panels(
        [
            ("normals", _colours(room["normals"]), {}),
            ("normals_to_depth", depth[0].where(mask, torch.nan), scale),
            ("true depth, median 1", true.where(mask, torch.nan), scale),
        ]
    )


def study() -> Figure:
    """An ablation of invented numbers."""
    values = {
        "mean error (degrees)": [[18.1, 18.6, 18.3], [19.9, 20.6, 20.1], [22.4, 21.9, 23.0]],
        "within 11.25° (%)": [[46.2, 45.1, 45.9], [41.7, 40.9, 42.3], [36.0, 37.1, 35.2]],
    }
    return study_figure(["skips 1 2 3 4", "skips 2 3", "no skips"], values, title="Invented figures")


def _panels(*rows: list[tuple[str, torch.Tensor, dict]]) -> Figure:
    """Rows of pictures with their headings."""
    across, aspect = len(rows[0]), rows[0][0][1].shape[0] / rows[0][0][1].shape[1]
    cell = 2.4
    height = cell * aspect * len(rows) + 0.25
    figure = new_figure(cell * across, height)
    for i, row in enumerate(rows):
        for j, (heading, picture, options) in enumerate(row):
            bottom = (cell * aspect * (len(rows) - 1 - i)) / height
            place = (j / across, bottom, 0.985 / across, (cell * aspect - 0.04) / height)
            axes = figure.add_axes(place, facecolor="black")
            axes.imshow(picture.numpy(), **options)
            axes.set(xticks=[], yticks=[])
            axes.set_title(heading, fontsize=9, pad=3)
    return figure


def _colours(normals: torch.Tensor) -> torch.Tensor:
    return normals_to_rgb(normals.as_subclass(torch.Tensor)).permute(1, 2, 0)


def _save(name: str, figure: Figure) -> None:
    save_figure(figure, API / name, dpi=120)
    print(API / name)


if __name__ == "__main__":
    main(tyro.cli(Config))
