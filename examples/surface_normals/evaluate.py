r"""Score a trained network on a folder of frames: the report's figures, JSON, and the predictions for a grader.

python examples/surface_normals/evaluate.py --checkpoint runs/surface_normals/best \
    --data ../shared/data/red_kitchen/val --out test.json --predictions test/

The truth is `*.normal.png` beside the frames, or else computed from their depth. Pictures without either are not
scored: their predictions are written, and nothing else.

Mean and shares are exact; the median is at most 0.002 degrees too small.

A prediction has its frame's name and size. Its normals are unit vectors in OPENCV axes: x right, y down, z forward, so
that a wall seen head-on is (0, 0, -1). A PNG has (n + 1) / 2 of its full range as RGB, a NPY file float32 (H, W, 3);
`normalkit.read_normals` reads both.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from normalkit import RGBDNormals, load_model, predict, write_normals
from normalkit.cli import find_pictures, for_each_file, run_script
from normalkit.data import evaluation_loader
from normalkit.data.folder import guess_patterns
from normalkit.files import atomic_file, check_writable
from normalkit.geometry import normalize
from normalkit.training import evaluate, format_figures, training_device

FIGURES = ("mean", "median", "11.25", "22.5", "30")
"""In the order of the report's secret test."""


@dataclass(frozen=True)
class Config:
    """Score a trained network."""

    checkpoint: Path
    """Folder of the model, such as runs/surface_normals/best."""
    data: Path
    """Folder of frames: colour, depth or normals, and intrinsics. Or of pictures alone, which are not scored."""
    flip: bool = False
    """Average with the prediction for the mirrored picture."""
    out: Path | None = None
    """JSON file for the figures."""
    predictions: Path | None = None
    """Folder for NAME.normals.png of each frame, in OPENCV axes."""
    format: Literal["png", "png16", "npy"] = "png"
    """Of these: png has 8 bits a channel, png16 16; npy is float32."""
    batch_size: int = 8
    """Pictures at a time; 1 where they differ in size."""
    workers: int | None = None
    """Loader processes; by default two, but none on two cores without a GPU."""


def main(cfg: Config) -> int:
    """Print the figures, and write what is asked for."""
    if not has_truth(cfg.data):
        return predict_alone(cfg)
    dataset = RGBDNormals(cfg.data)
    if cfg.out is not None:
        check_writable(cfg.out.parent)
        if cfg.out.is_dir():
            raise IsADirectoryError(f"--out {cfg.out} is a folder; give the name of a file in it")
    paths = prediction_paths(cfg, [frame.name for frame in dataset.frames])
    model = load_model(cfg.checkpoint, device=training_device())
    loader = evaluation_loader(dataset, batch_size=cfg.batch_size, workers=cfg.workers)

    def keep(batch: dict[str, Any], predictions: Tensor) -> None:
        for name, normals in zip(batch["name"], predictions, strict=True):
            write(cfg, paths[name], normals)

    figures = evaluate(model, loader, flip=cfg.flip, each=keep if paths else None)
    print(format_figures(figures))
    print(f"{', '.join(FIGURES)}: {', '.join(f'{figures[name]:.4f}' for name in FIGURES)}")
    if cfg.out is not None:
        with atomic_file(cfg.out) as path:
            path.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def has_truth(folder: Path) -> bool:
    """Whether there is anything to score against; a folder that is missing is left to the data set's error."""
    patterns = ("*.normal.png", "*.depth.png", "depth.txt")
    return not folder.is_dir() or any(True for pattern in patterns for _ in folder.rglob(pattern))


def predict_alone(cfg: Config) -> int:
    """Write the predictions for pictures whose normals nobody knows; 1 if a picture failed."""
    refuse_pairs(cfg.data)
    photos = find_pictures([cfg.data])
    if cfg.predictions is None or cfg.out is not None:
        raise ValueError(
            f"{cfg.data}: pictures without depth or normals, so there is nothing to score; leave --out away, and "
            "give --predictions for a folder of what the network says"
        )
    names = [photo.stem.removesuffix(".color") for photo in photos]
    paths = prediction_paths(cfg, names)
    model = load_model(cfg.checkpoint, device=training_device())
    print(f"{cfg.data}: {len(photos)} pictures without depth or normals; not scored")
    results = {photo: paths[name] for photo, name in zip(photos, names, strict=True)}
    return for_each_file(
        results,
        lambda photo, path: write(cfg, path, predict(model, photo, flip=cfg.flip)),
        program="evaluate.py",
    )


def refuse_pairs(folder: Path) -> None:
    """Raise a ValueError where normals lie beside the pictures, but not as frames have them."""
    pairs = guess_patterns(folder)
    # Those are what was predicted for the pictures.
    if pairs is not None and not Path(pairs[1]).stem.endswith(".normals"):
        words = ("--data", str(folder), "--images", pairs[0], "--normals", pairs[1])
        raise ValueError(
            f"{folder}: normals lie beside the pictures, but not as NAME.normal.png beside NAME.color.png; score "
            f"them by: normalkit evaluate {shlex.join(words)}"
        )


def prediction_paths(cfg: Config, names: Sequence[str]) -> dict[str, Path]:
    """The file of each frame's prediction, in folders that can be written; none where none are asked for."""
    if cfg.predictions is None:
        return {}
    root = cfg.predictions.resolve()
    suffix = ".npy" if cfg.format == "npy" else ".png"
    paths: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    for name in names:
        paths[name] = cfg.predictions / f"{name}.normals{suffix}"
        place = paths[name].resolve()
        if not place.is_relative_to(root):
            raise ValueError(f"frame {name}: its prediction would leave {cfg.predictions}, for {place}; rename it")
        if place in owners:
            raise ValueError(f"frames {owners[place]} and {name} would both be written to {place}; rename one")
        owners[place] = name
    for folder in sorted({path.parent for path in paths.values()}):
        check_writable(folder)
    return paths


def write(cfg: Config, path: Path, normals: Tensor) -> None:
    """One frame's prediction (3, H, W); a network may give vectors of any length."""
    write_normals(path, normalize(normals.float(), dim=0), bits=16 if cfg.format == "png16" else 8)


if __name__ == "__main__":
    run_script(main, Config)
