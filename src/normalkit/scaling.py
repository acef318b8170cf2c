"""Scaling large pictures down and maps up in bands of rows, so that memory stays with what goes in and comes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["enlarged_rows", "scaled_picture", "scaled_size"]

ROWS = 64
"""So many rows at a time."""


def scaled_size(sides: Sequence[int], resolution: int) -> tuple[int, int]:
    """Height and width of an image once its longer side is `resolution`; no side is below one pixel.

    Args:
        sides: Height and width.
        resolution: Pixels.

    Examples:
        >>> scaled_size((480, 640), 320)
        (240, 320)
    """
    longest = torch.sym_max(*sides)
    # To the nearest, in integers: an exported program keeps the formula, for sizes that it does not know yet.
    height, width = (torch.sym_max((2 * side * resolution + longest) // (2 * longest), 1) for side in sides)
    return height, width  # type: ignore[return-value] # whole numbers, but when exporting


def scaled_picture(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture at another size, bilinear with antialiasing: what `torch.nn.functional.interpolate` gives.

    Args:
        pixels: (3, H, W) uint8.
        size: Height and width.

    Returns:
        (3, height, width) float32 in [0, 1].
    """
    # The rows are scaled apart from the columns, and so band by band.
    bands = torch.split(pixels, ROWS, dim=1)
    narrow = torch.cat([_resized(band.float() / 255, (band.shape[1], size[1])) for band in bands], 1)
    return _resized(narrow, size)


def enlarged_rows(small: Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """A map at another size, bilinear without antialiasing: what `torch.nn.functional.interpolate` gives.

    Args:
        small: (C, h, w), floating point.
        size: Height and width.

    Yields:
        Which rows, and they themselves, (C, rows, width).
    """
    height, width = size
    wide = functional.interpolate(small[None], (small.shape[1], width), mode="bilinear", align_corners=False)[0]
    for start in range(0, height, ROWS):
        rows = slice(start, min(start + ROWS, height))
        # Pixel centres are at halves, and the border is repeated.
        y = ((torch.arange(rows.start, rows.stop) + 0.5) * (wide.shape[1] / height) - 0.5).clamp_min(0)
        above = y.long().clamp_max(wide.shape[1] - 1)
        below = (above + 1).clamp_max(wide.shape[1] - 1)
        yield rows, torch.lerp(wide[:, above], wide[:, below], (y - above)[:, None])


def _resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(picture[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
