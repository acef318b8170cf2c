"""Pairs of image and normal files from any folder."""

from __future__ import annotations

import glob
import os
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from normalkit.codec import read_normals
from normalkit.data.sample import Sample, Transform, make_sample
from normalkit.geometry import Convention
from normalkit.images import FORMATS, open_picture, pillow_errors, read_image, read_intrinsics

__all__ = ["NormalFolder"]


class NormalFolder(Dataset[Sample]):
    """Images and normals in files, paired by what the `*` of their patterns stands for.

    Args:
        root: Folder that the patterns are relative to.
        images: Pattern of the image files with one `*`, such as `rgb/*.png` or `*_img.png`. Every other character
            stands for itself.
        normals: Pattern of the normal files (PNG, NPY or EXR), such as `normal/*.png` or `*_normal.exr`.
        convention: The axes of the normal files; None when each file states its own, as those written by
            normalkit do.
        masks: Pattern of mask images, where 0 is invalid and anything else valid; None where the normals say so
            themselves.
        intrinsics: Pattern of 3 x 3 matrices (text or NPY), in pixels, or without a `*` one file for all; None where
            unknown (NaN in the sample).
        transform: Called with each sample dict of tv_tensors; see `normalkit.data.sample.transform_sample`.

    Raises:
        FileNotFoundError: The folder is missing, no image matches, or an image lacks one of the other files.
        ValueError: A pattern is not as above, or the first pair cannot be used: another convention, different sizes.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        images: str = "*_img.png",
        normals: str = "*_normal.png",
        convention: Convention | None,
        masks: str | None = None,
        intrinsics: str | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder; the patterns are relative to it")
        given = {"images": images, "normals": normals, "masks": masks, "intrinsics": intrinsics}
        self.patterns = {what: _check_pattern(what, p) for what, p in given.items() if p is not None}
        if self.patterns["images"] == self.patterns["normals"]:
            raise ValueError(f"images and normals are both {images!r}; wanted two patterns that tell them apart")
        self.convention = None if convention is None else Convention.parse(convention)
        self.transform = transform
        self.names = self._find_names()
        for what in self.patterns:
            missing = [name for name in self.names if not self._path(what, name).is_file()]
            if missing:
                raise FileNotFoundError(
                    f"{self.root}: {len(missing)} of {len(self.names)} images have no file for "
                    f"{what}={self.patterns[what]!r}; the first is {self._path(what, missing[0])}"
                )
        self._read(0)  # A wrong convention or format fails here, not in a worker an hour later.

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """The sample dict of a pair; see `normalkit.data.sample.make_sample`."""
        image, normals, mask, intrinsics = self._read(index)
        return make_sample(image, normals, mask, intrinsics, self.names[index], transform=self.transform)

    def _read(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        paths = {what: self._path(what, self.names[index]) for what in self.patterns}
        image = read_image(paths["images"])
        normals, mask = read_normals(paths["normals"], convention=self.convention)
        if image.shape[-2:] != mask.shape:
            raise ValueError(
                f"{paths['images']} is {_size(image)} but {paths['normals']} is {_size(mask)}; wanted equal sizes"
            )
        if "masks" in paths:
            given = _read_mask(paths["masks"])
            if given.shape != mask.shape:
                raise ValueError(
                    f"{paths['masks']} is {_size(given)} but its image is {_size(mask)}; wanted equal sizes"
                )
            mask = mask & given
        return image, normals, mask, read_intrinsics(paths["intrinsics"]) if "intrinsics" in paths else None

    def _find_names(self) -> list[str]:
        pattern = self.patterns["images"]
        before, after = pattern.split("*")
        # Escaped, since a [ or ? is a letter here, as it is in the other patterns.
        found = self.root.glob(f"{glob.escape(before)}*{glob.escape(after)}")
        paths = sorted(path.relative_to(self.root).as_posix() for path in found if path.is_file())
        if not paths:
            raise FileNotFoundError(f"{self.root}: no file matches images={pattern!r}")
        return [path[len(before) : len(path) - len(after)] for path in paths]

    def _path(self, what: str, name: str) -> Path:
        return self.root / self.patterns[what].replace("*", name)


def _read_mask(path: Path) -> Tensor:
    """(H, W), bool: what is not 0 in some channel but alpha."""
    with open_picture(path, FORMATS) as picture, pillow_errors(path, FORMATS):
        # As stored: in a conversion to 8 bits a 1 of 16 would become 0.
        values = torch.from_numpy(np.array(picture) != 0)
        colours = [i for i, band in enumerate(picture.getbands()) if band != "A"]
    return values if values.ndim == 2 else values[..., colours].any(-1)


def _check_pattern(argument: str, pattern: str) -> str:
    """The pattern as paths are written, without a leading ./ or doubled slashes."""
    stars = pattern.count("*")
    if not (stars == 1 or (stars == 0 and argument == "intrinsics")) or Path(pattern).is_absolute():
        raise ValueError(f"{argument}={pattern!r}: wanted a relative pattern with exactly one *, such as 'rgb/*.png'")
    if argument == "masks" and pattern.lower().endswith((".jpg", ".jpeg", ".webp")):
        raise ValueError(f"masks={pattern!r}: lossy files have no exact 0 around edges; wanted PNG")
    return PurePosixPath(pattern).as_posix()


def _size(picture: Tensor) -> str:
    return f"{picture.shape[-1]} x {picture.shape[-2]}"
