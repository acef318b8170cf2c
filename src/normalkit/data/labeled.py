"""Images with class labels, whole in memory: a data set as small as CIFAR-10 is read once and never waited for."""

from __future__ import annotations

import io
import lzma
import os
import re
import tarfile
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from normalkit.files import check_links, check_writable
from normalkit.images import FORMATS, FileBytes, check_png, check_readable, pillow_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LabeledImages", "read_labeled_images"]

MAX_SIDE = 1024
"""Pixels; 10,000 larger pictures would take more than 30 GB, and all are held in memory."""
MAX_BYTES = 20_000_000
"""Of one file; a picture of `MAX_SIDE` needs 3 MB without any compression."""
MAX_EXPANSION = 100
"""Times that an archive may be longer unpacked than packed, if more than `FREE_BYTES`; pictures hardly shrink."""
FREE_BYTES = 1_000_000_000
MAX_HEADER = 100_000
"""Bytes of a member's long name or other facts, which tarfile reads whole; a path has a few hundred."""
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Of files that are taken for pictures; those of `normalkit.images.FORMATS`."""

_BATCHES = "cifar-10-batches-py"
_CIFAR10_SIZE = (32, 32)
_CIFAR10_SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images of one size with a class each.

    Attributes:
        images: (N, 3, H, W) uint8, RGB.
        labels: (N,) int64, places in `classes`; on the device of the images.
        classes: The names of the classes.

    Raises:
        ValueError: A field has another shape, there is no image, the devices differ, a label has no class, or two
            classes have one name.
        TypeError: A field is of another type or dtype.

    Examples:
        >>> data = LabeledImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 1, 0]), ("cat", "dog"))
        >>> rest, held_out = data.split(2, seed=0)
        >>> rest.labels.tolist(), held_out.labels.tolist()
        ([1, 0], [0, 1])
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse fields that do not fit together."""
        for field, dtype in (("images", torch.uint8), ("labels", torch.int64)):
            value = getattr(self, field)
            if not isinstance(value, Tensor) or value.dtype != dtype:
                came = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{field} is {came}; wanted a tensor of {dtype}")
        if not isinstance(self.classes, tuple) or not all(isinstance(name, str) for name in self.classes):
            raise TypeError(f"classes={self.classes!r}: wanted a tuple of names")
        _check_unique(self.classes)
        shape = tuple(self.images.shape)
        if len(shape) != 4 or shape[1] != 3 or 0 in shape:
            raise ValueError(f"images has shape {shape}; wanted (N, 3, H, W) with at least one image")
        if self.labels.shape != shape[:1]:
            raise ValueError(f"labels has shape {tuple(self.labels.shape)}; wanted ({shape[0]},), one for each image")
        if self.labels.device != self.images.device:
            raise ValueError(
                f"labels is on {self.labels.device}, images on {self.images.device}; make both on one device, and move "
                "them together with .to(device)"
            )
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise ValueError(
                f"labels has values from {low} to {high}; wanted 0 to {len(self.classes) - 1}, places in classes"
            )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def to(self, device: torch.device | str) -> LabeledImages:
        """The same on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices: Tensor | Sequence[int]) -> LabeledImages:
        """Some of the images, with the classes of all.

        Args:
            indices: (M,) integers in [0, N), in the order that is wanted.

        Raises:
            IndexError: One is out of range.
            TypeError: They are no integers.
            ValueError: There are none, or they have several dimensions.
        """
        chosen = torch.as_tensor(indices)
        if chosen.ndim != 1 or len(chosen) == 0:
            raise ValueError(f"indices has shape {tuple(chosen.shape)}; wanted (M,), at least one")
        if chosen.dtype == torch.bool or chosen.is_floating_point():
            raise TypeError(f"indices is {chosen.dtype}; wanted integers: mask.nonzero().flatten() of a mask")
        chosen = chosen.to(self.images.device, torch.int64)
        low, high = int(chosen.min()), int(chosen.max())
        if low < 0 or high >= len(self):
            raise IndexError(f"indices has values from {low} to {high}; wanted 0 to {len(self) - 1}")
        return replace(self, images=self.images.index_select(0, chosen), labels=self.labels.index_select(0, chosen))

    def split(self, count: int, *, seed: int) -> tuple[LabeledImages, LabeledImages]:
        """Hold some images out at random, each class in its share.

        A class's share of `count` is rounded down, and what is then missing goes to the largest remainders.

        Args:
            count: Images to hold out.
            seed: Of the draw; the same on every device.

        Returns:
            The rest and the `count` that are held out, both in the order that they had.

        Raises:
            ValueError: `count` is not in [1, N - 1], or a class would have no image left in the rest.
        """
        if not 1 <= count < len(self):
            raise ValueError(f"count={count}: wanted 1 to {len(self) - 1}, of {len(self)} images")
        labels = self.labels.cpu()
        sizes = torch.bincount(labels, minlength=len(self.classes))
        shares = sizes * count // len(self)
        remainders = sizes * count % len(self)
        shares[remainders.argsort(descending=True, stable=True)[: count - int(shares.sum())]] += 1
        for name, size, share in zip(self.classes, sizes.tolist(), shares.tolist(), strict=True):
            if 0 < size <= share:
                raise ValueError(
                    f"count={count}: all of the {size} image(s) of class {name!r} would be held out; hold out fewer, "
                    "or remove the class"
                )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        held_out = torch.zeros(len(self), dtype=torch.bool)
        for label, share in enumerate(shares.tolist()):
            held_out[order[labels[order] == label][:share]] = True
        return self.subset((~held_out).nonzero().flatten()), self.subset(held_out.nonzero().flatten())


class _Picture(NamedTuple):
    """A file that is yet to be decoded."""

    label: str
    name: str
    where: str
    data: bytes


def read_labeled_images(
    root: str | os.PathLike[str],
    *,
    split: str = "train",
    classes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    download: bool = False,
    progress: bool = True,
) -> LabeledImages:
    """Read a data set of small pictures in one of three forms.

    - A tar archive, compressed or not, with members `<split>/<class>/<name>.jpg` (or .png and so on). It is read
      once from end to end, and nothing is unpacked to the disk.
    - A folder with files `<split>/<class>/<name>.jpg`.
    - A folder without `<split>/` but with CIFAR-10 as torchvision keeps it, in `cifar-10-batches-py`; its splits
      are "train" and "test".

    `root` is always what holds the split, never the split's own folder. What lies beside the split is not looked
    at, nor is anything whose name starts with a dot. Pictures are 8-bit RGB of one size, not above 1024 x 1024; they
    are turned upright by their EXIF orientation and not converted otherwise.

    Args:
        root: The archive or the folder.
        split: Which part of it.
        classes: The classes in the order that their labels are to have, such as a checkpoint's; the data must
            have exactly these. By default those of the data, in the order of their names.
        size: Height and width that the pictures are to have, such as a network's; by default those of the first.
        download: Whether CIFAR-10 is to be put into the folder `root` where neither it nor `<split>/` is there. A
            `cifar-10-python.tar.gz` that already lies in the folder is unpacked, not fetched.
        progress: Whether to show a progress bar.

    Returns:
        The images on the CPU. Those of files are in the order of their classes, then of their names, where numbers
        count as numbers: 2.jpg comes before 10.jpg. CIFAR-10 of torchvision has its own order.

    Raises:
        FileNotFoundError: `root` does not exist or has no such split; the message lists those it has.
        OSError: A file may not be read, or the download failed.
        ValueError: The archive is broken, cut short, or none, or unpacks to far more than its size; a member's path
            leads out of the archive, or a link out of the folder; a class has no picture, or there is but one class; a
            file is no picture, broken, too large, not RGB, or not of `size` or the first one's; or the classes are not
            `classes`. The message names the file.

    Examples:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog"):
        ...     (root / "train" / name).mkdir(parents=True)
        ...     Image.new("RGB", (32, 32), "tan").save(root / "train" / name / "1.png")
        >>> data = read_labeled_images(root, progress=False)
        >>> data.images.shape, data.labels.tolist(), data.classes
        (torch.Size([2, 3, 32, 32]), [0, 1], ('cat', 'dog'))
    """
    root = Path(root)
    wanted = _check_arguments(split, classes)
    if download and root.is_file():
        raise ValueError(f"{root} is a file; with download=True wanted the folder to put CIFAR-10 into")
    if not download and not root.exists():
        raise FileNotFoundError(
            f"{root} does not exist; check the spelling and the current folder, or have CIFAR-10 put there with "
            "download=True"
        )
    if not root.is_file() and not (root / split).is_dir() and (download or (root / _BATCHES).exists()):
        if size not in (None, _CIFAR10_SIZE):
            raise ValueError(
                f"{root}: CIFAR-10 of torchvision, whose pictures are 32 x 32; wanted {size[1]} x {size[0]}"
            )
        return _read_cifar10(root, split, wanted, download=download)
    pictures, total = (_archive(root, split, wanted), None) if root.is_file() else _tree(root, split, wanted)
    return _decode_all(pictures, wanted, size=size, total=total, progress=progress)


def _check_arguments(split: str, classes: Sequence[str] | None) -> tuple[str, ...] | None:
    if not split or "/" in split or split.startswith("."):
        raise ValueError(f"split={split!r}: wanted the name of a folder, such as 'train'")
    if classes is None:
        return None
    if isinstance(classes, str) or len(classes) < 2:
        raise ValueError(f"classes={classes!r}: wanted at least two names")
    _check_unique(classes)
    return tuple(classes)


def _check_unique(classes: Sequence[str]) -> None:
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise ValueError(f"classes names {', '.join(twice)} more than once; wanted each once")


def _check_classes(where: str, counts: Mapping[str, int], wanted: tuple[str, ...] | None) -> None:
    """Refuse classes without pictures, too few classes, and others than those that are wanted."""
    empty = sorted(name for name, count in counts.items() if count == 0)
    if empty:
        raise ValueError(f"{where}: no pictures of {', '.join(empty)}; put some in, or remove the folder")
    if wanted is not None and set(counts) != set(wanted):
        missing = [name for name in wanted if name not in counts]
        extra = sorted(set(counts) - set(wanted))
        parts = [f"has no {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(extra)}"] * bool(extra)
        raise ValueError(
            f"{where} {' and '.join(parts)}; wanted exactly the classes {', '.join(wanted)}: rename or complete the "
            "data, or change classes="
        )
    if len(counts) < 2:
        found = f"only the class {', '.join(counts)}" if counts else "no class"
        raise ValueError(f"{where}: {found}; wanted a folder for each of at least two classes")


def _check_name(where: str, name: str) -> None:
    if not name.lower().endswith(SUFFIXES):
        raise ValueError(f"{where}: not a picture ({', '.join(SUFFIXES)}); move it out of the split")


def _no_split(root: Path, split: str, found: Iterable[str]) -> FileNotFoundError:
    has = ", ".join(sorted(found)[:10]) or "no folder"
    return FileNotFoundError(
        f"{root}: has no split={split!r}; it has {has}. Wanted {split}/<class>/<name>.jpg: name another split, or give "
        f"what holds {split}/"
    )


def _tree(root: Path, split: str, wanted: tuple[str, ...] | None) -> tuple[Iterator[_Picture], int]:
    """The files of a split, of which the names are checked first, and how many they are."""
    if not (root / split).is_dir():
        if root.name == _BATCHES:
            raise FileNotFoundError(f"{root}: CIFAR-10 of torchvision; give the folder it lies in")
        raise _no_split(root, split, (path.name for path in _visible(root) if path.is_dir()))
    files: dict[str, list[Path]] = {}
    for folder in _visible(root / split):
        if not folder.is_dir():
            raise ValueError(f"{folder}: a file among the folders of the classes; move it out of the split")
        files[folder.name] = _visible(folder)
        for path in files[folder.name]:
            if path.is_dir():
                raise ValueError(f"{path}: a folder among the pictures of {folder.name}; move it out of the split")
            _check_name(str(path), path.name)
        check_links(root, files[folder.name] or [folder])
    _check_classes(str(root / split), {name: len(paths) for name, paths in files.items()}, wanted)

    def read() -> Iterator[_Picture]:
        for name, paths in files.items():
            for path in paths:
                _check_bytes(str(path), path.stat().st_size)
                yield _Picture(name, path.name, str(path), path.read_bytes())

    return read(), sum(map(len, files.values()))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _archive(root: Path, split: str, wanted: tuple[str, ...] | None) -> Iterator[_Picture]:
    """The members of a split as they come; whether classes lack is known when all have."""
    counts: dict[str, int] = {}
    others: set[str] = set()
    seen: set[tuple[str, str]] = set()
    check_readable(root)
    with _archive_errors(root), tarfile.open(root, "r|*", tarinfo=_Header) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            parts = path.parts
            where = f"{root}: {member.name}"
            if parts[:1] == (split,):
                _check_bytes(where, member.size)
            _check_expansion(root, member.offset_data + member.size)
            if ".." in parts or path.is_absolute():
                raise ValueError(f"{where}: leads out of the archive; make it anew without")
            if any(part.startswith(".") for part in parts):
                continue
            if parts[:1] != (split,):
                others.update(parts[:1] if member.isdir() or len(parts) > 1 else ())
                continue
            if member.isdir() and len(parts) <= 2:
                counts |= {name: counts.get(name, 0) for name in parts[1:]}
                continue
            if len(parts) != 3 or not member.isreg():
                raise ValueError(f"{where}: wanted files {split}/<class>/<name>.jpg alone: make the archive without it")
            label, name = parts[1:]
            _check_name(where, name)
            if wanted is not None and label not in wanted:
                _check_classes(f"{root}: {split}", dict.fromkeys((*wanted, label), 1), wanted)
            if (label, name) in seen:
                raise ValueError(f"{where}: is in the archive twice; make the archive anew")
            seen.add((label, name))
            counts[label] = counts.get(label, 0) + 1
            file = archive.extractfile(member)
            assert file is not None
            yield _Picture(label, name, where, file.read())
        _check_end(root, archive)
    if _BATCHES in others and not counts:
        raise ValueError(
            f"{root}: CIFAR-10's own archive, in which pictures are no files; give the folder it lies in, with "
            "download=True, which unpacks it"
        )
    if not counts:
        raise _no_split(root, split, others)
    _check_classes(f"{root}: {split}", counts, wanted)


@contextmanager
def _archive_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(
            f"{root}: not a tar archive, or cut short, or broken ({error}); fetch or make it again"
        ) from error


class _Header(tarfile.TarInfo):
    """A member's header; it refuses those of which tarfile would read any length into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> _Header:
        """As tarfile calls it."""
        header = super().frombuf(buf, encoding or "utf-8", errors)
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"{header.name} is kept with holes; pack it without --sparse")
        if header.type in (*_LONG_HEADERS, *_PAX_HEADERS) and header.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header


