r"""Train a surface-normal network on an RGB-D recording, and score it.

python examples/surface_normals/train.py --data ../shared/data/red_kitchen --encoder tf_efficientnet_lite0 \
    --pretrained offline

The run's folder gets the checkpoints `best/` and `last/`, `metrics.csv`, TensorBoard logs, `curves.png`, and, when
the data has a `val` folder, `val.json` and `val.png`. Several processes: `accelerate launch` in front.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from normalkit import AngularLoss, RGBDNormals, UNetNormals, load_model
from normalkit.cli import run_script
from normalkit.data import evaluation_loader, training_loader
from normalkit.files import atomic_file
from normalkit.training import (
    TrainingSettings,
    evaluate,
    fit,
    format_figures,
    is_main_process,
    normals_loss,
)
from normalkit.transforms import training_transform
from normalkit.visualize import comparison_grid, save_figure, training_curves


@dataclass(frozen=True)
class Config:
    """Train a surface-normal U-Net."""

    data: Path
    """The recording: a folder of frames, or one with `train` and `val` folders in it."""
    out: Path = Path("runs/surface_normals")
    """Folder of the run."""
    resume: bool = False
    """Go on with the run in that folder."""
    encoder: str = "tf_efficientnet_lite0"
    """Any timm encoder."""
    pretrained: bool | str = True
    """The encoder's weights: True (downloaded), False, offline (from an installed package), or a file."""
    upsample: Literal["transpose", "bilinear", "nearest"] = "bilinear"
    """How the decoder doubles a map."""
    skips: tuple[int, ...] | None = None
    """Encoder levels that reach the decoder; all by default."""
    decoder_channels: tuple[int, ...] = (128, 64, 32, 16, 16)
    """Widths of the decoder, deepest first."""
    alpha: float = 1.0
    """Weight of L1 in the loss."""
    beta: float = 0.25
    """Weight of the cosine distance in the loss."""
    batch_size: int = 8
    """Pictures a batch, in each process."""
    holdout: int = 50
    """Frames at the end of the training data that choose the checkpoint; with 0 it is the last epoch's."""
    resolution: int = 160
    """Pixels of the longer side that the network sees, in training and after it."""
    max_rotation: float = 20.0
    """Largest turn of the picture in training, degrees."""
    max_turn: float = 10.0
    """Largest turn of the camera to the left, right, up or down in training, degrees."""
    settings: TrainingSettings = field(default_factory=lambda: TrainingSettings(epochs=60, validate_every=6))
    """How to train."""
    workers: int = 2
    """Loader processes."""
    cache: Path | None = None
    """Folder for the normals computed from depth; by default under the user's cache folder."""


def main(cfg: Config) -> None:
    """Train, score and draw."""
    torch.manual_seed(cfg.settings.seed)
    root = cfg.data / "train" if (cfg.data / "train").is_dir() else cfg.data
    val = RGBDNormals(cfg.data / "val", cache=cfg.cache) if (cfg.data / "val").is_dir() else None
    count = len(RGBDNormals(root, cache=cfg.cache))
    if not 0 <= cfg.holdout < count:
        raise ValueError(f"holdout={cfg.holdout}: wanted 0 to {count - 1}, as {root} has {count} frames")
    first_kept = count - cfg.holdout
    kept_back = RGBDNormals(root, frames=slice(first_kept, None), cache=cfg.cache) if cfg.holdout else None
    untouched = RGBDNormals(root, frames=slice(first_kept), cache=cfg.cache)
    height, width = untouched[0]["image"].shape[-2:]
    scale = cfg.resolution / max(height, width)
    size = (round(height * scale), round(width * scale))
    transform = training_transform(size, max_rotation=cfg.max_rotation, max_turn=cfg.max_turn)
    training = RGBDNormals(root, frames=slice(first_kept), cache=cfg.cache, transform=transform)
    model = UNetNormals(
        cfg.encoder,
        pretrained=cfg.pretrained,
        upsample=cfg.upsample,
        skips=cfg.skips,
        decoder_channels=cfg.decoder_channels,
        resolution=cfg.resolution,
    )
    print(f"{len(training)} frames to train on, {cfg.holdout} held out, {size[1]} x {size[0]} pixels")
    facts = {
        name: getattr(cfg, name) for name in ("alpha", "beta", "batch_size", "holdout", "max_rotation", "max_turn")
    }

    def validate(net: torch.nn.Module) -> dict[str, float]:
        return evaluate(net, evaluation_loader(kept_back, workers=cfg.workers))

    rows = fit(
        model,
        lambda epoch: training_loader(
            training, batch_size=cfg.batch_size, epoch=epoch, seed=cfg.settings.seed, workers=cfg.workers
        ),
        loss=normals_loss(AngularLoss(cfg.alpha, cfg.beta)),
        validate=validate if cfg.holdout else None,
        folder=cfg.out,
        settings=cfg.settings,
        metadata={"data": cfg.data.resolve().name, "train": {"pretrained": Path(str(cfg.pretrained)).name, **facts}},
        resume=cfg.resume,
    )
    if is_main_process():
        save_figure(training_curves(rows), cfg.out / "curves.png")
    if val is not None:
        score(cfg, val)


def score(cfg: Config, val: RGBDNormals) -> None:
    """The best checkpoint's figures on `val`, and a picture of five of its frames."""
    model = load_model(cfg.out / "best")
    figures = evaluate(model, evaluation_loader(val, workers=cfg.workers))
    if not is_main_process():
        return
    print(f"val: {format_figures(figures)}")
    with atomic_file(cfg.out / "val.json") as path:
        path.write_text(json.dumps(figures, indent=2) + "\n")
    samples = [val[i] for i in range(0, len(val), max(len(val) // 5, 1))][:5]
    images, normals, masks = (torch.stack([s[k] for s in samples]) for k in ("image", "normals", "mask"))
    with torch.inference_mode():
        predictions = model(images)
    grid = comparison_grid(images, predictions, normals, masks, names=[s["name"] for s in samples])
    save_figure(grid, cfg.out / "val.png")


if __name__ == "__main__":
    run_script(main, Config)
