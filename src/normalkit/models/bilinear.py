"""The report's first network: a bilinearly up-sampled encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from normalkit.models.base import NormalEstimator
from normalkit.nn.encoder import TimmEncoder
from normalkit.nn.heads import BilinearHead

__all__ = ["BilinearNormals"]


class BilinearNormals(NormalEstimator):
    """An encoder's deepest map, up-sampled to the image's size and then convolved.

    With ResNet-18 these are the report's modules: the encoder without its pooling and fully connected
    layers, then `upsample`.

    Args:
        encoder: Any backbone that `TimmEncoder` takes.
        pretrained: The encoder's weights, as `TimmEncoder` takes them.
        channels: Output channels of the head's 3 x 3 convolutions.
        output_stride: 32, or 8 or 16 to dilate the encoder.
        normalize: False for the raw map, as the report's network gave it.
        resolution: Pixels of the longer side that images are scaled to for the network; None leaves them.
        concentration: 1 for a network to be trained with `AngMFLoss`, which then says how sure it is; else None.
        image_mean: Mean per RGB channel for images in [0, 1]; None for the encoder's own.
        image_std: Standard deviation per RGB channel; None for the encoder's own.

    Raises:
        ValueError: An argument is out of range; the message says what is wanted.
        TypeError: An argument is of another type.
        ImportError: The package with the offline weights is not installed.
        OSError: The encoder's weights cannot be downloaded or read.

    Examples:
        >>> import torch
        >>> model = BilinearNormals("resnet18", pretrained=False, channels=(8,)).eval()
        >>> model(torch.rand(1, 3, 30, 50)).shape
        torch.Size([1, 3, 30, 50])
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        pretrained: bool | str | Path = True,
        channels: Sequence[int] = (256, 128, 64),
        *,
        output_stride: int = 32,
        normalize: bool = True,
        resolution: int | None = None,
        concentration: float | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
    ) -> None:
        pyramid = TimmEncoder(encoder, pretrained=pretrained, output_stride=output_stride)
        head = BilinearHead(pyramid.channels[-1], channels, pyramid.stride)
        super().__init__(
            config={"encoder": encoder, "channels": list(channels), "output_stride": output_stride},
            stride=pyramid.stride,
            image_mean=pyramid.mean if image_mean is None else image_mean,
            image_std=pyramid.std if image_std is None else image_std,
            normalize=normalize,
            resolution=resolution,
            concentration=concentration,
        )
        self.encoder = pyramid
        self.upsample = head

    def raw_map(self, images: Tensor) -> Tensor:
        """The network itself.

        Args:
            images: (B, 3, H, W), normalised; H and W multiples of `stride`.

        Returns:
            (B, 3, H, W), of any length.
        """
        raw: Tensor = self.upsample(self.encoder(images)[self.encoder.levels[-1]])
        return raw
