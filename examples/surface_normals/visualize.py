r"""Pictures and a report of a trained network: on photos, and on frames whose normals are known.

python examples/surface_normals/visualize.py --checkpoint runs/surface_normals/best --out pictures \
    --photos my_photos/ --data ../shared/data/red_kitchen/val

`photos.pdf` and `photos.png` have each photo beside its normals, on several pages (`photos-1.pdf`) where they are
many, and `photos.md` shows them all; `frames.pdf` and `frames.png` some frames with truth, prediction and error.
`report.md` has the network's settings, its training curves, its figures over all frames and by what surfaces face, and
its best and worst frames; `errors.csv` has a line for each frame.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from normalkit import load_model, predict
from normalkit.analysis import ErrorReport, error_report
from normalkit.cli import find_pictures, run_script
from normalkit.data import evaluation_loader, open_dataset
from normalkit.data.pairs import spread
from normalkit.data.sample import Sample
from normalkit.files import atomic_file, check_writable
from normalkit.images import read_image
from normalkit.models import NormalEstimator
from normalkit.models.checkpoint import read_config
from normalkit.training import dotted, evaluate, format_figures, read_rows, training_device
from normalkit.visualize import comparison_grid, save_figure, training_curves

PAGE = 8
"""Photos in a figure; more would not fit a screen or a sheet."""


@dataclass(frozen=True)
class Config:
    """Draw what a network predicts, and report where it errs."""

    checkpoint: Path
    """Folder of the model, such as runs/surface_normals/best."""
    out: Path
    """Folder for the pictures and the report."""
    photos: tuple[Path, ...] = ()
    """Picture files of any size, or folders of them."""
    data: Path | None = None
    """Folder of frames: colour, depth or normals, and intrinsics."""
    count: int = 5
    """Frames to draw: evenly spaced, and as many of the best and of the worst."""
    flip: bool = False
    """Average with the prediction for the mirrored picture."""
    batch_size: int = 8
    """Frames at a time; 1 where they differ in size."""
    workers: int | None = None
    """Loader processes; by default two, but none on two cores without a GPU."""


def main(cfg: Config) -> int:
    """Draw and report."""
    if not cfg.photos and cfg.data is None:
        raise ValueError("nothing to draw: give --photos, --data or both")
    if cfg.count < 1:
        raise ValueError(f"--count {cfg.count}: wanted at least 1")
    photos = find_pictures(cfg.photos)
    dataset = None if cfg.data is None else open_dataset(cfg.data)
    model = load_model(cfg.checkpoint, device=training_device())
    check_writable(cfg.out)
    failures = draw_photos(cfg, model, photos) if photos else []
    if dataset is not None:
        write_report(cfg, model, dataset)
    for failure in failures:
        print(f"left out: {failure}", file=sys.stderr)
    return 1 if failures else 0


def draw_photos(cfg: Config, model: NormalEstimator, photos: Sequence[Path]) -> list[str]:
    """Figures of all photos, and a page of them; those that do not decode are left out, and their errors returned.

    The page is written when all have been drawn, and none was left out.
    """
    failures: list[str] = []
    pages: list[str] = []
    for path in cfg.out.glob("photos*"):
        # Of another set of photos, it would stand among the new ones.
        if re.fullmatch(r"photos(-\d+)?\.(png|pdf|md)", path.name) and not any(path.samefile(one) for one in photos):
            path.unlink()

    def answered() -> Iterator[tuple[Tensor, Tensor, str]]:
        for photo in photos:
            try:
                image = read_image(photo)
                normals = predict(model, image, flip=cfg.flip)
            except (OSError, ValueError, MemoryError) as error:
                message = str(error)
                failures.append(message if str(photo) in message else f"{photo}: {message}")
                continue
            yield image, normals, photo.stem

    # No more than a page's at once: a folder of photos may be larger than the memory.
    rows = answered()
    digits = len(str(math.ceil(len(photos) / PAGE)))
    for number, page in enumerate(iter(lambda: list(itertools.islice(rows, PAGE)), []), 1):
        name = "photos" if len(photos) <= PAGE else f"photos-{number:0{digits}}"
        images, normals, names = zip(*page, strict=True)
        save(cfg, name, comparison_grid(images, normals, names=names))
        pages.append(f"![Photos beside their normals]({name}.png)")
    if not failures:
        with atomic_file(cfg.out / "photos.md") as path:
            path.write_text("\n\n".join(["# Photos and their normals", *pages]) + "\n", encoding="utf-8")
    return failures


def write_report(cfg: Config, model: NormalEstimator, dataset: Dataset[Sample]) -> None:
    """The report and its figures."""
    figures = evaluate(model, evaluation_loader(dataset, batch_size=cfg.batch_size, workers=cfg.workers), flip=cfg.flip)
    print(format_figures(figures))
    report = error_report(model, dataset, flip=cfg.flip)
    ranked = sorted(report.images, key=lambda image: image.figures["mean"])
    spaced = [report.images[i] for i in spread(len(report.images), cfg.count)]
    chosen = {"frames": spaced, "best": ranked[: cfg.count], "worst": ranked[: -cfg.count - 1 : -1]}
    for name, images in chosen.items():
        samples = [dataset[image.index] for image in images]
        predictions = [predict(model, sample["image"], flip=cfg.flip) for sample in samples]
        columns = [[sample[key] for sample in samples] for key in ("image", "normals", "mask")]
        save(cfg, name, comparison_grid(columns[0], predictions, *columns[1:], names=[image.name for image in images]))
    curves = cfg.checkpoint.parent / "metrics.csv"
    if curves.is_file():
        save(cfg, "curves", training_curves(read_rows(curves)))
    write_errors(cfg.out / "errors.csv", report)
    with atomic_file(cfg.out / "report.md") as path:
        path.write_text(report_text(cfg, figures, report, curves=curves.is_file()), encoding="utf-8")
    print(f"{cfg.out / 'report.md'}: {len(report.images)} frames")


def report_text(cfg: Config, figures: Mapping[str, float], report: ErrorReport, *, curves: bool) -> str:
    """The report in Markdown."""
    shown = ("mean", "median", "rmse", "5", "7.5", "11.25", "22.5", "30")
    headings = [name if name.isalpha() else f"< {name}" for name in shown]
    facts = read_config(cfg.checkpoint)
    averaged = ", averaged with the mirrored picture" if cfg.flip else ""
    parts = [
        f"# {facts['model']} on {cfg.data.resolve().name if cfg.data else ''}",
        f"{len(report.images)} frames{averaged}. Degrees, and per cent of valid pixels; "
        f"loss (L1) {figures['loss']:.4f}.",
        table(["", *headings], [["all", *(f"{figures[name]:.2f}" for name in shown)]]),
        "## By what the surface faces",
        "Up, as floors and table tops do; upright, as walls and fronts; down, as ceilings; slanted, the rest, "
        "furniture and clutter above all. Which way is up is estimated from each frame's true normals.",
        table(
            ["", "share of pixels", *headings],
            [
                [direction, f"{values['share']:.1f}", *(f"{values[name]:.2f}" for name in shown)]
                for direction, values in report.directions.items()
            ],
        ),
        "## Whole frames turned",
        "One rotation of all predictions of a frame, where the camera was taken to be tilted (x), panned (y) or rolled "
        "(z) otherwise than it is; means over the frames, degrees.",
        table(
            ["", "x", "y", "z", "mean", "median", "mean after it", "median after it"],
            [["rotation", *(f"{value:.2f}" for value in rotation_row(report))]],
        ),
        "## Frames",
        "![Frames with truth, prediction and error](frames.png)",
        "The best by their mean error:",
        "![The best frames](best.png)",
        "The worst:",
        "![The worst frames](worst.png)",
        "Each frame's figures are in [errors.csv](errors.csv).",
    ]
    if report.left_out:
        parts.append(f"Without a valid pixel, and left out: {', '.join(report.left_out)}.")
    if curves:
        parts += ["## Training", "![Loss and errors by epoch](curves.png)"]
    # Six digits of a figure say all.
    settings = [[key, f"`{f'{value:.6g}' if isinstance(value, float) else value}`"] for key, value in dotted(facts)]
    parts += ["## Settings", table(["setting", "value"], settings)]
    return "\n\n".join(parts) + "\n"


def rotation_row(report: ErrorReport) -> list[float]:
    """Means over the frames: the rotation vector, and mean and median error before and after it."""
    rows = [
        (
            *image.rotation,
            *(figures[name] for figures in (image.figures, image.rotated) for name in ("mean", "median")),
        )
        for image in report.images
    ]
    return [statistics.fmean(column) for column in zip(*rows, strict=True)]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown, numbers to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in itertools.chain([header, rule], rows))


def write_errors(path: Path, report: ErrorReport) -> None:
    """A line for each frame."""
    rows = [
        {
            "name": image.name,
            **image.figures,
            **dict(zip(("turn_x", "turn_y", "turn_z"), image.rotation, strict=True)),
            **{f"turned_{name}": image.rotated[name] for name in ("mean", "median")},
        }
        for image in report.images
    ]
    with atomic_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def save(cfg: Config, name: str, figure: Any) -> None:
    """As PNG for screens and PDF for print."""
    for suffix in (".png", ".pdf"):
        save_figure(figure, cfg.out / f"{name}{suffix}")


if __name__ == "__main__":
    run_script(main, Config)
