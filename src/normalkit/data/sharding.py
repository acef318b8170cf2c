"""Writing a data set as shards; see `normalkit.data.shards` for what they hold."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision.transforms.v2 import functional as F

from normalkit.codec import encode_normals, read_normals, stated_convention
from normalkit.data.loader import leave_signals
from normalkit.data.pairs import Sources
from normalkit.data.sample import Sample
from normalkit.data.shards import IMAGE_SUFFIXES, MANIFEST_FILE, Manifest, Shard, ShardIndex
from normalkit.files import atomic_file, check_writable
from normalkit.geometry import Convention, normalize
from normalkit.images import read_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LabelFormat", "write_shards"]

LabelFormat = Literal["png", "png16", "npy"]


def write_shards(
    dataset: Dataset[Sample],
    out: str | os.PathLike[str],
    *,
    samples_per_shard: int = 1000,
    normals: LabelFormat = "png16",
    convention: Convention | str | None = None,
    shuffle: int | None = None,
    part: tuple[int, int] = (0, 1),
    workers: int = 0,
    progress: bool = True,
) -> Manifest:
    """Write a data set as tar shards, or go on with it where it was broken off.

    A picture file whose pixels are the sample's image is copied as it is, and so is a PNG file that gives the sample's
    label in the shards' convention. Other images are written as PNG, without loss, and other labels as `normals` says.
    Each shard is written whole or not at all; those that are there are left alone.

    Args:
        dataset: Map-style, of sample dicts; see `normalkit.data.sample`. What its transform draws at random is kept.
        out: Folder of the shards; made if missing.
        samples_per_shard: The field's rule of thumb is shards of 100 MB to 1 GB.
        normals: "png16" keeps directions to 0.0016 degrees, "png" to 0.39, "npy" to float32's rounding.
        convention: The axes of the label files; None for those of the data set's own files, or `OPENCV` where it has
            none.
        shuffle: Put the samples in an order drawn with this seed, for training: neighbours in a shard are read
            together, and frames of one video are alike. None keeps the data set's order.
        part: (i, n) writes every n-th shard from the i-th on, for n jobs that write into one folder; the last to be
            ready completes the manifest.
        workers: Processes that write, a shard each; 0 writes in this one.
        progress: Whether to show a progress bar.

    Returns:
        The manifest; its `shards` are None while other parts are still being written.

    Raises:
        ValueError: An argument is out of range, the folder holds shards of something else, or a sample is unusable.
        TypeError: Such samples cannot be written.
        OSError: The folder cannot be written.
    """
    size = len(dataset)  # type: ignore[arg-type]
    _check(size, samples_per_shard, normals, part)
    out = Path(out)
    order = np.arange(size) if shuffle is None else np.random.default_rng(shuffle).permutation(size)
    first = int(order[0])
    chosen = _own_convention(dataset, first) if convention is None else Convention.parse(convention)
    name = str(dataset[first]["name"])
    plan = _start(out, Manifest(size, samples_per_shard, chosen, normals, shuffle, name))
    numbers = range(-(-size // samples_per_shard))
    writer = _Writer(dataset, out, plan, order, [n for n in numbers[part[0] :: part[1]] if not _is_done(out, n)])
    jobs: DataLoader[Any] = DataLoader(writer, batch_size=None, num_workers=workers, worker_init_fn=leave_signals)
    for _ in _bar(jobs, len(numbers[part[0] :: part[1]]), progress):
        pass
    return _finish(out, plan, len(numbers))


class _Writer(Dataset[int]):
    """Item i writes the i-th of the shards that are left; so a loader's workers write them side by side."""

    def __init__(
        self, dataset: Dataset[Sample], out: Path, plan: Manifest, order: NDArray[np.int64], left: list[int]
    ) -> None:
        self.dataset, self.out, self.plan, self.order, self.left = dataset, out, plan, order, left

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, item: int) -> int:
        number = self.left[item]
        begin = number * self.plan.samples_per_shard
        offsets, checksums = [0], []
        path = self.out / _shard_name(number)
        with atomic_file(path) as temporary, open(temporary, "wb") as file:
            for i in range(begin, min(begin + self.plan.samples_per_shard, self.plan.samples)):
                record = self._record(i)
                file.write(record)
                checksums.append(zlib.crc32(record))
                offsets.append(offsets[-1] + len(record))
            file.write(bytes(2 * tarfile.BLOCKSIZE))  # The end of a tar file.
        # After the tar, so that where there is an index the shard is whole.
        with atomic_file(path.with_suffix(".json")) as temporary:
            temporary.write_text(ShardIndex(np.array(offsets), np.array(checksums)).to_json(), encoding="utf-8")
        return number

    def _record(self, index: int) -> bytes:
        """The part of the tar file that holds a sample."""
        source = int(self.order[index])
        sample = self.dataset[source]
        files = _encode(sample, _sources(self.dataset, source), self.plan)
        buffer = io.BytesIO()
        for ending, data in files.items():
            # Nothing of this moment or machine: the same data give the same bytes.
            header = tarfile.TarInfo(f"{index:09d}{ending}")
            header.size = len(data)
            buffer.write(header.tobuf(tarfile.USTAR_FORMAT))
            buffer.write(data)
            buffer.write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return buffer.getvalue()


