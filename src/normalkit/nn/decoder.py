"""The U-Net decoder: which skips it takes and how it up-samples are the caller's choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normalkit.nn.upsample import doubled_conv2d, is_doubled_faster

__all__ = ["DecoderBlock", "UNetDecoder", "select_skips"]

UPSAMPLERS: dict[str, Callable[[int, int], nn.Module]] = {
    "transpose": lambda inputs, outputs: nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2),
    "bilinear": lambda inputs, outputs: nn.Upsample(scale_factor=2, mode="bilinear"),
    "nearest": lambda inputs, outputs: nn.Upsample(scale_factor=2, mode="nearest"),
}
"""How a block doubles its map; each is called with the block's input and output channels."""


class UNetDecoder(nn.Module):
    """From an encoder's feature pyramid to one map at the image's size (Ronneberger et al., 2015).

    One block per halving of the stride. With `upsample="nearest"` and every skip it has the structure and the
    widths of segmentation_models.pytorch's Unet decoder, and tensors of the same names under `blocks`.

    Args:
        encoder_channels: Channels of each level of the encoder.
        encoder_levels: The levels, shallowest first: log2 of the stride.
        decoder_channels: Output channels of each block, deepest first: one for each level down to stride 1,
            so five for an encoder whose deepest level is 5.
        skips: Levels whose maps are concatenated, in any order; None for all below the deepest, () for none.
        upsample: "transpose" (a learned 2 x 2 transposed convolution), "bilinear" or "nearest".
        output_stride: The true stride of the deepest level, where a dilated encoder has a smaller one than
            its level says; the blocks that have nothing to double then do not.

    Raises:
        ValueError: An argument does not fit the encoder; the message says what does.
        TypeError: An argument is of another type.

    Examples:
        >>> import torch
        >>> decoder = UNetDecoder((8, 16), (1, 2), (12, 4), skips=(1,), upsample="nearest")
        >>> decoder({1: torch.zeros(1, 8, 6, 10), 2: torch.zeros(1, 16, 3, 5)}).shape
        torch.Size([1, 4, 12, 20])
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        encoder_levels: Sequence[int],
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        *,
        skips: Sequence[int] | None = None,
        upsample: str = "transpose",
        output_stride: int | None = None,
    ) -> None:
        super().__init__()
        if len(encoder_channels) != len(encoder_levels):
            raise ValueError(
                f"encoder_channels={tuple(encoder_channels)} and encoder_levels={tuple(encoder_levels)}: "
                "wanted one number of channels for each level"
            )
        if list(encoder_levels) != sorted(set(encoder_levels)) or not encoder_levels or encoder_levels[0] < 1:
            raise ValueError(f"encoder_levels={tuple(encoder_levels)}: wanted rising levels, of at least 1")
        channels = dict(zip(encoder_levels, encoder_channels, strict=True))
        self.deepest = encoder_levels[-1]
        self.skips = select_skips(skips, encoder_levels, encoder="the encoder")
        _check_channels(decoder_channels, self.deepest)
        if not isinstance(upsample, str) or upsample not in UPSAMPLERS:
            raise ValueError(f"upsample={upsample!r}: wanted one of {', '.join(map(repr, UPSAMPLERS))}")
        blocks = []
        inputs = channels[self.deepest]
        dilation = 2**self.deepest // (output_stride or 2**self.deepest)
        for level, outputs in zip(reversed(range(self.deepest)), decoder_channels, strict=True):
            skip = channels[level] if level in self.skips else 0
            blocks.append(DecoderBlock(inputs, skip, outputs, upsample=upsample if dilation == 1 else None))
            inputs = outputs
            dilation = max(dilation // 2, 1)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, features: Mapping[int, Tensor]) -> Tensor:
        """Decode a pyramid.

        Args:
            features: The map (B, C, H / stride, W / stride) of each level, as `TimmEncoder` gives them.

        Returns:
            (B, decoder_channels[-1], H, W).
        """
        decoded = features[self.deepest]
        for level, block in zip(reversed(range(self.deepest)), self.blocks, strict=True):
            decoded = block(decoded, features[level] if level in self.skips else None)
        return decoded


class DecoderBlock(nn.Module):
    """Double the map, join the skip, then twice a 3 x 3 convolution, batch norm and ReLU.

    Where it is faster, the first convolution is computed from the map before it is doubled by "nearest", and from the
    skip beside it; the hooks of these modules do not run then.

    Args:
        in_channels: Channels of the map from below.
        skip_channels: Channels of the skip; 0 for none.
        out_channels: Channels of the result.
        upsample: As `UNetDecoder` takes it, or None to keep the size.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, *, upsample: str | None) -> None:
        super().__init__()
        self.upsample = UPSAMPLERS[upsample](in_channels, out_channels) if upsample else nn.Identity()
        joined = (out_channels if upsample == "transpose" else in_channels) + skip_channels
        self.conv1 = _conv_norm_relu(joined, out_channels)
        self.conv2 = _conv_norm_relu(out_channels, out_channels)

    def forward(self, below: Tensor, skip: Tensor | None = None) -> Tensor:
        """Decode one level.

        Args:
            below: (B, in_channels, H, W).
            skip: (B, skip_channels, 2H, 2W), or None where the block has no skip.

        Returns:
            (B, out_channels, 2H, 2W); H x W where the block keeps the size.
        """
        if getattr(self.upsample, "mode", None) == "nearest" and is_doubled_faster(below):
            first = self._convolve_apart(below, skip)
        else:
            doubled = self.upsample(below)
            first = self.conv1(doubled if skip is None else torch.cat([doubled, skip], dim=1))
        decoded: Tensor = self.conv2(first)
        return decoded

    def _convolve_apart(self, below: Tensor, skip: Tensor | None) -> Tensor:
        """`conv1` of the doubled map and the skip, neither of them copied."""
        convolution, norm, relu = self.conv1
        assert isinstance(convolution, nn.Conv2d)
        inputs = below.shape[1]
        convolved = doubled_conv2d(below, convolution.weight[:, :inputs], convolution.bias)
        if skip is not None:
            convolved = convolved + F.conv2d(skip, convolution.weight[:, inputs:], padding=1)
        first: Tensor = relu(norm(convolved))
        return first


