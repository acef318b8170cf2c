"""The field's data sets as they are released."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from normalkit.axes import view_rays
from normalkit.data.layouts import Layout, Match, find_layouts, parse_layout
from normalkit.data.pairs import Pair, Sources, check_convention, read_pair
from normalkit.data.sample import Sample, Transform, make_sample
from normalkit.geometry import Convention

__all__ = ["PublishedNormals", "find_pairs"]

GRAZING = 1e-3
"""A normal this far beyond 90 degrees from the ray, as a cosine, is rounding and not inside out."""


class PublishedNormals(Dataset[Sample]):
    """A data set with normals in the layout in which it is released: NYUv2, ScanNet, iBims-1, DIODE and others.

    `normalkit.data.layouts.LAYOUTS` has where each keeps its files, which way its normals point, and which
    pixels and pictures count.

    Args:
        root: Folder that the data set was unpacked into, or a part of it.
        layout: Its name, such as "nyuv2", or a `Layout` of your own.
        split: Which pictures: one of the layout's splits, "all", or None for the split that the field scores.
        convention: The axes of the files, where they are others than the layout says.
        check: Whether to look at a few files, and refuse normals that contradict the convention.
        transform: Called with each sample dict of tv_tensors; see `normalkit.data.sample.transform_sample`.

    Raises:
        FileNotFoundError: The folder, the split or its list is missing, or a picture lacks one of its files.
        ValueError: The layout or split is not known, some pictures alone have a mask, the first pair cannot be
            used, or the normals point another way than is said; the message has the evidence.
        ImportError: The files' format needs a package that is not installed.

    Warns:
        UserWarning: The split has another number of pictures than the field's.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        layout: str | Layout,
        *,
        split: str | None = None,
        convention: Convention | None = None,
        check: bool = True,
        transform: Transform | None = None,
    ) -> None:
        self.root = Path(root)
        self.layout = parse_layout(layout)
        if self.layout.normals is None:
            raise ValueError(
                f"layout={self.layout.name!r} has no normal files; RGBDNormals computes them from its depth"
            )
        self.split = self.layout.splits[0] if split is None else split
        self.convention = self.layout.convention if convention is None else Convention.parse(convention)
        self.transform = transform
        self.pairs = find_pairs(self.root, self.layout, self.split)
        wanted = self.layout.counts.get(self.split, len(self.pairs))
        if len(self.pairs) != wanted:
            warnings.warn(
                f"{self.root}: split={self.split!r} of {self.layout.name} has {len(self.pairs)} pictures here, and "
                f"{wanted} in the field: figures will not compare",
                stacklevel=2,
            )
        self._read(0)  # Else it fails in a worker an hour later.
        if check:
            check_convention(self.root, self.pairs, self.convention)

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """The sample dict of a picture; see `normalkit.data.sample.make_sample`."""
        return make_sample(*self._read(index), self.pairs[index].name, transform=self.transform)

    def sources(self, index: int) -> Sources:
        """The files of a picture."""
        return Sources(self.pairs[index].image, self.pairs[index].normals, self.convention)

    def _read(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        image, normals, mask, intrinsics = read_pair(
            self.pairs[index], convention=self.convention, resize=self.layout.resizes
        )
        height, width = mask.shape
        shared = None if self.layout.camera is None else self.layout.camera.matrix(width, height)
        if self.layout.faces_camera:
            normals = _turn_to_camera(normals, shared if intrinsics is None else intrinsics)
        if intrinsics is None and not self.layout.camera_varies:
            intrinsics = shared
        return image, normals, mask, intrinsics


def find_pairs(root: Path, layout: Layout, split: str | None) -> list[Pair]:
    """The files of a split.

    Args:
        root: The folder.
        layout: One with normal files.
        split: As in `Layout.choose`.

    Raises:
        FileNotFoundError: The folder, every picture, the split or its list is missing, or a picture lacks a file.
        ValueError: The split is not known, or some pictures alone have a mask.
    """
    matches = find_layouts(root, [layout]).get(layout.name, [])
    if not matches:
        raise FileNotFoundError(
            f"{root}: no picture in the layout of {layout.name}; wanted whole paths that end like {layout.example}"
        )
    pairs = [_pair(root, layout, match) for match in layout.choose(root, matches, split)]
    if layout.masks_may_lack and not any(pair.mask is not None and pair.mask.is_file() for pair in pairs):
        pairs = [pair._replace(mask=None) for pair in pairs]
    for what in ("normals", "mask", "intrinsics"):
        missing = [file for file in (getattr(pair, what) for pair in pairs) if file is not None and not file.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{root}: {len(missing)} of {len(pairs)} pictures of {layout.name} lack their {what}; the first is "
                f"{missing[0]}: unpack or download that part too"
            )
    return pairs


def _pair(root: Path, layout: Layout, match: Match) -> Pair:
    files = [None if t is None else layout.file(t, match) for t in (layout.normals, layout.masks, layout.intrinsics)]
    assert files[0] is not None
    inside = os.path.relpath(match.path, os.path.abspath(root))
    return Pair(Path(inside).with_suffix("").as_posix(), match.path, files[0], files[1], files[2])


def _turn_to_camera(normals: Tensor, intrinsics: Tensor | None) -> Tensor:
    """Turn round what looks away: surfaces have two sides, and what is seen is the one towards the camera."""
    height, width = normals.shape[1:]
    rays = view_rays(height, width, intrinsics)
    cosine = (normals * rays).sum(0) / rays.norm(dim=0)
    return torch.where(cosine > GRAZING, -normals, normals)
