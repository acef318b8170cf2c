"""Images a second of `fit` as it comes beside a plain script's loop, in the same run, with the same weights and data.

The peer is what one writes first: segmentation_models.pytorch's `Unet` in float32, a `DataLoader` at its best number of
workers, unit vectors, L1 and cosine similarity, AdamW. Ours is `normalkit.training.fit` with its default settings on
`training_loader`: channels last, the precision that is faster here, and all else that a run does, such as clipping, the
moving average of the weights, the mean angle and the log. Both read and augment the same frames with the same code.

An epoch of each in turn; the first one, in which `fit` also tries out the precision, is not timed.

    python benchmarks/training_loop.py --threads 2 --data ../shared/data/red_kitchen
"""

from __future__ import annotations

import argparse
import contextlib
import copy
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
from segmentation_models_pytorch import Unet
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from normalkit import AngularLoss, UNetNormals
from normalkit.data import training_loader
from normalkit.training import TrainingSettings, fit, normals_loss
from normalkit.transforms import training_transform

OURS = "`fit` on `training_loader`"
EQUAL = 1e-3
"""The largest difference of unit vectors: a short raw vector magnifies its rounding."""


class PlainLoop:
    """The peer: a network, its optimizer and its loader."""

    def __init__(self, model: nn.Module, data: Dataset[Any], *, batch_size: int, workers: int, device: Any) -> None:
        self.model, self.device = copy.deepcopy(model).train(), device
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.loader = DataLoader(
            data,
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )

    def epoch(self) -> float:
        """Train for an epoch; its seconds."""
        start = time.perf_counter()
        for batch in self.loader:
            images, normals, mask = (batch[name].to(self.device) for name in ("image", "normals", "mask"))
            predicted = F.normalize(self.model(images), dim=1)
            l1 = (predicted - normals).abs().mean(1)[mask].mean()
            loss = l1 + 1 - F.cosine_similarity(predicted, normals, dim=1)[mask].mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()
        return time.perf_counter() - start


def same_network(model: nn.Module, args: argparse.Namespace) -> UNetNormals:
    """Ours with the peer's weights, once their answers are known to be the same."""
    ours = UNetNormals.from_smp(model.eval())
    ours.normalize = True
    images = torch.rand(1, 3, *args.size[1:], device=args.device)
    with torch.no_grad():
        difference = float((ours(images) - F.normalize(model(images), dim=1)).abs().max())
    if not difference <= EQUAL:
        raise SystemExit(f"the networks' unit vectors differ by {difference:.1e}; so no speed is compared")
    return ours


def measure(model: nn.Module, data: Dataset[Any], args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each epoch, ours and the peers' in turn: a peer's is run where `fit` validates."""
    peers = {
        f"plain script, {workers} workers": PlainLoop(
            model, data, batch_size=args.size[0], workers=workers, device=args.device
        )
        for workers in args.workers
    }
    taken: dict[str, list[float]] = {name: [] for name in peers}

    def run_peers(_: nn.Module) -> dict[str, float]:
        for name, peer in peers.items():
            taken[name].append(peer.epoch())
        return {"mean": 0.0}

    ours, printed = same_network(model, args), io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        rows = fit(
            ours,
            lambda epoch: training_loader(data, batch_size=args.size[0], epoch=epoch, seed=0),
            loss=normals_loss(AngularLoss()),
            validate=run_peers,
            folder=Path(folder, "run"),
            settings=TrainingSettings(epochs=args.repeats + 1),
        )
    print(*(line for line in printed.getvalue().splitlines() if line.startswith("precision")), "\n")
    ends = [0.0, *(row["seconds"] for row in rows)]
    own = [after - before for before, after in itertools.pairwise(ends)]
    return {name: each[1:] for name, each in {OURS: own, **taken}.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argument_parser(__doc__, repeats=3)
    parser.add_argument("--data", type=Path, help="a recording, such as red_kitchen; by default generated rooms")
    parser.add_argument("--frames", type=int, default=24, help="in an epoch")
    parser.add_argument("--size", type=int, nargs=3, default=(4, 224, 320), metavar=("B", "H", "W"), help="of a batch")
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 2), help="of the peer")
    args = parser.parse_args()
    batch, height, width = args.size
    what = f"{args.frames} frames an epoch, batches of {batch} x {height} x {width}, ResNet-18 U-Net, nearest"
    print_header(what, args, ["segmentation-models-pytorch", "timm", "accelerate"])
    torch.manual_seed(0)
    model = Unet("resnet18", encoder_weights=None, classes=3).to(args.device)
    with open_frames(args.data, frames=args.frames, transform=training_transform((height, width))) as data:
        taken = measure(model, data, args)
    count = args.frames // batch * batch
    rates = {name: [count / seconds for seconds in each] for name, each in taken.items()}
    own = statistics.median(rates[OURS])
    print_table(
        ("training", ">images/s", ">least - most", ">ours is"),
        [
            [name, digits(middle), spread(each, 1), "" if name == OURS else f"{own / middle:.2f}x"]
            for name, each in rates.items()
            for middle in [statistics.median(each)]
        ],
    )


if __name__ == "__main__":
    main()