def select_skips(skips: Sequence[int] | None, levels: Sequence[int], *, encoder: str) -> tuple[int, ...]:
    """The chosen levels in order, each checked against those that the encoder has.

    Args:
        skips: Levels, in any order; None for all below the deepest.
        levels: The encoder's levels, shallowest first.
        encoder: Its name, for the message.

    Raises:
        ValueError: A level is named twice, or the encoder lacks it; the message lists those it has.
        TypeError: `skips` is not a sequence of integers.
    """
    available = tuple(levels[:-1])
    if skips is None:
        return available
    if isinstance(skips, str) or not isinstance(skips, Sequence) or any(type(level) is not int for level in skips):
        raise TypeError(f"skips={skips!r}: wanted a sequence of levels such as (1, 2, 3, 4), or None for all")
    chosen = tuple(skips)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"skips={chosen}: a level is named twice; name each once")
    for level in chosen:
        if level not in available:
            raise ValueError(f"skips={chosen}: level {level} does not exist; {encoder} has levels {_range(available)}")
    return tuple(sorted(chosen))


def _range(levels: tuple[int, ...]) -> str:
    if len(levels) > 1 and levels == tuple(range(levels[0], levels[-1] + 1)):
        return f"{levels[0]}-{levels[-1]}"
    return ", ".join(map(str, levels)) or "none"


def _check_channels(decoder_channels: Sequence[int], deepest: int) -> None:
    if isinstance(decoder_channels, str) or not isinstance(decoder_channels, Sequence):
        raise TypeError(f"decoder_channels={decoder_channels!r}: wanted a sequence of {deepest} integers")
    channels = tuple(decoder_channels)
    if len(channels) != deepest:
        raise ValueError(
            f"decoder_channels={channels}: {len(channels)} numbers; wanted {deepest}, "
            f"one for each doubling from stride {2**deepest} to 1"
        )
    if any(type(width) is not int or width < 1 for width in channels):
        raise ValueError(f"decoder_channels={channels}: wanted integers of at least 1")


def _conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
