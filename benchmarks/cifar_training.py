"""Images a second of a BaseNet epoch of `fit` beside the usual script's, in the same run.

The peer is a plain loop over torchvision's usual pipeline (see `cifar_loader.py`) at its best number of workers:
forward, cross-entropy, backward, a step of SGD; its images are normalised by the loader alone. Ours is
`normalkit.training.fit` on `device_training_loader`, with all that a run does but its validation and checkpoints:
gradient norms, the moving average of the weights, sums and the progress bar. The layout of the images and the precision
are measured too, since not every processor gains from them. Each in turn trains for two epochs, of which the second is
timed, and all where `fit` does: on a GPU if there is one.

    python benchmarks/cifar_training.py --data ../shared/data/cifar10_train_jpeg.tar.xz --images 45000
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cifar_loader import load, peer
from measurement import argument_parser, digits, print_header, print_table, spread
from torch import nn

from normalkit import BaseNet, ImprovedNet
from normalkit.classification import classification_loss
from normalkit.data.device import device_training_loader
from normalkit.data.labeled import LabeledImages
from normalkit.models import Classifier
from normalkit.training import TrainingSettings, fit, has_bfloat16, training_device

NETS = {"base": BaseNet, "improved": ImprovedNet}
LR = 0.01


Times = tuple[list[float], float]
"""Seconds of each epoch, and the mean loss of the last one."""


def plain(
    net: Classifier, data: LabeledImages, *, batch_size: int, workers: int, epochs: int, device: torch.device
) -> Times:
    """The usual loop."""
    batches = peer(data, batch_size=batch_size, workers=workers, device=device)
    net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9, nesterov=True)
    net.train()
    times = []
    for epoch in range(epochs):
        losses = []
        start = time.perf_counter()
        for images, labels in batches(epoch):
            loss = nn.functional.cross_entropy(net.scores(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        times.append(time.perf_counter() - start)
    return times, statistics.fmean(losses)


def ours(net: Classifier, data: LabeledImages, *, batch_size: int, epochs: int, **options: Any) -> Times:
    """`fit`, which notes its seconds itself."""
    settings = TrainingSettings(
        epochs=epochs, optimizer="sgd", lr=LR, schedule="constant", warmup=0, weight_decay=0, clip=0, **options
    )
    quiet = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stderr(quiet),
        contextlib.redirect_stdout(quiet),
    ):
        rows = fit(
            net,
            lambda epoch: device_training_loader(data, batch_size=batch_size, epoch=epoch, seed=0),
            loss=classification_loss(),
            validate=lambda model: {"nothing": 0.0},
            folder=Path(folder, "run"),
            settings=settings,
            monitor="nothing",
        )
    ends = [0.0, *(row["seconds"] for row in rows)]
    return [after - before for before, after in itertools.pairwise(ends)], rows[-1]["train_loss"]


def main() -> None:
    """Measure and print a table."""
    parser = argument_parser(__doc__, repeats=3)
    parser.add_argument("--data", type=Path, help="archive or folder to read; by default random pixels")
    parser.add_argument("--net", choices=NETS, default="base", help="network")
    parser.add_argument("--images", type=int, default=10000, help="in an epoch, at most")
    parser.add_argument("--batch", type=int, default=128, help="batch size")
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 1, 2, 4), help="of the peer")
    args = parser.parse_args()
    if args.device.type != training_device().type:
        raise SystemExit(
            f"--device {args.device}: `fit` trains on {training_device()}; hide it (CUDA_VISIBLE_DEVICES=)"
        )
    data = load(args.data, args.images)
    here = data.to(args.device)
    sizes = {"batch_size": args.batch, "epochs": 2}

    options: dict[str, dict[str, Any]] = {
        "ours, contiguous": {"channels_last": False, "precision": "no"},
        "ours, channels last": {"channels_last": True, "precision": "no"},
    }
    contenders: dict[str, Callable[[Classifier], Times]] = {
        name: functools.partial(ours, data=here, **sizes, **chosen) for name, chosen in options.items()
    }
    if has_bfloat16():
        half = {"channels_last": True, "precision": "bf16"}
        contenders["ours, channels last, bfloat16"] = functools.partial(ours, data=here, **sizes, **half)
    own = list(contenders)
    contenders |= {
        f"plain loop, {workers} workers": functools.partial(
            plain, data=data, workers=workers, device=args.device, **sizes
        )
        for workers in args.workers
    }
    what = f"{args.net} net, {len(data)} images an epoch, batches of {args.batch}"
    print_header(what, args, ["torchvision", "pillow", "accelerate"])
    count = len(data) // args.batch * args.batch
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    losses: dict[str, float] = {}
    for _ in range(args.repeats):
        for name, contender in contenders.items():
            torch.manual_seed(0)
            (_, seconds), losses[name] = contender(NETS[args.net]())
            rates[name].append(count / seconds)
    best = max(statistics.median(rates[name]) for name in own)
    fastest_peer = max((name for name in rates if name not in own), key=lambda name: statistics.median(rates[name]))
    rows = [
        [
            name,
            digits(statistics.median(each)),
            spread(each, 1),
            f"{losses[name]:.3f}",
            f"{best / statistics.median(each):.2f}x" + (" *" if name == fastest_peer else ""),
        ]
        for name, each in rates.items()
    ]
    print_table(("", ">images/s", ">least - most", ">loss", ">our best is"), rows)
    print("* against the peer at its best number of workers")


if __name__ == "__main__":
    main()
