"""Data sets as tar files of some hundred samples each, in WebDataset's layout, on a disk or in object storage.

A folder of shards has a `manifest.json`, and beside each `shard-000000.tar` a `shard-000000.json` that says where in it
each sample begins. So any sample can be read by one request for a range of bytes, and any share of the samples from
front to back. In a shard the files of a sample have one key, as WebDataset wants it:

- `000000123.json`: its `name`, `convention`, and `intrinsics` or null;
- `000000123.image.png`, or `.jpg`, `.webp` and so on, a copy of the file that it came from; `.image.npy`, float32
  (3, H, W), where the image is not one of 8 bits;
- `000000123.normals.png` or `.normals.npy`: the label, as `normalkit.codec` reads it;
- `000000123.mask.png`, 0 where invalid, where the label does not say that itself;
- `000000123.depth.npy`, float32 (1, H, W), where the sample has depth.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from normalkit.codec import read_normals
from normalkit.data.sample import Sample, Transform, make_sample
from normalkit.files import check_links
from normalkit.geometry import Convention
from normalkit.images import FileBytes, read_image, read_mask, read_npy, size_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MANIFEST_FILE", "Manifest", "Shard", "ShardIndex", "ShardedNormals", "is_sharded"]

MANIFEST_FILE = "manifest.json"
FORMAT = "normalkit shards"
VERSION = 1
VALIDITY = "a pixel is invalid where its label is 0 (in a PNG 0, 0, 0), or where mask.png, if there is one, is 0"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".npy")
LABEL_SUFFIXES = (".png", ".npy")
REQUEST_BYTES = 8 << 20
"""Of samples behind one another, in one request: enough that a round trip to object storage is short beside it."""
MAX_SAMPLE_BYTES = 2**32
"""Of the largest pictures in float32; an index that claims more is broken or hostile."""
INDICES_KEPT = 256
"""Of the shards read last; one of 1000 samples takes 16 kB."""


@dataclass(frozen=True)
class Shard:
    """A tar file of the manifest."""

    file: str
    samples: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards is.

    Attributes:
        samples: Of all shards.
        samples_per_shard: The last shard has what is left.
        convention: The axes of the labels in the files.
        normals: How labels were written that are not copies of PNG files: "png", "png16" or "npy".
        shuffle: Seed by which the samples were put in another order than the data set's; None for its own.
        first: Name of the first sample, by which a resumed writing knows its data set.
        shards: None while they are being written.
    """

    samples: int
    samples_per_shard: int
    convention: Convention
    normals: str
    shuffle: int | None
    first: str
    shards: tuple[Shard, ...] | None = None

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        facts = {"format": FORMAT, "version": VERSION, "validity": VALIDITY, **self.__dict__}
        facts["convention"] = self.convention.name
        facts["shards"] = None if self.shards is None else [shard.__dict__ for shard in self.shards]
        return json.dumps(facts, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Manifest:
        """Read `manifest.json`.

        Args:
            text: What is in it.
            where: Its path, for messages.

        Raises:
            ValueError: It is none, of a later version, or its parts disagree.
        """
        try:
            facts = json.loads(text)
            known = facts["format"] == FORMAT
            version = facts["version"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{where}: not the manifest of shards that `normalkit shard` writes ({error!r})"
            ) from error
        if not known or version != VERSION:
            raise ValueError(
                f"{where}: has format {facts['format']!r}, version {version!r}; wanted {FORMAT!r}, version {VERSION}: "
                "write the shards anew with this version of normalkit"
            )
        try:
            shards = facts["shards"]
            return cls(
                samples=_count(facts["samples"]),
                samples_per_shard=_count(facts["samples_per_shard"]),
                convention=Convention.parse(facts["convention"]),
                normals=str(facts["normals"]),
                shuffle=facts["shuffle"],
                first=str(facts["first"]),
                shards=None if shards is None else _parse_shards(shards, facts["samples"]),
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{where}: {error}; copy the manifest again, or write the shards anew") from error


def _parse_shards(rows: Any, samples: int) -> tuple[Shard, ...]:
    shards = tuple(Shard(str(row["file"]), _count(row["samples"]), _count(row["bytes"])) for row in rows)
    for shard in shards:
        # It is joined to the folder's address; nothing outside the folder may be asked for.
        if not re.fullmatch(r"\w[\w.-]*\.tar", shard.file, re.ASCII):
            raise ValueError(f"names the shard {shard.file!r}; wanted plain names of .tar files in the same folder")
    if len({shard.file for shard in shards}) != len(shards):
        raise ValueError("names a shard twice")
    total = sum(shard.samples for shard in shards)
    if total != samples:
        raise ValueError(f"says {samples} samples, but its {len(shards)} shards have {total}")
    return shards


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value < 2**48:
        raise ValueError(f"has {value!r} where a number from 1 to 2**48 is wanted")
    return value


@dataclass(frozen=True)
class ShardIndex:
    """Where the samples of a shard are.

    Attributes:
        offsets: (N + 1,) int64; sample i is the bytes from offsets[i] to offsets[i + 1].
        checksums: (N,) int64; the CRC-32 of those bytes.
    """

    offsets: NDArray[np.int64]
    checksums: NDArray[np.int64]

    def to_json(self) -> str:
        """The text of a shard's index file."""
        return json.dumps({"offsets": self.offsets.tolist(), "crc32": self.checksums.tolist()}) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str, shard: Shard) -> ShardIndex:
        """Read a shard's index file.

        Raises:
            ValueError: It is none, or does not fit the shard of the manifest.
        """
        try:
            facts = json.loads(text)
            offsets, checksums = (np.array(facts[name], dtype=np.int64) for name in ("offsets", "crc32"))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ValueError(f"{where}: not the index of a shard ({error!r}); copy it again") from error
        if offsets.ndim != 1 or len(offsets) != shard.samples + 1 or checksums.shape != (shard.samples,):
            raise ValueError(
                f"{where}: has {len(checksums)} samples, but {MANIFEST_FILE} says that {shard.file} has "
                f"{shard.samples}; the files are not of one writing: copy them again"
            )
        if offsets[0] < 0 or offsets[-1] > shard.bytes or (np.diff(offsets) <= 0).any():
            raise ValueError(f"{where}: its offsets do not fit the {shard.bytes} bytes of {shard.file}; copy it again")
        largest = int(np.diff(offsets).max())
        if largest > MAX_SAMPLE_BYTES:
            raise ValueError(f"{where}: has a sample of {largest:,} bytes; wanted at most {MAX_SAMPLE_BYTES:,}")
        return cls(offsets, checksums)


class ShardedNormals(Dataset[Sample]):
    """Samples in shards, as `normalkit.data.sharding.write_shards` writes them.

    Any sample can be asked for, by one request; `normalkit.data.streaming` reads shares from front to back. Nothing is
    unpacked to the disk, and what the shards say is checked sample by sample.

    Args:
        url: A folder, or an address that fsspec knows, such as `s3://bucket/rooms`; `simplecache::s3://bucket/rooms`
            also keeps the files on the local disk.
        convention: The axes that the labels are expected in; None to take what the manifest says.
        transform: Called with each sample dict of tv_tensors; see `normalkit.data.sample.transform_sample`.

    Raises:
        FileNotFoundError: There is no manifest.
        ValueError: The manifest cannot be used, its writing is not finished, it has another convention, or a link leads
            out of the folder.
        ImportError: The package for such an address is not installed; fsspec names it.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        convention: Convention | str | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.url = os.fspath(url).rstrip("/")
        self.transform = transform
        self._connection: tuple[int, Any, str] | None = None
        self._indices: OrderedDict[int, ShardIndex] = OrderedDict()
        where = f"{self.url}/{MANIFEST_FILE}"
        self.manifest = Manifest.from_json(self._bytes(MANIFEST_FILE), where)
        if self.manifest.shards is None:
            raise ValueError(f"{where}: the shards are not all written; run the same `normalkit shard` again to go on")
        if convention is not None and Convention.parse(convention) != self.manifest.convention:
            raise ValueError(
                f"{where}: the labels are {self.manifest.convention.name}, but convention="
                f"{Convention.parse(convention).name}; leave the argument out, or write the shards anew if it is wrong"
            )
        self.shards = self.manifest.shards
        self.starts = np.cumsum([0] + [shard.samples for shard in self.shards])

    def __len__(self) -> int:
        """The number of samples."""
        return self.manifest.samples

    def __getitem__(self, index: int) -> Sample:
        """The sample dict; see `normalkit.data.sample.make_sample`."""
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: there are {len(self)} samples")
        return self.decode(index, next(self.records([index])))

    def __getstate__(self) -> dict[str, Any]:
        """A connection is not shared by processes."""
        return {**self.__dict__, "_connection": None, "_indices": OrderedDict()}

    def records(self, indices: Sequence[int] | NDArray[np.int64]) -> Iterator[bytes]:
        """The parts of the tar files that hold samples.

        Args:
            indices: Of the samples; those that follow one another are asked for together.

        Yields:
            The bytes of each.

        Raises:
            OSError: A shard is missing or cannot be read.
            ValueError: It is truncated, changed, or not the one of the manifest.
        """
        shards = np.searchsorted(self.starts, indices, side="right") - 1
        begin = 0
        while begin < len(indices):
            number = int(shards[begin])
            index, first = self._index(number), int(self.starts[number])
            local = int(indices[begin]) - first
            count = 1
            while (
                begin + count < len(indices)
                and indices[begin + count] == indices[begin] + count
                and shards[begin + count] == number
                and index.offsets[local + count + 1] - index.offsets[local] <= REQUEST_BYTES
            ):
                count += 1
            yield from self._request(number, index, local, local + count)
            begin += count

    def decode(self, index: int, record: bytes) -> Sample:
        """The sample that a part of a shard holds.

        Args:
            index: Of the sample.
            record: From `records`.

        Raises:
            ValueError: It is not what the manifest says: a file is missing or not one of a sample's, or of another
                convention, or broken.
        """
        number = int(np.searchsorted(self.starts, index, side="right") - 1)
        where = f"{self.url}/{self.shards[number].file}"
        files = _members(record, f"{index:09d}", where)
        facts = self._facts(files, where)
        image = _pick(files, "image", IMAGE_SUFFIXES, where)
        assert image is not None
        label = _pick(files, "normals", LABEL_SUFFIXES, where)
        assert label is not None
        normals, mask = read_normals(label, convention=self.manifest.convention)
        given = _pick(files, "mask", (".png",), where, required=False)
        if given is not None:
            read = read_mask(given)
            if read.shape != mask.shape:
                raise ValueError(
                    f"{given}: {size_text(read)}, but its label is {size_text(mask)}; write the shards anew"
                )
            mask = mask & read
        depth = _pick(files, "depth", (".npy",), where, required=False)
        return make_sample(
            _read_image(image),
            normals,
            mask,
            _matrix(facts["intrinsics"], where),
            str(facts["name"]),
            depth=None if depth is None else _planes(depth, 1),
            transform=self.transform,
        )

    def _facts(self, files: Mapping[str, FileBytes], where: str) -> Mapping[str, Any]:
        found = _pick(files, "", (".json",), where)
        assert found is not None
        try:
            facts: Mapping[str, Any] = json.loads(found.data)
            name, convention, _ = facts["name"], facts["convention"], facts["intrinsics"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{found}: not what a shard says of a sample ({error!r}); write the shards anew"
            ) from error
        if convention != self.manifest.convention.name:
            raise ValueError(
                f"{found}: {name!r} is {convention}, but {MANIFEST_FILE} says {self.manifest.convention.name}: shards "
                "of two data sets are mixed, or the manifest was changed"
            )
        return facts

    def _request(self, number: int, index: ShardIndex, begin: int, end: int) -> Iterator[bytes]:
        """The samples from `begin` to `end` of a shard."""
        shard = self.shards[number]
        start, stop = int(index.offsets[begin]), int(index.offsets[end])
        data = self._bytes(shard.file, start, stop)
        if len(data) != stop - start:
            raise ValueError(
                f"{self.url}/{shard.file}: ends within a sample, {start + len(data)} bytes in, and should have "
                f"{shard.bytes}; the file is truncated: copy it again"
            )
        for i in range(begin, end):
            record = data[int(index.offsets[i]) - start : int(index.offsets[i + 1]) - start]
            if zlib.crc32(record) != index.checksums[i]:
                raise ValueError(
                    f"{self.url}/{shard.file}: sample {int(self.starts[number]) + i} is not what was written (another "
                    "checksum); the file is damaged, or not the one of this index: copy it again"
                )
            yield record

    def _index(self, number: int) -> ShardIndex:
        if number in self._indices:
            self._indices.move_to_end(number)
            return self._indices[number]
        name = f"{self.shards[number].file.removesuffix('.tar')}.json"
        index = ShardIndex.from_json(self._bytes(name), f"{self.url}/{name}", self.shards[number])
        self._indices[number] = index
        if len(self._indices) > INDICES_KEPT:
            self._indices.popitem(last=False)
        return index

    def _bytes(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        filesystem, root = self._connect()
        if _is_local(filesystem):
            check_links(root, [Path(root, name)])
        try:
            data: bytes = filesystem.cat_file(f"{root}/{name}", start=start, end=stop)
        except (FileNotFoundError, NotADirectoryError) as error:
            mend = (
                "give the folder or address that `normalkit shard` wrote"
                if name == MANIFEST_FILE
                else f"{MANIFEST_FILE} names it: copy the folder again"
            )
            raise FileNotFoundError(f"{self.url}/{name}: no such file; {mend}") from error
        return data

    def _connect(self) -> tuple[Any, str]:
        """The file system, one for each process: a forked connection would answer two."""
        if self._connection is None or self._connection[0] != os.getpid():
            import fsspec

            self._connection = (os.getpid(), *fsspec.core.url_to_fs(self.url))
        return self._connection[1:]


def _is_local(filesystem: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(filesystem, LocalFileSystem)


def is_sharded(root: str | os.PathLike[str]) -> bool:
    """Whether this is a folder of shards, or an address, which can be nothing else."""
    return "::" in os.fspath(root) or "://" in os.fspath(root) or (Path(root) / MANIFEST_FILE).is_file()


def _members(record: bytes, key: str, where: str) -> dict[str, FileBytes]:
    """The files of a sample by what follows their key."""
    try:
        with tarfile.open(fileobj=io.BytesIO(record), mode="r:") as tar:
            # A sparse file may claim any size.
            found = [(m, tar.extractfile(m) if m.isreg() and not m.issparse() else None) for m in tar]
            contents = [(member.name, None if file is None else file.read()) for member, file in found]
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: no tar file where sample {key} should be ({error}); copy it again") from error
    files: dict[str, FileBytes] = {}
    for name, data in contents:
        ending = name.removeprefix(key)
        # Nothing is unpacked, so that no path can lead anywhere; but such a shard is not ours.
        if data is None or ending == name or not re.fullmatch(r"(\.[a-z0-9]+){1,2}", ending):
            raise ValueError(f"{where}: holds {name!r} where files called {key}.* are wanted")
        if ending in files:
            raise ValueError(f"{where}: holds {name!r} twice")
        files[ending] = FileBytes(f"{where}/{name}", data)
    return files


def _pick(
    files: Mapping[str, FileBytes], kind: str, suffixes: Sequence[str], where: str, *, required: bool = True
) -> FileBytes | None:
    endings = [f".{kind}{suffix}" if kind else suffix for suffix in suffixes]
    found = [files[ending] for ending in endings if ending in files]
    if len(found) > 1 or (required and not found):
        have = ", ".join(sorted(files)) or "no files"
        raise ValueError(f"{where}: a sample has {have}; wanted one file {endings[0]}: write the shards anew")
    return found[0] if found else None


def _read_image(file: FileBytes) -> Tensor:
    return _planes(file, 3) if file.name.endswith(".npy") else read_image(file)


def _planes(file: FileBytes, channels: int) -> Tensor:
    array = read_npy(file)[0]
    if array.ndim != 3 or array.shape[0] != channels or array.dtype != np.float32:
        raise ValueError(f"{file}: holds {array.dtype} of shape {array.shape}; wanted float32 ({channels}, H, W)")
    return torch.from_numpy(array)


def _matrix(rows: Any, where: str) -> Tensor | None:
    if rows is None:
        return None
    try:
        matrix = torch.tensor(rows, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: intrinsics {rows!r}; wanted 3 x 3 numbers, or null") from error
    if matrix.shape != (3, 3):
        raise ValueError(f"{where}: intrinsics {rows!r}; wanted 3 x 3 numbers, or null")
    return matrix
