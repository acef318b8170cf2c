"""Samples a second that one core writes into shards, and reads from them, beside a folder of files and webdataset.

The pictures are generated rooms, or with `--data` those of a data set; they are first written as pairs of files. The
peers of the reader are `NormalFolder` on those files, and the package `webdataset` on the same shards, with the same
decoding. All read in order, in one process, from files that the system holds in memory: what is timed is the
processor's work, in its own seconds, which other work on the machine delays but does not count for. What a disk or
network adds comes on top, and is hidden by loader processes as long as the bytes a second allow.

    python benchmarks/shards.py --pictures 24 --size 512 512
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from measurement import processor
from PIL import Image
from torch.utils.data import Dataset

from normalkit import NormalFolder, ShardedNormals, SyntheticRooms
from normalkit.codec import write_normals
from normalkit.data import open_dataset, shard_evaluation_loader, write_shards
from normalkit.transforms import training_transform

SHARD = 8


def write_files(data: Dataset[Any], folder: Path, count: int, suffix: str) -> float:
    """Pairs of files of the first samples; their bytes a sample."""
    for i in range(count):
        sample = data[i]
        pixels = (sample["image"] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{i:06d}_img{suffix}", quality=95)
        write_normals(folder / f"{i:06d}_normal.png", sample["normals"], sample["mask"])
    return sum(path.stat().st_size for path in folder.iterdir()) / count


def seconds(work: Callable[[], Any]) -> float:
    """Of processor time, in all threads of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def from_webdataset(shards: ShardedNormals) -> Iterator[dict[str, Any]]:
    """The samples, of which webdataset reads the files and this library makes the tensors."""
    from webdataset import WebDataset

    from normalkit.codec import read_normals
    from normalkit.data.sample import make_sample
    from normalkit.images import FileBytes, read_image

    urls = [f"{shards.url}/{shard.file}" for shard in shards.shards]
    for files in WebDataset(urls, shardshuffle=False):
        picture = next(name for name in files if name.startswith("image."))
        normals, mask = read_normals(FileBytes("normals.png", files["normals.png"]), convention=None)
        image = read_image(FileBytes(picture, files[picture]))
        yield make_sample(image, normals, mask, None, files["__key__"])


def one_by_one(data: Dataset[Any], count: int) -> Iterator[dict[str, Any]]:
    """As a loader without workers does."""
    return (data[i] for i in range(count))


def in_order(shards: ShardedNormals) -> Iterator[dict[str, Any]]:
    """As training reads, but for the shuffling."""
    for batch in shard_evaluation_loader(shards, batch_size=1, workers=0):
        yield {name: batch[name][0] for name in ("image", "normals", "mask")}


def check_equal(one: Iterable[dict[str, Any]], other: Iterable[dict[str, Any]]) -> None:
    """Refuse to compare the speed of different answers."""
    for a, b in zip(one, other, strict=True):
        if not all(torch.equal(a[name], b[name]) for name in ("image", "normals", "mask")):
            raise SystemExit("samples differ, so no speed is compared")


def readers(files: NormalFolder, shards: ShardedNormals, size: tuple[int, int]) -> dict[str, Callable[[], Any]]:
    """What is compared; each reads all samples."""
    augmented = ShardedNormals(shards.url, transform=training_transform(size))
    found = {
        "a folder of files": lambda: one_by_one(files, len(files)),
        "shards, webdataset": lambda: from_webdataset(shards),
        "shards": lambda: in_order(shards),
    }
    check_equal(found["a folder of files"](), found["shards, webdataset"]())
    check_equal(found["a folder of files"](), found["shards"]())
    return {**found, f"shards, augmented at {size[1]} x {size[0]}": lambda: in_order(augmented)}


def show(name: str, rates: list[float], bytes_each: float) -> None:
    """A row of the table."""
    spread = f"{min(rates):,.1f} - {max(rates):,.1f}"
    print(f"{name:38}{statistics.median(rates):12,.1f}{spread:>18}{bytes_each / 1e3:14,.0f}")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="data set to take pictures from; by default generated rooms")
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), help="height and width of those rooms")
    parser.add_argument("--train-size", type=int, nargs=2, default=(160, 224), help="height and width after augmenting")
    parser.add_argument("--pictures", type=int, default=16, help="at most")
    parser.add_argument("--suffix", default=".jpg", help="of the picture files: .jpg or .png")
    parser.add_argument("--repeats", type=int, default=3, help="timed, after one that is not")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rooms = SyntheticRooms(args.pictures, size=tuple(args.size), seed=0)
    data = rooms if args.data is None else open_dataset(args.data)
    count = min(args.pictures, len(data))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "files"
        folder.mkdir()
        each = write_files(data, folder, count, args.suffix)
        files = NormalFolder(folder, images=f"*_img{args.suffix}", convention=None, check=False)
        height, width = files[0]["mask"].shape
        print(f"{count} pictures of {width} x {height}, 1 thread, {os.cpu_count()} cores of {processor()}")
        packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "webdataset", "fsspec", "pillow"))
        print(f"load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, {packages}\n")
        print(f"{'':38}{'samples/s':>12}{'least - most':>18}{'kB a sample':>14}")

        writing: dict[str, list[float]] = {"writing shards, files copied": [], "writing shards, labels to PNG16": []}
        sizes = []
        for turn in range(args.repeats + 1):
            for name, convention in zip(writing, ("OPENCV", "OPENGL"), strict=True):
                out = Path(temporary) / f"{convention}-{turn}"

                def write(out: Path = out, convention: str = convention) -> Any:
                    return write_shards(files, out, samples_per_shard=SHARD, convention=convention, progress=False)

                taken = seconds(write)
                sizes.append(sum(path.stat().st_size for path in out.glob("*.tar")) / count)
                if turn:
                    writing[name].append(count / taken)
        for (name, rates), size in zip(writing.items(), sizes, strict=False):
            show(name, rates, size)

        shards = ShardedNormals(Path(temporary) / "OPENCV-0")
        contenders = readers(files, shards, tuple(args.train_size))
        reading: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(args.repeats + 1):
            for name, make in contenders.items():
                taken = seconds(lambda make=make: sum(1 for _ in make()))
                if turn:
                    reading[name].append(count / taken)
        for name, rates in reading.items():
            show(name, rates, each if name == "a folder of files" else sizes[0])


if __name__ == "__main__":
    main()
