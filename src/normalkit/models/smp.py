"""Any architecture of segmentation_models.pytorch as a normal estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from normalkit.models.base import NormalEstimator
from normalkit.nn.heads import NormalHead
from normalkit.nn.weights import check_source, load_weights

__all__ = ["ARCHITECTURES", "SMPNormals"]

ARCHITECTURES = (
    "DPT",
    "DeepLabV3",
    "DeepLabV3Plus",
    "FPN",
    "Linknet",
    "MAnet",
    "PAN",
    "PSPNet",
    "Segformer",
    "UPerNet",
    "Unet",
    "UnetPlusPlus",
)
"""Their names in segmentation_models.pytorch."""

LARGEST_STRIDE = 512
"""Pixels; a network that refuses images of this size is not refused for the size."""


class SMPNormals(NormalEstimator):
    """A network of segmentation_models.pytorch whose last convolution is a `NormalHead`.

    Padding, resolution, unit output, checkpoints and prediction are those of every normal estimator.

    Args:
        arch: One of `ARCHITECTURES`, in any case.
        encoder: "tu-" and any timm backbone that the architecture takes (plain vision transformers for DPT alone).
        pretrained: The encoder's weights, as `TimmEncoder` takes them; the decoder's are random.
        options: More arguments of the architecture, such as {"encoder_output_stride": 8}; of types that JSON has.
        normalize: False for the raw map.
        resolution: Pixels of the longer side that images are scaled to for the network; None leaves them.
        concentration: 1 for a network to be trained with `AngMFLoss`, which then says how sure it is; else None.
        image_mean: Mean per RGB channel for images in [0, 1]; None for the encoder's own.
        image_std: Standard deviation per RGB channel; None for the encoder's own.

    Attributes:
        network: The network of segmentation_models.pytorch.

    Raises:
        ValueError: The architecture or encoder is unknown, they or the options do not fit, or the weights are not
            exactly the encoder's.
        TypeError: An argument is of another type.
        ImportError: The package with the offline weights is not installed.
        OSError: The encoder's weights cannot be downloaded or read.

    Examples:
        >>> model = SMPNormals("DeepLabV3Plus", "tu-resnet18", pretrained=False).eval()
        >>> model(torch.rand(1, 3, 50, 70)).shape
        torch.Size([1, 3, 50, 70])
    """

    def __init__(
        self,
        arch: str = "Unet",
        encoder: str = "tu-resnet18",
        pretrained: bool | str | Path = True,
        *,
        options: Mapping[str, Any] | None = None,
        normalize: bool = True,
        resolution: int | None = None,
        concentration: float | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
    ) -> None:
        arch, name = _architecture(arch), _timm_name(encoder)
        check_source(name, pretrained)
        network = _build(arch, encoder, dict(options or {}))
        config = timm.get_pretrained_cfg(name)
        super().__init__(
            config={"arch": arch, "encoder": encoder, "options": dict(options or {})},
            stride=_stride(network, f"arch={arch!r}, encoder={encoder!r}"),
            image_mean=(config.mean if config else IMAGENET_DEFAULT_MEAN) if image_mean is None else image_mean,
            image_std=(config.std if config else IMAGENET_DEFAULT_STD) if image_std is None else image_std,
            normalize=normalize,
            resolution=resolution,
            concentration=concentration,
        )
        if pretrained is not False:
            load_weights(network.encoder.model, name, pretrained)
        self.network = network

    def raw_map(self, images: Tensor) -> Tensor:
        """The network itself.

        Args:
            images: (B, 3, H, W), normalised; H and W multiples of `stride`.

        Returns:
            (B, 3, H, W), of any length.

        Raises:
            ValueError: Batch norm is to train on a single image, which the architecture pools to one pixel.
        """
        try:
            raw: Tensor = self.network(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"images: {self.config['arch']} pools a single one to one value per channel, and batch norm cannot "
                "train on one; use two or more images in a batch, or `model.eval()`"
            ) from error
        return raw


def _architecture(arch: str) -> str:
    if not isinstance(arch, str):
        raise TypeError(f"arch={arch!r}: wanted a name, one of {', '.join(ARCHITECTURES)}")
    names = {name.lower(): name for name in ARCHITECTURES}
    if arch.lower() not in names:
        raise ValueError(f"arch={arch!r}: wanted one of {', '.join(ARCHITECTURES)}")
    return names[arch.lower()]


def _timm_name(encoder: str) -> str:
    if not isinstance(encoder, str):
        raise TypeError(f"encoder={encoder!r}: wanted 'tu-' and the name of a timm model, such as 'tu-resnet18'")
    name = encoder.removeprefix("tu-")
    if name == encoder or not timm.is_model(name.partition(".")[0]):
        raise ValueError(
            f"encoder={encoder!r}: wanted 'tu-' and the name of a timm model, such as 'tu-resnet18'; "
            "`timm.list_models()` lists them"
        )
    return name


def _build(arch: str, encoder: str, options: dict[str, Any]) -> Any:
    """The network with random weights, and our head."""
    own = sorted(options.keys() & {"encoder_name", "encoder_weights", "classes", "in_channels", "activation"})
    if own:
        raise ValueError(f"options: {', '.join(own)} are set here; leave them out")
    try:
        network = getattr(smp, arch)(encoder, encoder_weights=None, classes=3, **options)
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError, KeyError, IndexError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"arch={arch!r} cannot be built on encoder={encoder!r} with options={options}: {reason}; choose another "
            "encoder, such as 'tu-resnet18', for DPT a plain vision transformer, such as 'tu-vit_small_patch16_224'"
        ) from error
    # DPT's head is a module around its layers.
    layers = getattr(network.segmentation_head, "head", network.segmentation_head)
    number = max(i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))
    layers[number] = NormalHead(layers[number].in_channels, kernel_size=layers[number].kernel_size[0])
    return network


def _stride(network: Any, what: str) -> int:
    """The least power of two whose multiples the network takes: more than its encoder's where it pools deeper."""
    stride = int(network.encoder.output_stride)
    reason = ""
    network.eval()
    with torch.no_grad():
        while stride <= LARGEST_STRIDE:
            try:
                if network(torch.zeros(1, 3, stride, 3 * stride)).shape == (1, 3, stride, 3 * stride):
                    network.train()
                    return stride
                reason = "its map has another size than the image"
            except (RuntimeError, AssertionError, ValueError) as error:
                reason = str(error).partition("\n")[0] or type(error).__name__
            stride *= 2
    raise ValueError(f"{what}: it cannot take images of any size ({reason}); choose another encoder")
