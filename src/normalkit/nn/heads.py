"""Heads: from a feature map to three channels, the raw normals."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from normalkit.nn.upsample import upsampled_conv2d

__all__ = ["BilinearHead", "NormalHead"]


class NormalHead(nn.Conv2d):
    """One convolution to the three components of a normal, at the size of its input.

    Args:
        in_channels: Channels of the feature map.
        kernel_size: Side of the kernel; odd, so that the size stays.

    Raises:
        ValueError: The kernel is even, or a number is below 1.

    Examples:
        >>> import torch
        >>> NormalHead(16)(torch.zeros(2, 16, 5, 7)).shape
        torch.Size([2, 3, 5, 7])
    """

    def __init__(self, in_channels: int, *, kernel_size: int = 3) -> None:
        _check_positive("in_channels", in_channels)
        if type(kernel_size) is not int or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size!r}: wanted an odd integer of at least 1")
        super().__init__(in_channels, 3, kernel_size, padding=kernel_size // 2)
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class BilinearHead(nn.Sequential):
    """Up-sample the encoder's deepest map to the image's size, then convolve: the report's first network.

    `Upsample`, then for each of `channels` a 3 x 3 convolution and a ReLU, then a 1 x 1 convolution to the
    three components. The first two modules are computed as one, by `upsampled_conv2d`: their hooks do not run.

    Args:
        in_channels: Channels of the encoder's deepest map.
        channels: Output channels of the 3 x 3 convolutions.
        scale: The encoder's stride.

    Raises:
        ValueError: A number is below 1.
        TypeError: `channels` is not a sequence.

    Examples:
        >>> import torch
        >>> BilinearHead(8, (4,), 32)(torch.zeros(1, 8, 2, 3)).shape
        torch.Size([1, 3, 64, 96])
    """

    def __init__(self, in_channels: int = 512, channels: Sequence[int] = (256, 128, 64), scale: int = 32) -> None:
        _check_positive("in_channels", in_channels)
        _check_positive("scale", scale)
        if isinstance(channels, str) or not isinstance(channels, Sequence):
            raise TypeError(f"channels={channels!r}: wanted a sequence of integers such as (256, 128, 64)")
        layers: list[nn.Module] = [nn.Upsample(scale_factor=scale, mode="bilinear")]
        for width in channels:
            _check_positive("channels", width)
            layers += [nn.Conv2d(in_channels, width, kernel_size=3, padding=1), nn.ReLU()]
            in_channels = width
        layers.append(nn.Conv2d(in_channels, 3, kernel_size=1))
        super().__init__(*layers)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """The raw normals.

        Args:
            features: (B, in_channels, H, W).

        Returns:
            (B, 3, scale * H, scale * W), of any length.
        """
        _, first, *rest = self
        assert isinstance(first, nn.Conv2d)
        raw = upsampled_conv2d(features, first.weight, first.bias, scale=self.scale)
        for layer in rest:
            # In place, as new memory costs more than the ReLU; but autograd would copy all of the first map, a view.
            raw = raw.relu_() if isinstance(layer, nn.ReLU) and not raw.requires_grad else layer(raw)
        return raw

    def _get_name(self) -> str:
        # Printed as the report prints it, so that the two can be compared line by line.
        return "Sequential"


def _check_positive(name: str, number: int) -> None:
    if type(number) is not int or number < 1:
        raise ValueError(f"{name}={number!r}: wanted an integer of at least 1")