_LONG_HEADERS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


def _check_expansion(root: Path, unpacked: int) -> None:
    """Refuse a small archive that would unpack for hours."""
    size = root.stat().st_size
    if unpacked > max(FREE_BYTES, MAX_EXPANSION * size):
        raise ValueError(
            f"{root}: {size:,} bytes that unpack to {unpacked:,} or more, as no pictures do; pack the split alone"
        )


def _check_end(root: Path, archive: tarfile.TarFile) -> None:
    """Refuse an archive that lacks its end, two blocks of zeros: tarfile takes a cut or a broken header for it."""
    stream: Any = archive.fileobj
    left = 0
    while block := stream.read(tarfile.RECORDSIZE):
        left += len(block)
        _check_expansion(root, archive.offset + left)
        if block.strip(b"\0"):
            raise tarfile.ReadError("something else stands where its end should be")
    # The first of the two blocks has been read.
    if not left:
        raise tarfile.ReadError("its end is missing")


def _check_bytes(where: str, size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"{where}: has {size:,} bytes; wanted at most {MAX_BYTES:,}: shrink the picture")


def _decode_all(
    pictures: Iterable[_Picture],
    wanted: tuple[str, ...] | None,
    *,
    size: tuple[int, int] | None,
    total: int | None,
    progress: bool,
) -> LabeledImages:
    from tqdm import tqdm

    keys: list[tuple[str, str]] = []
    pixels: list[NDArray[np.uint8]] = []
    first = ""
    with warnings.catch_warnings():
        # `_decode` refuses what the warning is about.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for label, name, where, data in tqdm(
            pictures, desc="reading images", total=total, unit=" images", leave=False, disable=not progress
        ):
            array = _decode(data, where)
            first = first or where
            if size is not None and array.shape[:2] != size:
                raise ValueError(f"{where} is {_size(array)}; wanted {size[1]} x {size[0]}: resize the pictures")
            if pixels and array.shape != pixels[0].shape:
                raise ValueError(
                    f"{where} is {_size(array)}, but {first} is {_size(pixels[0])}; wanted one size: resize them"
                )
            keys.append((label, name))
            pixels.append(array)
    classes = wanted or tuple(sorted({label for label, _ in keys}))
    numbers = {name: number for number, name in enumerate(classes)}
    order = sorted(range(len(keys)), key=lambda i: (numbers[keys[i][0]], _natural(keys[i][1])))
    images = np.empty((len(order), 3, *pixels[0].shape[:2]), np.uint8)
    for place, index in enumerate(order):
        images[place] = pixels[index].transpose(2, 0, 1)
    labels = torch.tensor([numbers[keys[index][0]] for index in order])
    return LabeledImages(torch.from_numpy(images), labels, classes)