def _check(size: int, samples_per_shard: int, normals: str, part: tuple[int, int]) -> None:
    if size < 1:
        raise ValueError("dataset is empty; there is nothing to write")
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard={samples_per_shard}: wanted at least 1")
    if normals not in ("png", "png16", "npy"):
        raise ValueError(f"normals={normals!r}: wanted 'png', 'png16' or 'npy'")
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"part={part}: wanted (i, n) with i from 0 to n - 1")


def _start(out: Path, plan: Manifest) -> Manifest:
    """Lay out the folder, or find out whether it is of this writing."""
    check_writable(out)
    path = out / MANIFEST_FILE
    if not path.exists():
        if any(out.glob("*.tar")):
            raise ValueError(f"{out}: holds .tar files, but no {MANIFEST_FILE}; choose an empty folder")
        with atomic_file(path) as temporary:
            temporary.write_text(plan.to_json(), encoding="utf-8")
        return plan
    theirs = dataclasses.replace(Manifest.from_json(path.read_bytes(), str(path)), shards=None)
    for field in dataclasses.fields(Manifest):
        old, new = getattr(theirs, field.name), getattr(plan, field.name)
        if old != new:
            raise ValueError(
                f"{path}: the shards there have {field.name}={_show(old)}, this writing {_show(new)}; use the same "
                "data and options to go on with them, or another folder"
            )
    return plan


def _show(value: Any) -> Any:
    return value.name if isinstance(value, Convention) else repr(value)


def _finish(out: Path, plan: Manifest, count: int) -> Manifest:
    """Complete the manifest, once every part's shards are there."""
    if not all(_is_done(out, number) for number in range(count)):
        return plan
    shards = []
    for number in range(count):
        path = out / _shard_name(number)
        samples = min(plan.samples_per_shard, plan.samples - number * plan.samples_per_shard)
        shards.append(Shard(path.name, samples, path.stat().st_size))
        ShardIndex.from_json(path.with_suffix(".json").read_bytes(), str(path.with_suffix(".json")), shards[-1])
    whole = dataclasses.replace(plan, shards=tuple(shards))
    with atomic_file(out / MANIFEST_FILE) as temporary:
        temporary.write_text(whole.to_json(), encoding="utf-8")
    return whole


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def _is_done(out: Path, number: int) -> bool:
    path = out / _shard_name(number)
    return path.is_file() and path.with_suffix(".json").is_file()


def _sources(dataset: Any, index: int) -> Sources | None:
    """The files that a sample of a data set, or of a part or a chain of some, comes from; None where it has none."""
    while isinstance(dataset, Subset | ConcatDataset):
        if isinstance(dataset, Subset):
            dataset, index = dataset.dataset, dataset.indices[index]
        else:
            number = int(np.searchsorted(dataset.cumulative_sizes, index, side="right"))
            index -= dataset.cumulative_sizes[number - 1] if number else 0
            dataset = dataset.datasets[number]
    found: Sources | None = dataset.sources(index) if hasattr(dataset, "sources") else None
    return found


