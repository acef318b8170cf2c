r"""Train a surface-normal network on an RGB-D recording, and score it.

python examples/surface_normals/train.py --data ../shared/data/red_kitchen --encoder tf_efficientnet_lite0 \
    --pretrained offline
python examples/surface_normals/train.py --data ../shared/data/red_kitchen --start-from rooms --settings.lr 1e-4

The run's folder gets the checkpoints `best/` and `last/`, `metrics.csv`, TensorBoard logs, `curves.png`, and, when
the data has a `val` folder, `val.json` and `val.png`. Several processes: `accelerate launch` in front.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from normalkit import AngularLoss, BilinearNormals, RGBDNormals, SMPNormals, UNetNormals, load_model
from normalkit.cli import run_script
from normalkit.data import evaluation_loader, training_loader
from normalkit.data.pairs import spread
from normalkit.files import atomic_file
from normalkit.models import NormalEstimator
from normalkit.training import (
    TrainingSettings,
    evaluate,
    fit,
    format_figures,
    is_main_process,
    normals_loss,
    training_device,
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
    start_from: str | None = None
    """A checkpoint to train further, or rooms for the network in the package: in place of the options of a new one."""
    net: Literal["unet", "bilinear", "smp"] = "unet"
    """A U-Net, the report's bilinear head, or an architecture of segmentation_models.pytorch."""
    arch: str = "DeepLabV3Plus"
    """That architecture."""
    encoder: str = "tf_efficientnet_lite0"
    """Any timm encoder."""
    pretrained: bool | str = True
    """The encoder's weights: True (downloaded), False, offline (from an installed package), or a file."""
    upsample: Literal["transpose", "bilinear", "nearest"] = "bilinear"
    """How the decoder doubles a map."""
    skips: tuple[int, ...] | None = None
    """Encoder levels that reach the decoder; all by default."""
    decoder_channels: tuple[int, ...] = (128, 64, 32, 16, 16)
    """Widths of the U-Net's decoder, deepest first."""
    output_stride: Literal[32, 16, 8] = 32
    """Below 32 the encoder is dilated (atrous convolution)."""
    alpha: float = 1.0
    """Weight of L1 in the loss."""
    beta: float = 0.25
    """Weight of the cosine distance in the loss."""
    batch_size: int = 4
    """Pictures a batch, in each process. With so few frames the number of steps is what counts."""
    holdout: int = 50
    """Frames at the end of the training data that choose the checkpoint; with 0 it is the last epoch's."""
    resolution: int = 160
    """Pixels of the longer side that the network sees, in training and after it."""
    max_rotation: float = 15.0
    """Largest turn of the picture in training, degrees."""
    max_pan: float = 30.0
    """Largest turn of the camera to the left or right in training, degrees."""
    max_tilt: float = 12.0
    """Largest turn of the camera up or down in training, degrees."""
    settings: TrainingSettings = field(default_factory=lambda: TrainingSettings(epochs=72, validate_every=6))
    """How to train."""
    workers: int | None = None
    """Loader processes; by default two, but none on two cores without a GPU."""
    cache: Path | None = None
    """Folder for the normals computed from depth; by default under the user's cache folder."""


NETWORK = ("net", "arch", "encoder", "pretrained", "upsample", "skips", "decoder_channels", "output_stride")
"""Options of a new network."""

LACKING = {
    "unet": ("arch",),
    "bilinear": ("arch", "upsample", "skips", "decoder_channels"),
    "smp": ("upsample", "skips", "decoder_channels", "output_stride"),
}
"""Those that each kind of network does not have."""


@dataclass(frozen=True)
class Frames:
    """What a recording is used for."""

    training: RGBDNormals
    held_out: RGBDNormals | None
    val: RGBDNormals | None


def main(cfg: Config) -> None:
    """Train, score and draw."""
    frames = read_frames(cfg)
    train(cfg, frames)
    if frames.val is not None:
        figures = score(cfg, frames.val)
        if is_main_process():
            print(f"val: {format_figures(figures)}")


def read_frames(cfg: Config) -> Frames:
    """The frames to train on, at the network's size, and those that choose the checkpoint and score it."""
    root = cfg.data / "train" if (cfg.data / "train").is_dir() else cfg.data
    val = RGBDNormals(cfg.data / "val", cache=cfg.cache) if (cfg.data / "val").is_dir() else None
    plain = RGBDNormals(root, cache=cfg.cache)
    if not 0 <= cfg.holdout < len(plain):
        raise ValueError(f"holdout={cfg.holdout}: wanted 0 to {len(plain) - 1}, as {root} has {len(plain)} frames")
    height, width = plain[0]["image"].shape[-2:]
    scale = cfg.resolution / max(height, width)
    size = (round(height * scale), round(width * scale))
    transform = training_transform(size, max_rotation=cfg.max_rotation, max_pan=cfg.max_pan, max_tilt=cfg.max_tilt)
    first = len(plain) - cfg.holdout
    training = RGBDNormals(root, frames=slice(first), cache=cfg.cache, transform=transform)
    held_out = RGBDNormals(root, frames=slice(first, None), cache=cfg.cache) if cfg.holdout else None
    print(f"{len(training)} frames to train on, {cfg.holdout} held out, {size[1]} x {size[0]} pixels")
    return Frames(training, held_out, val)


