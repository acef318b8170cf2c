"""Images a second of `device_training_loader` beside torchvision's usual pipeline, in the same run.

The peer is `torch.utils.data.DataLoader` over a data set like torchvision's `CIFAR10`, which makes a PIL picture of
each sample: RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor, Normalize. Its workers stay from epoch to epoch,
so that their start is not timed; `--images` is an epoch. Its crop pads with black, which is quicker for it than the
reflection that ours pads with. Ours is normalised batch by batch as the peer's is sample by sample. On a GPU ours are
made there, and the peer's are moved there from pinned memory.

    python benchmarks/cifar_loader.py --data ../shared/data/cifar10_train_jpeg.tar.xz --images 50000
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from measurement import argument_parser, digits, print_header, print_table, spread
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToTensor
from torchvision.transforms import functional as F

from normalkit.data.device import DeviceLoader, device_evaluation_loader, device_training_loader
from normalkit.data.labeled import LabeledImages, read_labeled_images

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PADDING = 4
CHECKED = 500

Epoch = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


class Pictures(Dataset[tuple[Tensor, int]]):
    """What `torchvision.datasets.CIFAR10` does with its array of (N, H, W, 3)."""

    def __init__(self, data: LabeledImages, transform: Callable[[Image.Image], Tensor]) -> None:
        self.data = data.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = data.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def peer(data: LabeledImages, *, batch_size: int, workers: int, device: torch.device) -> Epoch:
    """The usual pipeline."""
    steps = [RandomCrop(32, padding=PADDING), RandomHorizontalFlip(), ToTensor(), Normalize(MEAN, STD)]
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        Pictures(data, Compose(steps)),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )

    def batches(epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        for images, labels in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    return batches


def ours(data: LabeledImages, *, batch_size: int) -> Epoch:
    """The loader of this library, then the same normalisation."""
    mean, std = (torch.tensor(values, device=data.images.device).view(3, 1, 1) for values in (MEAN, STD))

    def batches(epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        for batch in device_training_loader(data, batch_size=batch_size, epoch=epoch, seed=0):
            yield batch["image"].sub_(mean).div_(std), batch["label"]

    return batches


def check_equal(data: LabeledImages) -> None:
    """Refuse to compare the speed of different answers: PIL's, cut and flipped as ours was, are the same pixels."""
    some = data.subset(torch.arange(min(CHECKED, len(data))))
    pictures = [Image.fromarray(image) for image in some.images.permute(0, 2, 3, 1).numpy()]
    _compare(device_evaluation_loader(some), pictures)
    _compare(device_training_loader(some, batch_size=len(some), epoch=0, seed=0), pictures)


def _compare(loader: DeviceLoader, pictures: list[Image.Image]) -> None:
    images = torch.cat([batch["image"] for batch in loader])
    moves = [(0, 0, 0)] * len(images) if loader.moves is None else loader.moves.tolist()
    for image, sample, (down, right, mirrored) in zip(images, loader.order.tolist(), moves, strict=True):
        padded = F.pad(pictures[sample], PADDING, padding_mode="reflect")
        expected = F.crop(padded, PADDING + down, PADDING + right, 32, 32)
        if not torch.equal(image, F.to_tensor(F.hflip(expected) if mirrored else expected)):
            raise SystemExit(f"sample {sample} differs from torchvision's; so no speed is compared")


def seconds(epoch: Epoch, number: int, images: int, device: torch.device) -> float:
    """Of one epoch, of which every batch is counted and none is kept."""
    start, count = time.perf_counter(), 0
    for _, labels in epoch(number):
        count += len(labels)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    taken = time.perf_counter() - start
    if count != images:
        raise SystemExit(f"an epoch had {count} images, not {images}")
    return taken


def load(path: Path | None, images: int) -> LabeledImages:
    """Images drawn at random from a data set, or random ones, which cost either side as much."""
    generator = torch.Generator().manual_seed(0)
    if path is not None:
        data = read_labeled_images(path)
        return data.subset(torch.randperm(len(data), generator=generator)[:images])
    pixels = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return LabeledImages(pixels, torch.arange(images) % 10, tuple(map(str, range(10))))


def main() -> None:
    """Measure and print a table."""
    parser = argument_parser(__doc__, repeats=5)
    parser.add_argument("--data", type=Path, help="archive or folder to read; by default random pixels")
    parser.add_argument("--images", type=int, default=10000, help="in an epoch, at most")
    parser.add_argument("--batch", type=int, nargs="+", default=(128, 512), help="batch sizes")
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 1, 2, 4), help="of the peer")
    args = parser.parse_args()
    data = load(args.data, args.images)
    check_equal(data)

    print_header(f"{len(data)} images of 32 x 32", args, ["torchvision", "pillow", "numpy"])
    rows = []
    for batch_size in args.batch:
        contenders = {"device_training_loader": ours(data.to(args.device), batch_size=batch_size)}
        contenders |= {
            f"DataLoader, PIL, {workers} workers": peer(
                data, batch_size=batch_size, workers=workers, device=args.device
            )
            for workers in args.workers
        }
        count = len(data) // batch_size * batch_size
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(args.repeats + 1):
            for name, epoch in contenders.items():
                taken = seconds(epoch, number, count, args.device)
                if number:
                    rates[name].append(count / taken)
        own, *others = (statistics.median(each) for each in rates.values())
        for name, each in rates.items():
            rate = statistics.median(each)
            ratio = f"{own / rate:.1f}x" + (" *" if rate == max(others) else "")
            rows.append([str(batch_size), name, digits(rate), spread(each, 1), digits(1e3 * batch_size / rate), ratio])
    print_table((">batch", "loader", ">images/s", ">least - most", ">ms a batch", ">ours is"), rows)
    print("* against the peer at its best number of workers")


if __name__ == "__main__":
    main()
