"""A convolution of an up-sampled map, bilinear or nearest, computed from the small map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["doubled_conv2d", "is_doubled_faster", "upsampled_conv2d"]

DOUBLED_PIXELS = 512
"""From so many pixels of a batch on, two thirds fewer multiplications outweigh the making of their kernel."""


def upsampled_conv2d(features: Tensor, weight: Tensor, bias: Tensor | None = None, *, scale: int) -> Tensor:
    """Convolve a bilinearly up-sampled map, mostly without making it.

    Gives what `conv2d(interpolate(features, scale_factor=scale, mode="bilinear"), weight, bias, padding="same")`
    gives, and so do its gradients, up to rounding.

    Up-sampling is linear along each axis: row Y of the large map is the sum of U[Y, i] times row i of the small
    one. Tap p of a kernel of k rows reads the large map p - k // 2 rows on, and zeros beyond its border, so it
    has a matrix of its own, U with its rows moved: V[Y, i, p] = U[Y + p - k // 2, i], or 0 where U has no such
    row. Along x likewise, with tap q and column j. The sum over the channels c goes first, where it is cheap:

        z[o, i, j, p, q] = sum over c of weight[o, c, p, q] * features[c, i, j]
        t[o, i, p, X] = sum over j, q of V[X, j, q] * z[o, i, j, p, q]
        out[o, Y, X] = bias[o] + sum over i, p of V[Y, i, p] * t[o, i, p, X]

    Each line is a matrix product. The first is k * k convolutions of 1 x 1 on the small map, 1 / scale**2 of the
    plain work. The others cost each output about as many multiplications as the map has rows; so the plain way
    is taken for a map that is large for its channels, and for a scale of 1.

    Args:
        features: (B, C, H, W), floating point. Where one value is not finite, nothing in its map need be.
        weight: (O, C, k, l), k and l odd.
        bias: (O,), or None.
        scale: How many times the map is enlarged along each axis.

    Returns:
        (B, O, scale * H, scale * W); the fast way lays it out as `torch.channels_last`.

    Raises:
        ValueError: Shapes do not fit each other, a side of the kernel is even, or the scale is not an integer
            of at least 1.

    Examples:
        >>> features, weight = torch.rand(1, 8, 3, 4), torch.rand(2, 8, 3, 3)
        >>> plain = F.conv2d(F.interpolate(features, scale_factor=16, mode="bilinear"), weight, padding=1)
        >>> torch.allclose(upsampled_conv2d(features, weight, scale=16), plain, rtol=1e-5)
        True
    """
    _check(features, weight, scale)
    batch, channels, height, width = features.shape
    outputs, _, rows, columns = weight.shape
    if not _is_fast(features, weight, scale):
        large = F.interpolate(features, scale_factor=scale, mode="bilinear") if scale > 1 else features
        return F.conv2d(large, weight, bias, padding=(rows // 2, columns // 2))

    # Channels come last throughout, as the products leave them and as processors convolve fastest.
    taps = features.permute(0, 2, 3, 1).reshape(-1, channels) @ weight.permute(1, 2, 3, 0).reshape(channels, -1)
    taps = taps.view(batch, height, width, rows, columns, outputs).transpose(2, 3)
    across = _moved_interpolation(width, columns, scale, features)
    wide = across @ taps.reshape(batch * height * rows, width * columns, outputs)
    wide = wide.view(batch, height * rows, scale * width * outputs)
    down = _moved_interpolation(height, rows, scale, features).expand(batch, -1, -1)
    large = torch.bmm(down, wide) if bias is None else torch.baddbmm(bias.repeat(scale * width), down, wide)
    return large.view(batch, scale * height, scale * width, outputs).permute(0, 3, 1, 2)


def doubled_conv2d(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve a map whose every pixel is doubled along both axes, without making it.

    Gives what `conv2d(interpolate(features, scale_factor=2, mode="nearest"), weight, bias, padding="same")` gives, and
    so do its gradients, up to rounding.

    Doubling is a transposed convolution of stride 2 with a kernel of 2 x 2 ones, so both together are one with the
    convolution of the two kernels, k + 1 taps a side. Each output reads a quarter of them: for a kernel of 3 x 3 these
    are 4, the plain way's 9 with equal pixels taken together.

    Args:
        features: (B, C, H, W), floating point.
        weight: (O, C, k, l), k and l odd.
        bias: (O,), or None.

    Returns:
        (B, O, 2H, 2W).

    Raises:
        ValueError: Shapes do not fit each other, or a side of the kernel is even.

    Examples:
        >>> features, weight = torch.rand(1, 8, 3, 4), torch.rand(2, 8, 3, 3)
        >>> plain = F.conv2d(F.interpolate(features, scale_factor=2, mode="nearest"), weight, padding=1)
        >>> torch.allclose(doubled_conv2d(features, weight), plain, rtol=1e-5)
        True
    """
    _check(features, weight, 2)
    outputs, channels, rows, columns = weight.shape
    units = torch.eye(rows * columns, dtype=weight.dtype, device=weight.device).view(-1, rows, columns)
    # A transposed convolution turns its kernel around.
    spread = torch.stack([F.pad(units, (x, 1 - x, y, 1 - y)) for x in (0, 1) for y in (0, 1)]).sum(0)
    spread = spread.flip(1, 2).flatten(1)
    kernel = (weight.transpose(0, 1).flatten(2) @ spread).view(channels, outputs, rows + 1, columns + 1)
    return F.conv_transpose2d(features, kernel, bias, stride=2, padding=(rows // 2, columns // 2))


def is_doubled_faster(features: Tensor) -> bool:
    """Whether `doubled_conv2d` beats making the large map; measured on a processor, with kernels of 3 x 3.

    Args:
        features: (B, C, H, W), the small map.
    """
    # An exported program has one way for every size.
    if features.device.type != "cpu" or torch.compiler.is_exporting():
        return False
    batch, _, height, width = features.shape
    return batch * height * width >= DOUBLED_PIXELS


def _moved_interpolation(size: int, taps: int, scale: int, features: Tensor) -> Tensor:
    """V of one axis, (scale * size, size * taps)."""
    # The weights of the interpolation are torch's own: what it makes of the unit vectors.
    units = torch.eye(size, dtype=features.dtype, device=features.device)
    enlarged = F.interpolate(units[None], scale_factor=scale, mode="linear")[0]
    moved = F.pad(enlarged, (taps // 2, taps // 2)).unfold(1, taps, 1)
    return moved.transpose(0, 1).reshape(scale * size, size * taps)


def _is_fast(features: Tensor, weight: Tensor, scale: int) -> bool:
    """Whether the plain way would be slower.

    Measured on a processor with kernels of 1 to 9, scales of 2 to 32, maps of 4 to 128 and 3 to 512 channels: the
    slower way is seldom taken, and is then less than twice as slow.
    """
    if scale == 1:
        return False
    # An exported program has one way for every size.
    if torch.compiler.is_exporting():
        return True
    _, channels, height, width = features.shape
    return max(height * weight.shape[2], width * weight.shape[3]) < 3 * channels * scale


def _check(features: Tensor, weight: Tensor, scale: int) -> None:
    if features.ndim != 4 or weight.ndim != 4 or features.shape[1] != weight.shape[1]:
        raise ValueError(
            f"features has shape {tuple(features.shape)} and weight {tuple(weight.shape)}; wanted (B, C, H, W) and "
            "(O, C, k, l), with the same C"
        )
    if weight.shape[2] % 2 == 0 or weight.shape[3] % 2 == 0:
        raise ValueError(f"weight has a kernel of {tuple(weight.shape[2:])}: wanted odd sides, so that the size stays")
    if type(scale) is not int or scale < 1:
        raise ValueError(f"scale={scale!r}: wanted an integer of at least 1")
