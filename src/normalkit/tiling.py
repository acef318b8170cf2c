"""A large picture worked through in overlapping tiles, whose answers are blended without a seam."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["add_tiles", "check_tile", "tile_spans"]

MIN_TILE = 16
"""Pixels; below it a tile has no border to give away."""


def add_tiles(
    result: Tensor,
    estimate: Callable[[Tensor], Tensor],
    pixels: Tensor,
    *,
    tile: int,
    stride: int = 1,
    from_right: bool = False,
) -> None:
    """Add the weighted sum of what is estimated for each tile; the weights of a pixel sum to 1.

    Of the overlap of two tiles, which is at least a quarter of a tile, the outer quarter on each side is left to the
    other tile, since a network knows little of what lies beyond its border. Between them the weights go smoothly from
    one to the other. At the picture's own border nothing is taken away.

    Memory beyond `pixels` and the result is that of one tile.

    Args:
        result: (3, H, W) float32, to add to.
        estimate: (3, h, w), a part of `pixels`, to its answer of the same shape, on the result's device.
        pixels: (3, H, W).
        tile: Side of the tiles in pixels. In a direction in which the picture is no longer than that, it is not cut.
        stride: Tiles begin at multiples of this, so that a network's grid lies on the picture as it would without
            tiles; where a tile is shorter than two of them, anywhere.
        from_right: Lay the tiles out from the right, as for the mirrored picture they are from the left.

    Raises:
        ValueError: `tile` is less than `MIN_TILE`.
        TypeError: It is no integer.
    """
    check_tile(tile)
    _, height, width = pixels.shape
    for rows, down in tile_spans(height, tile, stride):
        for columns, across in tile_spans(width, tile, stride):
            if from_right:
                columns, across = slice(width - columns.stop, width - columns.start), across.flip(0)
            result[:, rows, columns] += estimate(pixels[:, rows, columns]) * (down[:, None] * across)


def check_tile(tile: int) -> None:
    """Refuse what is no side of a tile.

    Raises:
        ValueError: It is less than `MIN_TILE`.
        TypeError: It is no integer.
    """
    if type(tile) is not int:
        raise TypeError(f"tile={tile!r}: wanted a whole number of pixels, or None for the picture as a whole")
    if tile < MIN_TILE:
        raise ValueError(f"tile={tile}: wanted at least {MIN_TILE} pixels, or None for the picture as a whole")


def tile_spans(length: int, tile: int, stride: int = 1) -> Iterator[tuple[slice, Tensor]]:
    """Where tiles lie along one side of a picture, and their weights there.

    Args:
        length: Of the side.
        tile: Of a tile.
        stride: As in `add_tiles`.

    Yields:
        Start and stop, and the weight of each place between them, float32. Over all tiles the weights of each place
        of the side sum to 1.

    Examples:
        >>> [(span.start, span.stop) for span, _ in tile_spans(100, 40)]
        [(0, 40), (30, 70), (60, 100)]
    """
    spans = [slice(start, min(start + tile, length)) for start in _starts(length, tile, stride)]
    weights = [_ramps(span, length, tile) for span in spans]
    total = torch.zeros(length, dtype=torch.float64)
    for span, weight in zip(spans, weights, strict=True):
        total[span] += weight
    for span, weight in zip(spans, weights, strict=True):
        yield span, (weight / total[span]).float()


def _starts(length: int, tile: int, stride: int) -> list[int]:
    """Spread evenly, so that the overlaps are as wide as so many tiles allow; the last tile ends with the side."""
    if length <= tile:
        return [0]
    grid = stride if tile >= 2 * stride else 1
    last = math.ceil((length - tile) / grid)
    steps = math.ceil(last / ((tile - tile // 4) // grid))
    return [i * last // steps * grid for i in range(steps + 1)]


def _ramps(span: slice, length: int, tile: int) -> Tensor:
    """1 within, and falling to 0 towards the ends that are not the picture's."""
    overlap = tile // 4
    margin = overlap // 4
    place = torch.arange(span.stop - span.start, dtype=torch.float64) + 0.5
    weight = torch.ones_like(place)
    for at_picture_s_end, inside in ((span.start == 0, place), (span.stop == length, place.flip(0))):
        if not at_picture_s_end:
            share = ((inside - margin) / (overlap - 2 * margin)).clamp(0, 1)
            weight *= (share * math.pi / 2).sin().square()
    return weight
