"""An epoch through our data loader beside the same epoch with ready batches in memory, in the same run.

Both train with `fit`; one reads, decodes and augments its frames as the example does, on `training_loader` at its
defaults, the other is handed batches that were made before. Two networks: the U-Net on ResNet-18 of the other tables,
and the smaller one of the kitchen's results, whose steps leave less time to hide behind.

    python benchmarks/normals_loader.py --threads 2 --data ../shared/data/red_kitchen
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from frames import open_frames
from measurement import argument_parser, digits, print_header, print_table, spread
from torch import nn

from normalkit import AngularLoss, UNetNormals
from normalkit.data import training_loader
from normalkit.training import TrainingSettings, fit, normals_loss
from normalkit.training.types import Batches
from normalkit.transforms import training_transform

LOADER, READY = "through `training_loader`", "ready batches in memory"


def networks() -> dict[str, tuple[nn.Module, tuple[int, int], dict[str, float]]]:
    """Each with the size of its pictures and the augmentation."""
    torch.manual_seed(0)
    widths = (128, 64, 32, 16, 16)
    return {
        "ResNet-18, 224 x 320": (UNetNormals("resnet18", False, upsample="nearest"), (224, 320), {}),
        "EfficientNet-Lite0, 120 x 160": (
            UNetNormals("tf_efficientnet_lite0", False, upsample="bilinear", decoder_channels=widths),
            (120, 160),
            {"max_rotation": 15.0, "max_pan": 30.0, "max_tilt": 12.0},
        ),
    }


def epochs(model: nn.Module, batches: Batches, *, epochs: int) -> list[float]:
    """Seconds of each epoch of a run, by what the run notes itself; the first is left out."""
    quiet = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(quiet):
        rows = fit(
            model,
            batches,
            loss=normals_loss(AngularLoss()),
            validate=None,
            folder=Path(folder, "run"),
            settings=TrainingSettings(epochs=epochs + 1, precision="no"),
        )
    ends = [0.0, *(row["seconds"] for row in rows)]
    return [after - before for before, after in itertools.pairwise(ends)][1:]


def measure(model: nn.Module, data: Any, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of epochs of both kinds, a run of each in turn, and of the loader alone."""

    def load(epoch: int) -> Any:
        return training_loader(data, batch_size=args.batch, epoch=epoch, seed=0)

    ready = list(load(0))
    taken: dict[str, list[float]] = {LOADER: [], READY: [], "the loader alone": []}
    for _ in range(args.runs):
        taken[READY] += epochs(model, lambda epoch: ready, epochs=args.repeats)
        taken[LOADER] += epochs(model, load, epochs=args.repeats)
        start = time.perf_counter()
        for _ in load(0):
            pass
        taken["the loader alone"].append(time.perf_counter() - start)
    return taken


def main() -> None:
    """Measure and print the tables."""
    parser = argument_parser(__doc__, repeats=2)
    parser.add_argument("--data", type=Path, help="a recording, such as red_kitchen; by default generated rooms")
    parser.add_argument("--frames", type=int, default=24, help="in an epoch")
    parser.add_argument("--batch", type=int, default=4, help="batch size")
    parser.add_argument(
        "--runs", type=int, default=2, help="of each kind, in turn, of as many epochs as --repeats says"
    )
    args = parser.parse_args()
    print_header(
        f"{args.frames} frames an epoch, batches of {args.batch}, float32", args, ["torchvision", "accelerate"]
    )
    rows = []
    for name, (model, size, motion) in networks().items():
        with open_frames(args.data, frames=args.frames, transform=training_transform(size, **motion)) as data:
            taken = measure(model, data, args)
        ready = statistics.median(taken[READY])
        for kind, each in taken.items():
            middle = statistics.median(each)
            longer = f"{100 * (middle / ready - 1):+.0f} %" if kind == LOADER else ""
            rows.append([name, kind, digits(1e3 * middle / args.frames), spread(each, 1e3 / args.frames), longer])
    print_table(("network", "an epoch", ">ms an image", ">least - most", ">longer by"), rows)


if __name__ == "__main__":
    main()
