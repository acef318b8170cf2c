"""What a network must beat: predictions that never look at the picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normalkit.geometry import normalize, valid_normals

__all__ = ["FixedNormals", "best_constant", "per_pixel_mean"]


class FixedNormals(nn.Module):
    """A model with the same answer for every picture, to be scored like any other.

    Args:
        normals: (3, H, W), resized to each picture (bilinear, then to unit length); (3, 1, 1) for one constant.

    Examples:
        >>> import torch
        >>> model = FixedNormals(torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1))
        >>> model(torch.rand(2, 3, 4, 5)).shape
        torch.Size([2, 3, 4, 5])
    """

    normals: Tensor

    def __init__(self, normals: Tensor) -> None:
        super().__init__()
        if normals.ndim != 3 or normals.shape[0] != 3:
            raise ValueError(f"normals has shape {tuple(normals.shape)}; wanted (3, H, W)")
        self.register_buffer("normals", normals.float())

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), of which only the shape is looked at, to unit normals (B, 3, H, W)."""
        resized = functional.interpolate(self.normals[None], size=images.shape[-2:], mode="bilinear")
        return normalize(resized).expand(len(images), -1, -1, -1)


def per_pixel_mean(batches: Iterable[Mapping[str, Any]]) -> FixedNormals:
    """The mean direction of a data set's labels at each pixel.

    Args:
        batches: Samples of one size: `normals` (B, 3, H, W) and, if there is one, `mask` (B, H, W).

    Raises:
        ValueError: There is no valid label, or the batches differ in height or width.
    """
    total: Tensor | None = None
    for batch in batches:
        valid = valid_normals(batch["normals"], batch.get("mask")).unsqueeze(1)
        sums = torch.where(valid, normalize(batch["normals"].double()), 0).sum(0)
        if total is not None and sums.shape != total.shape:
            sizes = f"{tuple(total.shape[1:])} and {tuple(sums.shape[1:])}"
            raise ValueError(f"pictures are {sizes}; a mean at each pixel needs one size: resize or crop them")
        total = sums if total is None else total + sums
    if total is None or not bool(total.any()):
        raise ValueError("no valid label: the mean of nothing is not defined")
    # A pixel without any label gets the mean of all the others.
    somewhere = total.abs().amax(0, keepdim=True) > 0
    overall = total.sum((1, 2), keepdim=True)
    return FixedNormals(normalize(torch.where(somewhere, total, overall), dim=0))


def best_constant(batches: Iterable[Mapping[str, Any]], *, directions: int = 2000, every: int = 97) -> FixedNormals:
    """The one normal with the lowest mean angular error over a data set's labels.

    Found among directions spread evenly over those that face the camera, about 2 degrees apart, on every
    `every`-th valid label.

    Args:
        batches: Samples: `normals` (B, 3, H, W) and, if there is one, `mask` (B, H, W).
        directions: How many to try.
        every: Of how many valid labels of a batch one is looked at.

    Raises:
        ValueError: There is no valid label.
    """
    kept = []
    for batch in batches:
        labels = batch["normals"].movedim(1, -1)[valid_normals(batch["normals"], batch.get("mask"))]
        kept.append(normalize(labels[::every].float().cpu()))
    labels = torch.cat(kept) if kept else torch.empty(0, 3)
    if len(labels) == 0:
        raise ValueError("no valid label: the best constant of nothing is not defined")
    # A Fibonacci spiral: equal areas, no direction favoured.
    number = torch.arange(directions) + 0.5
    z = -number / directions
    turn = math.pi * (1 + math.sqrt(5)) * number
    candidates = torch.stack([(1 - z**2).sqrt() * turn.cos(), (1 - z**2).sqrt() * turn.sin(), z], 1)
    errors = torch.stack([(labels @ c).clamp(-1, 1).acos().mean() for c in candidates])
    return FixedNormals(candidates[errors.argmin()].view(3, 1, 1))
