"""Predict the normals of photos and draw them: a figure for the eye, PNG files for programs.

python examples/surface_normals/predict.py --checkpoint runs/surface_normals/best --photos a.jpg b.jpg --out normals
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from normalkit import load_model, predict, write_normals
from normalkit.cli import find_pictures, for_each_file, result_paths, run_script
from normalkit.files import check_writable
from normalkit.images import read_image
from normalkit.training import training_device
from normalkit.visualize import comparison_grid, save_figure


@dataclass(frozen=True)
class Config:
    """Predict the normals of photos."""

    checkpoint: Path
    """Folder of the model, such as runs/surface_normals/best."""
    photos: tuple[Path, ...]
    """Picture files of any size, or folders of them."""
    out: Path
    """Folder for NAME.normals.png and NAME.figure.png."""
    flip: bool = False
    """Average with the prediction for the mirrored picture."""


def main(cfg: Config) -> int:
    """Write each photo's normals and figure; 1 if a photo failed."""
    results = result_paths(find_pictures(cfg.photos), cfg.out)
    model = load_model(cfg.checkpoint, device=training_device())
    check_writable(cfg.out)

    def one(photo: Path, result: Path) -> None:
        image = read_image(photo)
        normals = predict(model, image, flip=cfg.flip)
        write_normals(result, normals)
        figure = comparison_grid(image[None].float() / 255, normals[None], names=[photo.stem])
        save_figure(figure, cfg.out / f"{photo.stem}.figure.png")

    return for_each_file(results, one, program="predict.py")


if __name__ == "__main__":
    run_script(main, Config)
