"""RGB-D recordings as normals data: labels computed from the depth, once."""

from __future__ import annotations

import bisect
import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from normalkit.codec import read_normals
from normalkit.data.pairs import Sources
from normalkit.data.sample import Sample, Transform, make_sample
from normalkit.files import atomic_file, check_links, check_writable
from normalkit.geometry import Convention, depth_to_normals
from normalkit.images import read_depth, read_image, read_intrinsics, read_npy, size_text

__all__ = ["RGBDNormals", "default_cache"]

INTRINSICS_FILE = "camera-intrinsics.txt"
CACHE_SCALE = 32767
"""Computed normals are kept as 16-bit integers: half of the space of floats, to 0.002 degrees."""
CACHE_VERSION = 1
"""To be raised when `depth_to_normals` or its defaults change, so that normals kept before are computed anew."""
TUM_MAX_SECONDS = 0.02
"""Colour and depth of a TUM recording further apart than this are different views."""


class _Frame(NamedTuple):
    """A colour picture with its depth, its label made elsewhere, or both."""

    name: str
    color: Path
    depth: Path | None
    normals: Path | None


class RGBDNormals(Dataset[Sample]):
    """Colour and depth frames of a recording, with normals from the depth.

    Two layouts are recognised. 7-Scenes: `*.color.png|jpg` beside `*.depth.png`, in millimetres, at any
    depth of folders. TUM: `rgb.txt` and `depth.txt` list time stamps and files, depth in 1/5000 m; colour frames
    are paired with the depth of the nearest time, and left out where that is more than 0.02 s away. Intrinsics are read
    from `camera-intrinsics.txt` (3 x 3, pixels) in the depth's folder or the nearest one above it, unless given.

    Normals are `depth_to_normals` at its defaults, kept in `cache` and never beside the
    user's files. In the 7-Scenes layout a `*.normal.png` beside a frame is its label instead: ground truth made
    elsewhere. Either all the chosen frames have one or none has, so that labels never have two sources.

    Args:
        root: Folder of the recording.
        frames: Which frames, in the order of their names, for instance `slice(None, -50)`.
        transform: Called with each sample dict of tv_tensors; see `normalkit.transforms.training_transform`.
        intrinsics: (fx, fy, cx, cy) in pixels, where the recording has no file of them.
        depth_range: Depth outside these metres counts as none; a Kinect's is unreliable there, and 7-Scenes
            writes 65.535 for no depth.
        convention: Axes of `*.normal.png` files that do not state theirs.
        cache: Folder for computed normals; by default under the user's cache folder.

    Raises:
        FileNotFoundError: No frames, a frame's depth, or no intrinsics are found; the message says what was looked for.
        ValueError: An argument is out of range, a link or a list leads out of the folder, some frames alone have a
            `*.normal.png`, or the first frame cannot be used; the message names the file.
        OSError: The cache cannot be written.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        frames: slice = slice(None),
        transform: Transform | None = None,
        intrinsics: Sequence[float] | None = None,
        depth_range: tuple[float, float] = (0.1, 8.0),
        convention: Convention = Convention.OPENCV,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder; give the folder that holds the recording's frames")
        if not 0 <= depth_range[0] < depth_range[1]:
            raise ValueError(f"depth_range={depth_range}: wanted (nearest, farthest) in metres")
        self.depth_range = (float(depth_range[0]), float(depth_range[1]))
        self.intrinsics = _given_intrinsics(intrinsics)
        self.convention = Convention.parse(convention)
        self.transform = transform
        self.depth_scale, every = _find_frames(self.root)
        self.frames = _choose_frames(self.root, every, frames)
        check_links(self.root, [file for frame in self.frames for file in frame[1:] if file is not None])
        self.cache = default_cache() if cache is None else Path(cache)
        if self.frames[0].normals is None:
            check_writable(self.cache)
        self._read(0)  # A wrong folder fails here, not in a worker an hour later.

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        """The sample dict of a frame; see `normalkit.data.sample.make_sample`."""
        image, normals, mask, intrinsics = self._read(index)
        return make_sample(image, normals, mask, intrinsics, self.frames[index].name, transform=self.transform)

    def sources(self, index: int) -> Sources:
        """The picture of a frame, and its label where it was made elsewhere."""
        return Sources(self.frames[index].color, self.frames[index].normals, self.convention)

    def _read(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        frame = self.frames[index]
        image = read_image(frame.color)
        intrinsics = _find_intrinsics(frame, self.root) if self.intrinsics is None else self.intrinsics
        if frame.normals is not None:
            source = frame.normals
            normals, mask = read_normals(source, convention=self.convention)
        elif frame.depth is not None and intrinsics is not None:
            source = frame.depth
            normals, mask = self._computed(source, intrinsics)
        else:
            raise FileNotFoundError(
                f"{frame.depth}: no intrinsics for this depth; put the camera's 3 x 3 matrix into "
                f"{self.root / INTRINSICS_FILE}, or give intrinsics=(fx, fy, cx, cy)"
            )
        if normals.shape[-2:] != image.shape[-2:]:
            raise ValueError(
                f"{frame.color} is {size_text(image)} but {source} is {size_text(normals)}; align and resize the "
                "recording first"
            )
        return image, normals, mask, intrinsics

    def _computed(self, depth: Path, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
        """The normals of a depth file from the cache, or else computed and put there."""
        stat = depth.stat()
        settings = (CACHE_VERSION, intrinsics.tolist(), self.depth_scale, self.depth_range)
        key = repr((str(depth.resolve()), stat.st_mtime_ns, stat.st_size, *settings))
        path = self.cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
        kept = _read_kept(path)
        if kept is None:
            near, far = self.depth_range
            metres = read_depth(depth, scale=self.depth_scale)
            metres = torch.where((metres >= near) & (metres <= far), metres, 0)
            computed, _ = depth_to_normals(metres[None], intrinsics[None])
            kept = (computed[0] * CACHE_SCALE).round().to(torch.int16)
            with atomic_file(path) as temporary, open(temporary, "wb") as file:
                np.save(file, kept.numpy())
        normals = kept.float() / CACHE_SCALE
        return normals, kept.any(0)


def default_cache() -> Path:
    """Where computed normals are kept: `normalkit/normals` under `XDG_CACHE_HOME`, or else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "normalkit" / "normals"


