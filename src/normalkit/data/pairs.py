"""A picture and its label in files: reading them, and whether the labels point the way that they are said to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from normalkit.axes import AxesGuess, contradiction, guess_convention
from normalkit.codec import read_normals
from normalkit.geometry import Convention, convert_normals
from normalkit.images import read_image, read_intrinsics, read_mask, size_text

__all__ = ["Pair", "Sources", "check_convention", "guess_pairs", "read_pair", "spread"]

PAIRS_CHECKED = 8
"""By `check_convention`: enough to be sure in rooms, and read in a second."""


class Pair(NamedTuple):
    """The files of one sample."""

    name: str
    image: Path
    normals: Path
    mask: Path | None
    intrinsics: Path | None


class Sources(NamedTuple):
    """The files that a sample comes from, which may be copied where they alone make it.

    Attributes:
        image: The picture.
        normals: The label; None where it is computed.
        convention: The axes of the label; None where its file states them.
    """

    image: Path
    normals: Path | None
    convention: Convention | None


def read_pair(
    pair: Pair, *, convention: Convention | None, resize: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Read the files of a sample.

    Args:
        pair: The files.
        convention: The axes of the normals; None where their file states them.
        resize: Resize the picture to its label; otherwise the sizes must be equal.

    Returns:
        The image (3, H, W) uint8; the normals (3, H, W), `Convention.OPENCV`; the mask (H, W) bool; and the intrinsics
        (3, 3), or None without a file of them.

    Raises:
        OSError: A file is missing or a folder, or may not be read.
        ValueError: A file cannot be used, or their sizes differ.
    """
    image = read_image(pair.image)
    normals, mask = read_normals(pair.normals, convention=convention)
    if resize and image.shape[-2:] != mask.shape:
        image = F.resize(image, list(mask.shape), antialias=True)
    if image.shape[-2:] != mask.shape:
        raise ValueError(
            f"{pair.image} is {size_text(image)} but {pair.normals} is {size_text(mask)}; wanted equal sizes"
        )
    if pair.mask is not None:
        given = read_mask(pair.mask)
        if given.shape != mask.shape:
            raise ValueError(
                f"{pair.mask} is {size_text(given)} but its image is {size_text(mask)}; wanted equal sizes"
            )
        mask = mask & given
    return image, normals, mask, None if pair.intrinsics is None else read_intrinsics(pair.intrinsics)


def guess_pairs(pairs: Sequence[Pair], convention: Convention) -> list[AxesGuess]:
    """Guess the axes of the normals in files; see `normalkit.axes.guess_convention`.

    Args:
        pairs: Some of a data set's files; the images are not read.
        convention: As which the files are read; the guess does not depend on it.

    Returns:
        48 guesses, the likeliest first. Where no file has a valid pixel there are none.
    """
    normals, masks, cameras = [], [], []
    for pair in pairs:
        unit, mask = read_normals(pair.normals, convention=convention)
        mask = mask if pair.mask is None else mask & read_mask(pair.mask)
        normals.append(convert_normals(unit, Convention.OPENCV, convention, dim=0))
        masks.append(mask)
        cameras.append(torch.full((3, 3), torch.nan) if pair.intrinsics is None else read_intrinsics(pair.intrinsics))
    return guess_convention(normals, masks, cameras) if any(bool(mask.any()) for mask in masks) else []


def check_convention(root: str | os.PathLike[str], pairs: Sequence[Pair], declared: Convention) -> None:
    """Refuse labels that cannot be in the convention that they are said to be in, by the look of a few of them.

    Args:
        root: The folder, for the message.
        pairs: All files of the data set.
        declared: The convention that they are said to be in.

    Raises:
        ValueError: They contradict it; the message has the evidence.
    """
    guesses = guess_pairs([pairs[i] for i in spread(len(pairs), PAIRS_CHECKED)], declared)
    evidence = contradiction(guesses, declared) if guesses else None
    if evidence is not None:
        known = guesses[0].convention
        mend = (
            "find out what made the files"
            if known is None
            else f"pass convention={known.name} if that is what they are"
        )
        raise ValueError(
            f"{root}: its normals are said to be {declared.name}, but {evidence}. {mend[0].upper()}{mend[1:]}, or "
            "check=False to take them as they are"
        )


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly spread.

    Examples:
        >>> spread(100, 4)
        [12, 37, 62, 87]
        >>> spread(2, 4)
        [0, 1]
    """
    return list(range(count)) if count <= most else [(2 * i + 1) * count // (2 * most) for i in range(most)]
