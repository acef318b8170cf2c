"""What every data set returns: one dict a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Image, Mask

from normalkit.geometry import normalize, valid_normals
from normalkit.transforms import Intrinsics, SurfaceNormals

__all__ = ["Sample", "Transform", "make_sample", "transform_sample"]

Sample = dict[str, Any]
Transform = Callable[[Sample], Sample]


def make_sample(
    image: Tensor,
    normals: Tensor,
    mask: Tensor,
    intrinsics: Tensor | None,
    name: str,
    *,
    depth: Tensor | None = None,
    transform: Transform | None = None,
) -> Sample:
    """Put a sample together, transform it, and leave it as networks want it.

    Args:
        image: (3, H, W), uint8 or float in [0, 1].
        normals: (3, H, W) float, `Convention.OPENCV`.
        mask: (H, W), bool.
        intrinsics: (3, 3) in pixels, or None where unknown.
        name: What to call it in reports and file names.
        depth: (1, H, W) float, z; 0 where there is none.
        transform: As in `transform_sample`.

    Returns:
        `image` (3, H, W) float32 in [0, 1]; `normals` (3, H, W) float32, unit length or 0; `mask` (H, W) bool, True
        where the label is valid; `intrinsics` (3, 3) float32, NaN where unknown; `name`; and `depth` (1, H, W)
        float32, if it was given.

    Raises:
        ValueError: Image, normals, mask and depth differ in size; the message gives the sample's name and the sizes.
        TypeError: The mask is not boolean, or `transform` returns no dict.
    """
    maps = {"image": image, "normals": normals, "mask": mask} | ({} if depth is None else {"depth": depth})
    if len({x.shape[-2:] for x in maps.values()}) != 1:
        sizes = ", ".join(f"{what} {tuple(x.shape[-2:])}" for what, x in maps.items())
        raise ValueError(f"{name}: sizes differ: {sizes}; all must show the same pixels")
    # Nearest picks another pixel of a mask than of normals, so that a mask alone would let masked labels through.
    labels = torch.where(valid_normals(normals, mask, dim=0), normalize(normals, dim=0), 0).float()
    # Marked as what the constructor would make of them, which takes a tenth of a sample's time.
    labels = labels.as_subclass(SurfaceNormals)
    known = torch.full((3, 3), torch.nan) if intrinsics is None else intrinsics.float()
    sample: Sample = {"image": image, "normals": labels, "mask": mask, "intrinsics": known, "name": name}
    if depth is not None:
        sample["depth"] = depth.float()
    return transform_sample(sample, transform)


def transform_sample(sample: Sample, transform: Transform | None) -> Sample:
    """Apply a transform to a sample, and leave it as networks want it.

    Args:
        sample: As `make_sample` returns it; its tensors may be plain ones.
        transform: Called with a dict of tv_tensors, so that torchvision's v2 transforms apply: `Image`,
            `SurfaceNormals`, `Mask` (also the depth) and `Intrinsics`. None for none.

    Returns:
        A new dict of plain tensors, which mix freely; its mask is True where the mask and the normals are valid.

    Raises:
        TypeError: `transform` returns something else than a dict.
    """
    if transform is not None:
        sample = transform(_as_tv_tensors(sample))
        if not isinstance(sample, dict):
            raise TypeError(f"transform returned a {type(sample).__name__}; wanted the sample's dict")
    sample = {key: x.as_subclass(Tensor) if isinstance(x, Tensor) else x for key, x in sample.items()}
    sample["image"] = F.to_dtype(sample["image"], torch.float32, scale=True)
    sample["mask"] = valid_normals(sample["normals"], sample["mask"], dim=0)
    return sample


def _as_tv_tensors(sample: Sample) -> Sample:
    """Plain tensors would pass through torchvision's transforms untouched."""
    normals = sample["normals"]
    wrapped = {
        **sample,
        "image": Image(sample["image"]),
        "normals": normals if isinstance(normals, SurfaceNormals) else SurfaceNormals(normals),
        "mask": Mask(sample["mask"]),
        "intrinsics": Intrinsics(sample["intrinsics"], canvas_size=tuple(sample["image"].shape[-2:])),
    }
    if "depth" in sample:
        wrapped["depth"] = Mask(sample["depth"])
    return wrapped