def _read_kept(path: Path) -> Tensor | None:
    """The (3, H, W) int16 of a file in the cache; None where there is none, or a truncated one."""
    try:
        kept = read_npy(path)[0]
    except (FileNotFoundError, ValueError):
        return None
    return torch.from_numpy(kept) if kept.dtype == np.int16 and kept.ndim == 3 and kept.shape[0] == 3 else None


def _find_frames(root: Path) -> tuple[float, list[_Frame]]:
    """The depth units in a metre, and the frames in order."""
    if (root / "rgb.txt").is_file() and (root / "depth.txt").is_file():
        return 5000.0, _tum_frames(root)
    frames: dict[str, _Frame] = {}
    for color in sorted(path for suffix in ("png", "jpg") for path in root.rglob(f"*.color.{suffix}")):
        stem = color.name.rsplit(".color.", 1)[0]
        name = color.relative_to(root).with_name(stem).as_posix()
        if name in frames:
            raise ValueError(f"{color} and {frames[name].color} are the same frame; remove one of them")
        depth, normals = color.with_name(f"{stem}.depth.png"), color.with_name(f"{stem}.normal.png")
        if not depth.is_file() and not normals.is_file():
            raise FileNotFoundError(f"{color} has no depth beside it; wanted {depth.name}")
        frames[name] = _Frame(name, color, *(path if path.is_file() else None for path in (depth, normals)))
    if not frames:
        raise FileNotFoundError(
            f"{root}: no frames found; wanted *.color.png or *.color.jpg with *.depth.png (7-Scenes), "
            "or rgb.txt and depth.txt (TUM)"
        )
    return 1000.0, list(frames.values())


def _choose_frames(root: Path, every: list[_Frame], chosen: slice) -> list[_Frame]:
    if not isinstance(chosen, slice):
        raise TypeError(f"frames={chosen!r}: wanted a slice, such as slice(None, -50)")
    frames = every[chosen]
    if not frames:
        raise ValueError(f"{root}: frames={chosen} selects none of its {len(every)} frames")
    labelled = [frame for frame in frames if frame.normals is not None]
    if 0 < len(labelled) < len(frames):
        bare = next(frame for frame in frames if frame.normals is None)
        raise ValueError(
            f"{root}: {len(labelled)} of {len(frames)} frames have a *.normal.png, {bare.color} has none; labels of "
            "two sources do not mix: open their folders apart, choose frames=, or move those files away"
        )
    return frames


def _tum_frames(root: Path) -> list[_Frame]:
    colors, depths = (_tum_listing(root / name) for name in ("rgb.txt", "depth.txt"))
    times = [time for time, _ in depths]
    frames = []
    for time, color in colors:
        place = bisect.bisect(times, time)
        nearest = min(range(max(place - 1, 0), min(place + 1, len(times))), key=lambda i: abs(times[i] - time))
        if abs(times[nearest] - time) <= TUM_MAX_SECONDS:
            frames.append(_Frame(color.stem, color, depths[nearest][1], None))
    if not frames:
        raise FileNotFoundError(
            f"{root}: no colour frame has depth within {TUM_MAX_SECONDS} s; are rgb.txt and depth.txt of one recording?"
        )
    return frames


def _tum_listing(path: Path) -> list[tuple[float, Path]]:
    """The (time, file) pairs of a TUM list, in order of time; lines that start with # are comments."""
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            time, file = float(words[0]), path.parent / words[1]
        except (ValueError, IndexError):
            time, file = math.nan, path
        if not math.isfinite(time):
            raise ValueError(f"{path}:{number}: wanted a time and a file name, got {line!r}")
        if os.path.isabs(words[1]) or ".." in Path(words[1]).parts:
            raise ValueError(f"{path}:{number}: lists {words[1]}; wanted a path in this folder")
        if not file.is_file():
            raise FileNotFoundError(f"{path}:{number}: lists {file}, which does not exist; unpack the whole recording")
        pairs.append((time, file))
    if not pairs:
        raise ValueError(f"{path}: lists no files")
    return sorted(pairs)


def _find_intrinsics(frame: _Frame, root: Path) -> Tensor | None:
    """Those in the nearest folder from the frame's up to the root; None where there are none."""
    folder = (frame.depth or frame.color).parent
    inside = [above for above in (folder, *folder.parents) if above.is_relative_to(root)]
    for above in dict.fromkeys((*inside, root)):
        if (above / INTRINSICS_FILE).is_file():
            check_links(root, [above / INTRINSICS_FILE])
            return read_intrinsics(above / INTRINSICS_FILE)
    return None


def _given_intrinsics(values: Sequence[float] | None) -> Tensor | None:
    if values is None:
        return None
    if len(values) != 4 or not all(map(math.isfinite, values)) or min(values[:2]) <= 0:
        raise ValueError(f"intrinsics={tuple(values)}: wanted (fx, fy, cx, cy) in pixels, fx and fy > 0")
    fx, fy, cx, cy = map(float, values)
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
