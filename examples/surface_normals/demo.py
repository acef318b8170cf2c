"""From nothing to a trained network in a few minutes: generated rooms, a small U-Net, its figures, a picture.

python examples/surface_normals/demo.py --out demo
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from normalkit import AngularLoss, SyntheticRooms, UNetNormals, load_model
from normalkit.baselines import best_constant, per_pixel_mean
from normalkit.cli import run_script
from normalkit.data import InMemory, evaluation_loader, training_loader
from normalkit.training import (
    TrainingSettings,
    evaluate,
    fit,
    format_figures,
    normals_loss,
)
from normalkit.transforms import training_transform
from normalkit.visualize import comparison_grid, save_figure, training_curves


@dataclass(frozen=True)
class Config:
    """Train a small U-Net on generated rooms."""

    out: Path = Path("demo")
    """Folder for the run and the figures; an earlier demo in it is gone on with, or only drawn again."""
    rooms: int = 900
    """Rooms to train on; a tenth as many others choose the checkpoint, and as many again are scored."""
    size: int = 128
    """Side of the pictures, pixels."""
    epochs: int = 4
    """Passes over the rooms."""
    encoder: str = "tf_efficientnet_lite0"
    """Any timm encoder."""
    pretrained: bool | str = "offline"
    """The encoder's weights: offline (from an installed package), True (downloaded), False, or a file."""
    seed: int = 0
    """Of the rooms, the weights and the order."""
    workers: int = 2
    """Processes that draw the rooms."""


def main(cfg: Config) -> None:
    """Draw rooms, train, score, draw."""
    started = time.monotonic()
    torch.manual_seed(cfg.seed)
    size = (cfg.size, cfg.size)
    choosing, scored = (
        InMemory(SyntheticRooms(max(cfg.rooms // 10, 1), size=size, seed=cfg.seed + apart), workers=cfg.workers)
        for apart in (1, 2)
    )
    rooms = InMemory(
        SyntheticRooms(cfg.rooms, size=size, seed=cfg.seed), transform=training_transform(size), workers=cfg.workers
    )
    print(f"{cfg.rooms} rooms drawn in {time.monotonic() - started:.0f} s")
    model = UNetNormals(
        cfg.encoder,
        pretrained=cfg.pretrained,
        upsample="bilinear",
        decoder_channels=(96, 64, 32, 16, 16),
        resolution=cfg.size,
    )
    rows = fit(
        model,
        lambda epoch: training_loader(rooms, batch_size=8, epoch=epoch, seed=cfg.seed),
        loss=normals_loss(AngularLoss(alpha=1.0, beta=1.0)),
        validate=lambda net: evaluate(net, evaluation_loader(choosing, workers=0), progress=False),
        folder=cfg.out,
        settings=TrainingSettings(epochs=cfg.epochs, ema=0.98, seed=cfg.seed),
        metadata={"data": f"SyntheticRooms({cfg.rooms}, size={size}, seed={cfg.seed})"},
        resume=True,
    )
    best = load_model(cfg.out / "best")
    plain = DataLoader(rooms.samples, batch_size=32)
    print(f"on {len(scored)} rooms never seen before, degrees and per cent:")
    for name, net in [
        ("best constant normal", best_constant(plain)),
        ("per-pixel mean normal", per_pixel_mean(plain)),
        ("U-Net", best),
    ]:
        print(f"  {name:<22} {format_figures(evaluate(net, evaluation_loader(scored, workers=0), progress=False))}")
    shown = next(iter(evaluation_loader(scored, batch_size=5, workers=0)))
    with torch.inference_mode():
        predictions = best(shown["image"])
    figure = comparison_grid(shown["image"], predictions, shown["normals"], shown["mask"], names=shown["name"])
    save_figure(figure, cfg.out / "figure.png")
    save_figure(training_curves(rows), cfg.out / "curves.png")
    print(f"{cfg.out / 'figure.png'} and {cfg.out / 'best'} written, {time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    run_script(main, Config)
