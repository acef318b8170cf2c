"""The data set of generated rooms."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from normalkit.data.sample import Sample, Transform, make_sample
from normalkit.data.synthetic.light import illuminate
from normalkit.data.synthetic.photograph import develop, place_camera
from normalkit.data.synthetic.raycast import cast
from normalkit.data.synthetic.scene import build_scene
from normalkit.data.synthetic.surface import appearance, surface

__all__ = ["SyntheticRooms"]

MIN_SIDE = 16
"""A smaller picture shows nothing."""


class SyntheticRooms(Dataset[Sample]):
    """Generated indoor pictures with exact normals and depth; nothing is downloaded.

    Each index is another room, furnished, lit and photographed at random. A sample depends on the seed, its index
    and the picture's size alone: not on the length of the data set, on the order in which it is read, or on
    loader workers. At another size the same room is seen, though the camera may be held elsewhere in it.

    A sample is a dict:

    - `image`: float32 (3, H, W), RGB in [0, 1].
    - `normals`: float32 (3, H, W), unit, `Convention.OPENCV`, facing the camera; 0 where there is no surface.
    - `mask`: bool (H, W), false only where a window shows the sky or the street.
    - `depth`: float32 (1, H, W), z in metres; 0 where there is no surface.
    - `intrinsics`: float32 (3, 3), pixel centres at integers.
    - `name`: `room-<seed>-<index>`.

    Args:
        length: How many samples.
        size: Height and width in pixels, each at least 16.
        seed: Chooses the rooms; 0 or more.
        transform: Called with a dict of tv_tensors; see `normalkit.data.sample.transform_sample`.

    Raises:
        ValueError: `length`, `size` or `seed` is out of range.
        TypeError: One of them is not whole, or `transform` cannot be called.

    Examples:
        >>> rooms = SyntheticRooms(10, size=(48, 64), seed=1)
        >>> sample = rooms[3]
        >>> sample["name"], tuple(sample["image"].shape), tuple(sample["normals"].shape)
        ('room-1-3', (3, 48, 64), (3, 48, 64))
    """

    def __init__(
        self,
        length: int = 1000,
        *,
        size: tuple[int, int] = (128, 128),
        seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        self.length = _whole("length", length, least=0)
        self.seed = _whole("seed", seed, least=0)
        if not isinstance(size, (tuple, list)) or len(size) != 2:
            raise ValueError(f"size={size!r}: wanted (height, width) in pixels")
        self.size = (_whole("size[0]", size[0], least=MIN_SIDE), _whole("size[1]", size[1], least=MIN_SIDE))
        if transform is not None and not callable(transform):
            raise TypeError(
                f"transform={transform!r} cannot be called; wanted a function of the sample's dict, or None"
            )
        self.transform = transform

    def __len__(self) -> int:
        """The number of samples."""
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Generate one sample; negative indices count from the end.

        Raises:
            IndexError: There is no such sample.
        """
        number = operator.index(index)
        number += self.length if number < 0 else 0
        if not 0 <= number < self.length:
            raise IndexError(f"index={index} is out of range; these SyntheticRooms have {self.length} samples")
        return make_sample(**_photograph(self.seed, number, self.size), transform=self.transform)


def _photograph(seed: int, index: int, size: tuple[int, int]) -> dict[str, Any]:
    # A stream for each stage, so that the room does not change with what later stages draw for a size.
    streams = [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence([seed, index]).spawn(4)]
    scene = build_scene(streams[0])
    camera = place_camera(scene, size, streams[1])
    part = cast(scene, camera)
    seen = surface(scene, camera, part)
    light = illuminate(scene, seen, appearance(scene, camera, seen), streams[2])
    image = develop(light, part, streams[3])
    normals = np.einsum("ij,jhw->ihw", camera.rotation, seen.normals)
    normals[:, seen.sky] = 0
    depth = np.where(seen.sky, 0, seen.depth)
    return {
        "image": torch.from_numpy(np.ascontiguousarray(image)),
        "normals": torch.from_numpy(normals.astype(np.float32)),
        "mask": torch.from_numpy(~seen.sky),
        "depth": torch.from_numpy(depth.astype(np.float32)[None]),
        "intrinsics": torch.from_numpy(camera.intrinsics.astype(np.float32)),
        "name": f"room-{seed}-{index}",
    }


def _whole(name: str, value: Any, *, least: int) -> int:
    """Check that an argument is a whole number of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; wanted a whole number") from None
    if number < least:
        raise ValueError(f"{name}={value!r}: wanted at least {least}")
    return number
