"""A photo as if a lamp were added to the scene, from its normals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normalkit.geometry import normalize
from normalkit.images import read_image

__all__ = ["check_light", "relight"]

_ROWS = 256
"""So many rows at a time, so that a large photo needs little memory beyond itself."""


def relight(
    image: Tensor,
    normals: Tensor,
    light: tuple[float, float, float],
    *,
    ambient: float = 0.3,
    strength: float = 1.0,
) -> Tensor:
    """Light a photo from a direction of your choice.

    Each pixel is multiplied by ambient + strength max(0, n . l), Lambert's law for a lamp far away, in linear light:
    8-bit values stand for it by the sRGB curve. The light in which the photo was taken stays in it, and nothing
    throws a shadow: a normal says which way a surface faces, not what stands before it. So this is a look at the
    normals, and no photo of the scene in that light.

    Args:
        image: (3, H, W), uint8, or float in [0, 1].
        normals: (3, H, W), `Convention.OPENCV`, any length; where one is 0 or not finite, there is the ambient light
            alone.
        light: The direction towards the lamp, of any length, in OPENCV axes: (0, 0, -1) is a flash on the camera,
            (0, -1, 0) a lamp overhead, (-1, 0, 0) one to the left.
        ambient: The share of the photo's own light that stays everywhere.
        strength: What the lamp adds where a surface faces it.

    Returns:
        uint8 (3, H, W), on the CPU; what is brighter than white is white.

    Raises:
        ValueError: A shape is wrong, the photo is out of range, `light` has no direction, or `ambient` or `strength`
            is negative or not finite.
        TypeError: The photo has another dtype.

    Examples:
        >>> grey, wall = torch.full((3, 1, 1), 100, dtype=torch.uint8), torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1)
        >>> relight(grey, wall, (0, 0, -1), ambient=0.0)[:, 0, 0].tolist()
        [100, 100, 100]
    """
    pixels = read_image(image)
    if normals.shape != pixels.shape:
        raise ValueError(
            f"normals has shape {tuple(normals.shape)} for an image {tuple(pixels.shape)}; wanted the same"
        )
    for name, value in (("ambient", ambient), ("strength", strength)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value}: wanted 0 or more")
    lamp = strength * check_light(light)
    linear = _linear_light()
    result = torch.empty_like(pixels)
    bands = (x.split(_ROWS, dim=1) for x in (pixels, normals.detach().cpu(), result))
    for shown, facing, lit in zip(*bands, strict=True):
        gain = ambient + torch.einsum("c,chw->hw", lamp, normalize(facing.float(), dim=0)).clamp_min(0)
        lit.copy_(_display(linear[shown.int()] * gain))
    return result


def check_light(light: tuple[float, float, float]) -> Tensor:
    """The unit vector towards a light.

    Args:
        light: Three numbers, not all 0.

    Returns:
        (3,) float32.

    Raises:
        ValueError: It has no direction.
    """
    direction = (
        normalize(torch.tensor([float(x) for x in light], dtype=torch.float64), dim=0) if len(light) == 3 else None
    )
    if direction is None or not bool(direction.any()):
        raise ValueError(f"light={tuple(light)}: wanted three finite numbers, not all 0, such as (0, 0, -1)")
    return direction.float()


def _linear_light() -> Tensor:
    """(256,): the light that each 8-bit value stands for; IEC 61966-2-1."""
    value = torch.arange(256) / 255
    return torch.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _display(light: Tensor) -> Tensor:
    """The inverse, rounded; what is above 1 is 255."""
    light = light.clamp(0, 1)
    return (255 * torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)).round()