def _own_convention(dataset: Dataset[Sample], index: int) -> Convention:
    sources = _sources(dataset, index)
    if sources is None or sources.normals is None:
        return Convention.OPENCV
    return sources.convention or stated_convention(sources.normals) or Convention.OPENCV


def _encode(sample: Sample, sources: Sources | None, plan: Manifest) -> dict[str, bytes]:
    """The files of a sample, by what follows their key."""
    _check_keys(sample)
    name = str(sample["name"])
    known = bool(sample["intrinsics"].isfinite().all())
    facts = {
        "name": name,
        "convention": plan.convention.name,
        "intrinsics": sample["intrinsics"].tolist() if known else None,
    }
    files = {".json": json.dumps(facts).encode()}
    files |= _encode_image(sample["image"], sources)
    files |= _encode_label(sample["normals"], sample["mask"], sources, plan)
    if "depth" in sample:
        files[".depth.npy"] = _npy(sample["depth"])
    return files


def _check_keys(sample: Sample) -> None:
    wanted = {"image", "normals", "mask", "intrinsics", "name"}
    for problem, keys in (("lacks", wanted - sample.keys()), ("also has", sample.keys() - wanted - {"depth"})):
        if keys:
            raise TypeError(
                f"sample {sample.get('name')!r} {problem} {', '.join(sorted(keys))}; shards hold what "
                "normalkit.data.sample.make_sample gives"
            )


def _encode_image(image: Tensor, sources: Sources | None) -> dict[str, bytes]:
    codes = (image * 255).round().to(torch.uint8)
    if not torch.equal(F.to_dtype(codes, torch.float32, scale=True), image):
        return {".image.npy": _npy(image)}
    if sources is not None:
        suffix = sources.image.suffix.lower()
        if suffix in IMAGE_SUFFIXES and suffix != ".npy" and torch.equal(read_image(sources.image), codes):
            return {f".image{suffix}": sources.image.read_bytes()}
    return {".image.png": _png(codes.permute(1, 2, 0).numpy()[..., ::-1])}


def _encode_label(normals: Tensor, mask: Tensor, sources: Sources | None, plan: Manifest) -> dict[str, bytes]:
    copied = None if sources is None else _copied_label(normals, mask, sources, plan.convention)
    if copied is not None:
        return copied
    suffix = ".npy" if plan.normals == "npy" else ".png"
    bits = 16 if plan.normals == "png16" else 8
    data = encode_normals(normals, mask, suffix=suffix, convention=plan.convention, bits=bits)
    return {f".normals{suffix}": data}


def _copied_label(normals: Tensor, mask: Tensor, sources: Sources, convention: Convention) -> dict[str, bytes] | None:
    """The label's file, and a mask where it needs one; None where that would not be the label."""
    path = sources.normals
    if path is None or path.suffix.lower() != ".png":
        return None
    if (sources.convention or stated_convention(path)) != convention:
        return None
    theirs, valid = read_normals(path, convention=convention)
    # As `make_sample` leaves a label.
    made = torch.where(mask, normalize(theirs, dim=0), 0) if theirs.shape == normals.shape else theirs
    if not torch.equal(made, normals):
        return None
    files = {".normals.png": path.read_bytes()}
    return files if torch.equal(valid, mask) else {**files, ".mask.png": _png(mask.numpy().astype(np.uint8) * 255)}


def _png(pixels: NDArray[Any]) -> bytes:
    import cv2

    ok, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not ok:
        raise ValueError(f"a picture of shape {pixels.shape} does not fit a PNG")
    return encoded.tobytes()


def _npy(values: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.float().numpy())
    return buffer.getvalue()


def _bar(jobs: DataLoader[Any], total: int, show: bool) -> Any:
    if not show:
        return jobs
    from tqdm import tqdm

    return tqdm(jobs, desc="writing shards", total=total, initial=total - len(jobs), leave=False, dynamic_ncols=True)