def make_model(cfg: Config) -> NormalEstimator:
    """The network; what the encoder's weights leave open is drawn from torch's generator."""
    if cfg.start_from is not None:
        return started(cfg, cfg.start_from)
    if cfg.net not in LACKING:
        raise ValueError(f"net={cfg.net!r}: wanted one of {', '.join(LACKING)}")
    given = changed_options(cfg, LACKING[cfg.net])
    if given:
        raise ValueError(f"net={cfg.net!r} has no {', '.join(given)}; leave away {as_words(given)}")
    shared: dict[str, Any] = {"encoder": cfg.encoder, "pretrained": cfg.pretrained, "resolution": cfg.resolution}
    if cfg.net == "bilinear":
        return BilinearNormals(output_stride=cfg.output_stride, **shared)
    if cfg.net == "unet":
        return UNetNormals(
            upsample=cfg.upsample,
            skips=cfg.skips,
            decoder_channels=cfg.decoder_channels,
            output_stride=cfg.output_stride,
            **shared,
        )
    return SMPNormals(cfg.arch, **{**shared, "encoder": f"tu-{cfg.encoder}"})


def started(cfg: Config, source: str) -> NormalEstimator:
    """The network of a checkpoint, at this run's resolution."""
    given = changed_options(cfg, NETWORK)
    if given:
        raise ValueError(f"--start-from {source}: its network is made already; leave away {as_words(given)}")
    model = load_model(None if source == "rooms" else source)
    model.resolution = cfg.resolution
    # The loss here says nothing of the map's length, in which the network told how sure it is.
    model.concentration = None
    return model


def changed_options(cfg: Config, names: Iterable[str]) -> list[str]:
    """Those of the options that are not at their defaults."""
    return [name for name in names if getattr(cfg, name) != getattr(Config, name)]


def as_words(names: Iterable[str]) -> str:
    """Options as the command line has them."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def describe(cfg: Config) -> dict[str, Any]:
    """What identifies a run but for its seed; of files, the names alone."""
    facts = dataclasses.asdict(cfg)
    for name in ("out", "resume", "workers", "cache"):
        del facts[name]
    facts |= {"settings": cfg.settings.facts(), "data": cfg.data.resolve().name, "pretrained": _name(cfg.pretrained)}
    if cfg.start_from is None:
        del facts["start_from"]
        return facts
    return {name: fact for name, fact in facts.items() if name not in NETWORK} | {"start_from": _name(cfg.start_from)}


def _name(source: bool | str) -> bool | str:
    return source if isinstance(source, bool) else Path(source).name


def train(cfg: Config, frames: Frames) -> float:
    """One run, into its folder; the seconds that its steps took."""
    torch.manual_seed(cfg.settings.seed)
    model = make_model(cfg)

    def validate(net: torch.nn.Module) -> dict[str, float]:
        return evaluate(net, evaluation_loader(frames.held_out, workers=cfg.workers))

    facts = describe(cfg)
    del facts["settings"]
    rows = fit(
        model,
        lambda epoch: training_loader(
            frames.training, batch_size=cfg.batch_size, epoch=epoch, seed=cfg.settings.seed, workers=cfg.workers
        ),
        loss=normals_loss(AngularLoss(cfg.alpha, cfg.beta)),
        validate=validate if frames.held_out else None,
        folder=cfg.out,
        settings=cfg.settings,
        metadata={"data": facts.pop("data"), "train": facts},
        resume=cfg.resume,
    )
    if is_main_process():
        save_figure(training_curves(rows), cfg.out / "curves.png")
    return rows[-1]["seconds"]


def score(cfg: Config, val: RGBDNormals) -> dict[str, float]:
    """The best checkpoint's figures on `val`, in a file too, beside a picture of five of its frames."""
    model = load_model(cfg.out / "best", device=training_device())
    figures = evaluate(model, evaluation_loader(val, workers=cfg.workers))
    if not is_main_process():
        return figures
    with atomic_file(cfg.out / "val.json") as path:
        path.write_text(json.dumps(figures, indent=2) + "\n")
    samples = [val[i] for i in spread(len(val), 5)]
    images, normals, masks = (torch.stack([s[k] for s in samples]) for k in ("image", "normals", "mask"))
    with torch.inference_mode():
        predictions = model(images.to(training_device())).cpu()
    grid = comparison_grid(images, predictions, normals, masks, names=[s["name"] for s in samples])
    save_figure(grid, cfg.out / "val.png")
    return figures


if __name__ == "__main__":
    run_script(main, Config)
