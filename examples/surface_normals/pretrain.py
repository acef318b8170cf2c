r"""Train on generated rooms alone, for anyone's photographs.

python examples/surface_normals/pretrain.py --rooms rooms --count 8000 --out runs/rooms

The rooms are drawn first, into a folder that later runs read; a stopped drawing or training is gone on with. No real
picture is looked at: other rooms choose the checkpoint and calibrate how sure it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from normalkit import NormalFolder, SyntheticRooms, UNetNormals, load_model, save_model
from normalkit.appearance import appearance_transform
from normalkit.cli import run_script
from normalkit.data import evaluation_loader, training_loader
from normalkit.data.sample import Transform
from normalkit.data.writing import write_samples
from normalkit.files import atomic_file
from normalkit.losses import AngMFLoss
from normalkit.models.checkpoint import read_config
from normalkit.training import (
    TrainingSettings,
    evaluate,
    fit,
    format_figures,
    is_main_process,
    normals_loss,
    training_device,
)
from normalkit.transforms import RandomCameraRotation
from normalkit.uncertainty import calibrate, estimate
from normalkit.visualize import comparison_grid, save_figure, training_curves


@dataclass(frozen=True)
class Config:
    """Train a U-Net on generated rooms, for photographs that it never saw."""

    rooms: Path = Path("rooms")
    """Folder for the rooms."""
    count: int = 8000
    """Rooms to train on."""
    held_out: int = 400
    """Others, of the next seed, that choose the checkpoint and calibrate it."""
    height: int = 144
    """Of the rooms' pictures, pixels."""
    width: int = 192
    """Of the rooms' pictures, pixels; they are trained on at `resolution`."""
    room_seed: int = 100
    """Chooses the rooms."""
    out: Path = Path("runs/rooms")
    """Folder of the run."""
    resume: bool = False
    """Go on with the run in that folder."""
    encoder: str = "tf_efficientnet_lite0"
    """Any timm encoder."""
    pretrained: bool | str = "offline"
    """The encoder's weights: offline (from an installed package), True (downloaded), False, or a file."""
    decoder_channels: tuple[int, ...] = (128, 64, 32, 16, 16)
    """Widths of the decoder, deepest first."""
    resolution: int = 160
    """Pixels of the longer side that the network sees, in training and after it."""
    batch_size: int = 8
    """Pictures a batch, in each process."""
    settings: TrainingSettings = field(default_factory=lambda: TrainingSettings(epochs=6, ema=0.998))
    """How to train."""
    workers: int | None = None
    """Processes that draw and load."""


def main(cfg: Config) -> None:
    """Draw, train, calibrate, score."""
    training, held_out = rooms(cfg)
    torch.manual_seed(cfg.settings.seed)
    model = UNetNormals(
        cfg.encoder,
        pretrained=cfg.pretrained,
        upsample="bilinear",
        decoder_channels=cfg.decoder_channels,
        resolution=cfg.resolution,
        concentration=1.0,
    )
    rows = fit(
        model,
        lambda epoch: training_loader(
            training, batch_size=cfg.batch_size, epoch=epoch, seed=cfg.settings.seed, workers=cfg.workers
        ),
        loss=normals_loss(AngMFLoss()),
        validate=lambda net: evaluate(net, evaluation_loader(held_out, workers=cfg.workers)),
        folder=cfg.out,
        settings=cfg.settings,
        metadata={"data": f"{cfg.count} rooms of {cfg.width} x {cfg.height}, seed {cfg.room_seed}"},
        resume=cfg.resume,
    )
    if not is_main_process():
        return
    save_figure(training_curves(rows), cfg.out / "curves.png")
    best = load_model(cfg.out / "best", device=training_device())
    concentration = calibrate(best, evaluation_loader(held_out, workers=cfg.workers))
    # Calibrating leaves the normals as they are, and so the figures that chose the checkpoint.
    facts = {name: read_config(cfg.out / "best")[name] for name in ("data", "metrics")}
    figures = facts["metrics"]
    save_model(cfg.out / "model", best.cpu(), metadata=facts, dtype=torch.float16)
    with atomic_file(cfg.out / "rooms.json") as path:
        path.write_text(json.dumps({**figures, "concentration": concentration}, indent=2) + "\n")
    samples = [held_out[i] for i in range(min(6, len(held_out)))]
    images, normals, masks = (torch.stack([s[k] for s in samples]) for k in ("image", "normals", "mask"))
    with torch.inference_mode():
        predictions, expected = estimate(best, images)
    names = [s["name"] for s in samples]
    grid = comparison_grid(images, predictions, normals, masks, expected=expected, names=names)
    save_figure(grid, cfg.out / "rooms.png")
    print(f"{cfg.held_out} rooms held out: {format_figures(figures)}; concentration {concentration:.3f}")
    print(f"{cfg.out / 'model'} written")


def rooms(cfg: Config) -> tuple[Dataset[dict[str, torch.Tensor]], Dataset[dict[str, torch.Tensor]]]:
    """The rooms to train on and those held out, drawn where they are not yet there."""
    height, width = cfg.height, cfg.width
    scale = cfg.resolution / max(height, width)
    size = (round(height * scale), round(width * scale))
    # The rooms have cameras enough; far turns of theirs would leave black borders, which tell the turn.
    view = [RandomCameraRotation(pan=3, tilt=3, roll=5, zoom=1.5, size=size), v2.RandomHorizontalFlip()]
    parts = {"train": (cfg.count, cfg.room_seed, v2.Compose([*view, appearance_transform()]))}
    parts["held-out"] = (cfg.held_out, cfg.room_seed + 1, None)
    return tuple(_part(cfg, name, *part) for name, part in parts.items())


def _part(cfg: Config, name: str, count: int, seed: int, transform: Transform | None) -> NormalFolder:
    folder = cfg.rooms / name
    facts = {"rooms": count, "size": [cfg.height, cfg.width], "seed": seed}
    drawn = SyntheticRooms(count, size=(cfg.height, cfg.width), seed=seed)
    write_samples(drawn, folder, facts=facts, workers=cfg.workers or 0)
    return NormalFolder(folder, convention=None, intrinsics="*_intrins.npy", transform=transform)


if __name__ == "__main__":
    run_script(main, Config)