def _decode(data: bytes, where: str) -> NDArray[np.uint8]:
    """(H, W, 3)."""
    with pillow_errors(where, FORMATS):
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = picture.size
    if max(width, height) > MAX_SIDE:
        raise ValueError(
            f"{where}: is {width} x {height}; wanted at most {MAX_SIDE} x {MAX_SIDE}, since all are kept in memory: "
            "shrink them"
        )
    # Pillow makes 8 bits of 16 as it reads, and only the name of the bytes' order tells.
    deep = any(";16" in str(tile[3]) for tile in picture.tile)
    if picture.mode != "RGB" or deep:
        mode = f"{picture.mode} of 16 bits" if deep else picture.mode
        raise ValueError(
            f"{where}: its mode is {mode}; wanted 8-bit RGB: convert it, as with .convert('RGB') of Pillow"
        )
    check_png(FileBytes(where, data), picture)
    with pillow_errors(where, FORMATS):
        picture.load()
        if "exif" in picture.info:
            ImageOps.exif_transpose(picture, in_place=True)
        return np.asarray(picture)


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key by which numbers in names are ordered as numbers; the name itself decides between 1 and 01."""
    texts = re.split("([0-9]+)", name)
    # A number is greater if it has more digits, and among equally many as text is.
    numbers = [text.lstrip("0") for text in texts[1::2]] + [""]
    parts = [
        part for text, number in zip(texts[::2], numbers, strict=True) for part in ((0, text), (len(number), number))
    ]
    return parts, name


def _read_cifar10(root: Path, split: str, wanted: tuple[str, ...] | None, *, download: bool) -> LabeledImages:
    from torchvision.datasets import CIFAR10

    if split not in _CIFAR10_SPLITS:
        raise FileNotFoundError(f"{root}: has no split={split!r}; CIFAR-10 has {' and '.join(_CIFAR10_SPLITS)}")
    if download:
        check_writable(root)
    try:
        data = CIFAR10(os.fspath(root), train=split == "train", download=download)
    except (OSError, RuntimeError, HTTPException, EOFError, tarfile.TarError) as error:
        if not download:
            # Of a file that may not be read the error tells the name.
            broken = _broken_batches(root) if isinstance(error, RuntimeError) else f"a file ({error})"
            raise ValueError(
                f"{root / _BATCHES}: {broken} is missing or broken; remove the folder, and read it with download=True"
            ) from error
        raise OSError(
            f"{root}: the download of CIFAR-10 failed ({error}). Two other ways: fetch {CIFAR10.filename} by hand from "
            f"{CIFAR10.url} into this folder, and call this again; or give an archive or a folder of pictures, "
            f"{split}/<class>/<name>.png"
        ) from error
    names = tuple(data.classes)
    labels = torch.tensor(data.targets)
    _check_classes(f"{root}: CIFAR-10", dict.fromkeys(names, 1), wanted)
    if wanted is not None:
        labels = torch.tensor([wanted.index(name) for name in names])[labels]
    images = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
    return LabeledImages(torch.from_numpy(images), labels, wanted or names)


def _broken_batches(root: Path) -> str:
    """The files of torchvision's CIFAR-10 that are not as they were published; torchvision does not say which."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    published = [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
    return ", ".join(name for name, md5 in published if not check_integrity(os.fspath(root / _BATCHES / name), md5))
