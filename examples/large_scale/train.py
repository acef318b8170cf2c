r"""Train a surface-normal network on shards, on one machine or several.

normalkit shard ../shared/data/red_kitchen/train --out shards/train --samples-per-shard 50 --shuffle 0
normalkit shard ../shared/data/red_kitchen/val --out shards/val
torchrun --nproc-per-node 2 examples/large_scale/train.py --data shards/train --val shards/val

The shards may lie in object storage (`--data s3://bucket/train`), and the run's folder where the first process writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from normalkit import AngularLoss, UNetNormals
from normalkit.cli import run_script
from normalkit.data import ShardedNormals, shard_evaluation_loader, shard_training_loader
from normalkit.data.loader import loader_workers, process_rank
from normalkit.training import TrainingSettings, evaluate, fit, is_main_process, normals_loss, training_device
from normalkit.transforms import training_transform


@dataclass(frozen=True)
class Config:
    """Train a surface-normal U-Net on shards."""

    data: str
    """Folder or address of the shards to train on, as `normalkit shard` wrote them."""
    val: str | None = None
    """Shards that choose the checkpoint; with none it is the last epoch's."""
    out: Path = Path("runs/large_scale")
    """Folder of the run."""
    resume: bool = False
    """Go on with the run in that folder, also in the middle of an epoch."""
    encoder: str = "tf_efficientnet_lite0"
    """Any timm encoder."""
    pretrained: bool | str = True
    """The encoder's weights: True (downloaded), False, offline (from an installed package), or a file."""
    height: int = 384
    """Pixels of a training picture."""
    width: int = 384
    """Pixels of a training picture."""
    batch_size: int = 16
    """Pictures a batch, in each process."""
    window: int = 1000
    """Samples to shuffle over, beside the order of the shards."""
    workers: int = field(default_factory=loader_workers)
    """Loader processes, for each process of the training."""
    settings: TrainingSettings = field(default_factory=lambda: TrainingSettings(epochs=5))
    """How to train."""


def main(cfg: Config) -> None:
    """Train and validate."""
    training_device()  # Joins the other processes, whose number the batches depend on.
    data = ShardedNormals(cfg.data, transform=training_transform((cfg.height, cfg.width)))
    held_out = None if cfg.val is None else ShardedNormals(cfg.val)
    torch.manual_seed(cfg.settings.seed)
    model = UNetNormals(cfg.encoder, pretrained=cfg.pretrained, resolution=max(cfg.height, cfg.width))

    def batches(epoch: int) -> Any:
        return shard_training_loader(
            data,
            batch_size=cfg.batch_size,
            epoch=epoch,
            seed=cfg.settings.seed,
            window=cfg.window,
            workers=cfg.workers,
        )

    def validate(net: torch.nn.Module) -> dict[str, float]:
        # Pictures of several sizes make no batch.
        return evaluate(net, shard_evaluation_loader(held_out, batch_size=1, workers=cfg.workers))

    # Of another number of processes or workers the batches are others, so that a run could not go on within an epoch.
    order = {"processes": process_rank()[1], "workers": cfg.workers, "window": cfg.window, "batch": cfg.batch_size}
    fit(
        model,
        batches,
        loss=normals_loss(AngularLoss()),
        validate=None if held_out is None else validate,
        folder=cfg.out,
        settings=cfg.settings,
        metadata={"data": cfg.data, "samples": len(data), "size": [cfg.height, cfg.width], "order": order},
        resume=cfg.resume,
    )
    if is_main_process():
        print(f"{len(data)} samples, {cfg.settings.epochs} epochs: {cfg.out}/best")


if __name__ == "__main__":
    run_script(main, Config)
