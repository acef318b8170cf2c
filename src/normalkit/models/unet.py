"""U-Net for surface normals on any timm encoder, its skips and up-sampling the caller's choice."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import timm
import torch
from torch import Tensor, nn

from normalkit.models.base import NormalEstimator
from normalkit.nn.decoder import UNetDecoder, select_skips
from normalkit.nn.encoder import TimmEncoder
from normalkit.nn.heads import NormalHead

if TYPE_CHECKING:
    from segmentation_models_pytorch import Unet

__all__ = ["UNetNormals"]


class UNetNormals(NormalEstimator):
    """An encoder, a U-Net decoder and one convolution to the normal.

    Args:
        encoder: Any backbone that `TimmEncoder` takes.
        pretrained: The encoder's weights, as `TimmEncoder` takes them.
        skips: Encoder levels whose maps reach the decoder; a level is log2 of its stride, 1 the shallowest.
            None for all the encoder has below its deepest, () for none.
        upsample: "transpose" (learned, the report's), "bilinear" or "nearest".
        decoder_channels: Output channels of the decoder's blocks, deepest first.
        output_stride: 32, or 8 or 16 to dilate the encoder (atrous convolution).
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
        >>> model = UNetNormals("resnet18", pretrained=False, skips=(2, 3)).eval()
        >>> normals = model(torch.rand(1, 3, 30, 50))
        >>> torch.allclose(normals.norm(dim=1), torch.ones(1, 30, 50))
        True
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        pretrained: bool | str | Path = True,
        skips: Sequence[int] | None = None,
        upsample: str = "transpose",
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        *,
        output_stride: int = 32,
        normalize: bool = True,
        resolution: int | None = None,
        concentration: float | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
    ) -> None:
        pyramid = TimmEncoder(encoder, pretrained=pretrained, output_stride=output_stride)
        decoder = UNetDecoder(
            pyramid.channels,
            pyramid.levels,
            decoder_channels,
            skips=select_skips(skips, pyramid.levels, encoder=encoder),
            upsample=upsample,
            output_stride=pyramid.stride,
        )
        super().__init__(
            config={
                "encoder": encoder,
                "skips": list(decoder.skips),
                "upsample": upsample,
                "decoder_channels": list(decoder_channels),
                "output_stride": output_stride,
            },
            stride=pyramid.stride,
            image_mean=pyramid.mean if image_mean is None else image_mean,
            image_std=pyramid.std if image_std is None else image_std,
            normalize=normalize,
            resolution=resolution,
            concentration=concentration,
        )
        self.encoder = pyramid
        self.decoder = decoder
        self.head = NormalHead(decoder_channels[-1])

    def raw_map(self, images: Tensor) -> Tensor:
        """The network itself.

        Args:
            images: (B, 3, H, W), normalised; H and W multiples of `stride`.

        Returns:
            (B, 3, H, W), of any length.
        """
        raw: Tensor = self.head(self.decoder(self.encoder(images)))
        return raw

    def modules_on_deepest_map(self) -> Iterator[nn.Module]:
        """The encoder's modules, and the decoder's first block where it keeps the size."""
        yield from self.encoder.modules()
        first = self.decoder.blocks[0]
        if isinstance(first.upsample, nn.Identity):
            yield from first.modules()

    @classmethod
    def from_smp(
        cls,
        model: Unet,
        *,
        image_mean: Sequence[float] = (0.0, 0.0, 0.0),
        image_std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> UNetNormals:
        """Take over a `Unet` of segmentation_models.pytorch, weights and all; its raw output stays the same.

        The result has `normalize=False`; pass `normalize=True` to its call, or set the attribute, for unit
        normals.

        Args:
            model: With 3 classes, batch norm and nearest up-sampling, no attention or activation, and a
                `resnet*` or `tu-*` encoder.
            image_mean: What the model's images were normalised with before they reached it; it normalises none
                itself. By default they were not.
            image_std: Likewise.

        Returns:
            A model of its own, with a copy of the weights, on the same device and in the same mode.

        Raises:
            ValueError: The model has an option that has no counterpart here; the message names it.
            TypeError: It is not a `Unet`.
        """
        name = _check_smp(model)
        ours = cls(
            name,
            pretrained=False,
            upsample="nearest",
            decoder_channels=[block.conv2[0].out_channels for block in model.decoder.blocks],
            output_stride=model.encoder.output_stride,
            normalize=False,
            image_mean=image_mean,
            image_std=image_std,
        )
        wanted = ours.state_dict()
        weights = {_our_name(key, wanted): value for key, value in model.state_dict().items()}
        if {key: value.shape for key, value in weights.items()} != {key: value.shape for key, value in wanted.items()}:
            raise ValueError(
                f"model: its tensors are not those of a plain Unet on {name}; build the encoder without options"
            )
        ours.load_state_dict(weights)
        _check_same_output(model, ours)
        return ours.to(next(model.parameters()).device).train(model.training)


def _check_smp(model: Unet) -> str:
    """The timm name of the encoder, once every option is known to have a counterpart."""
    from segmentation_models_pytorch import Unet

    if not isinstance(model, Unet):
        raise TypeError(f"model is a {type(model).__name__}; wanted a segmentation_models_pytorch.Unet")
    encoder = str(model.name).removeprefix("u-")
    timm_name = encoder.removeprefix("tu-")
    if not encoder.startswith(("resnet", "tu-")) or not timm.is_model(timm_name.partition(".")[0]):
        raise ValueError(
            f"model: encoder_name={encoder!r} has no counterpart with the same weights; wanted resnet* or tu-* encoders"
        )
    blocks, (convolution, upsampling, activation) = list(model.decoder.blocks), model.segmentation_head
    norms = [layer[1] for block in blocks for layer in (block.conv1, block.conv2)]
    attentions = [layer.attention for block in blocks for layer in (block.attention1, block.attention2)]
    first = next(layer for layer in model.encoder.modules() if isinstance(layer, nn.Conv2d))
    plain = nn.BatchNorm2d(1)
    options = {
        "encoder_depth": (len(blocks), 5),
        "decoder_interpolation": (blocks[0].interpolation_mode, "nearest"),
        "decoder_use_norm": (
            next((repr(norm) for norm in norms if not _same_norm(norm, plain)), "batchnorm"),
            "batchnorm",
        ),
        "decoder_attention_type": (next((repr(a) for a in attentions if not isinstance(a, nn.Identity)), None), None),
        "in_channels": (first.in_channels, 3),
        "classes": (convolution.out_channels, 3),
        "upsampling": (None if isinstance(upsampling, nn.Identity) else repr(upsampling), None),
        "activation": (None if isinstance(activation.activation, nn.Identity) else repr(activation.activation), None),
        "aux_params": (None if model.classification_head is None else "a classification head", None),
    }
    wrong = [f"{name}={value!r} (wanted {wanted!r})" for name, (value, wanted) in options.items() if value != wanted]
    if wrong:
        raise ValueError(f"model: {', '.join(wrong)}; UNetNormals has no such option")
    return timm_name


def _same_norm(norm: nn.Module, plain: nn.BatchNorm2d) -> bool:
    return isinstance(norm, nn.BatchNorm2d) and (norm.eps, norm.affine, norm.track_running_stats) == (
        plain.eps,
        plain.affine,
        plain.track_running_stats,
    )


def _our_name(key: str, wanted: dict[str, Tensor]) -> str:
    """What a tensor of segmentation_models.pytorch's Unet is called here."""
    key = key.replace("segmentation_head.0.", "head.")
    # Its own ResNets lie under `encoder.`, timm's under `encoder.model.` as here.
    inner = key.replace("encoder.", "encoder.model.", 1)
    return inner if key.startswith("encoder.") and inner in wanted else key


def _check_same_output(model: Unet, ours: UNetNormals) -> None:
    """Options of an encoder, such as another activation, change the output but no tensor."""
    side = 2 * ours.stride
    images = torch.linspace(-1, 1, 3 * side * side).view(1, 3, side, side)
    with torch.no_grad():
        expected = copy.deepcopy(model).cpu().float().eval()(images)
        found = ours.eval().raw_map(images)
    if not bool((found - expected).abs().max() <= 1e-3 * expected.abs().max()):
        raise ValueError(
            "model: its output differs with the same weights; build its encoder without options of its own"
        )
