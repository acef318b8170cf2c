"""Data sets: one file each.

Those of normals return the same sample dict, see `normalkit.data.sample`; `LabeledImages` are images with classes.
"""

from __future__ import annotations

import os

from torch.utils.data import Dataset

from normalkit.data.device import DeviceLoader, device_evaluation_loader, device_training_loader
from normalkit.data.folder import NormalFolder
from normalkit.data.labeled import LabeledImages, read_labeled_images
from normalkit.data.loader import evaluation_loader, training_loader
from normalkit.data.memory import InMemory
from normalkit.data.rgbd import RGBDNormals
from normalkit.data.sample import Sample
from normalkit.data.synthetic import SyntheticRooms
from normalkit.geometry import Convention

__all__ = [
    "DeviceLoader",
    "InMemory",
    "LabeledImages",
    "NormalFolder",
    "RGBDNormals",
    "SyntheticRooms",
    "device_evaluation_loader",
    "device_training_loader",
    "evaluation_loader",
    "open_dataset",
    "read_labeled_images",
    "training_loader",
]


def open_dataset(
    root: str | os.PathLike[str],
    *,
    images: str | None = None,
    normals: str | None = None,
    masks: str | None = None,
    convention: Convention | None = None,
) -> Dataset[Sample]:
    """Open a folder to score on: pairs of files where patterns are given, else an RGB-D recording.

    Args:
        root: The folder.
        images: Pattern for `NormalFolder`; goes with `normals`.
        normals: Pattern for `NormalFolder`.
        masks: Pattern for `NormalFolder`.
        convention: Axes of the normal files; None where they state theirs. `RGBDNormals` then takes OPENCV.

    Raises:
        ValueError: Only one of `images` and `normals` is given, or `masks` alone.
    """
    if images is not None and normals is not None:
        return NormalFolder(root, images=images, normals=normals, masks=masks, convention=convention)
    if images is not None or normals is not None or masks is not None:
        raise ValueError(
            f"images={images!r}, normals={normals!r}, masks={masks!r}: a folder of pairs needs both images and "
            "normals, patterns such as 'rgb/*.png' and 'normal/*.png'"
        )
    return RGBDNormals(root, convention=convention or Convention.OPENCV)
