"""Feature pyramids of timm backbones, their weights checked to the last tensor."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.conv2d_same import Conv2dSame
from timm.models import FeatureInfo
from torch import Tensor, nn
from torch.nn import functional

from normalkit.nn.weights import check_source, load_weights

__all__ = ["TimmEncoder"]


class TimmEncoder(nn.Module):
    """The feature pyramid of a timm backbone.

    A level is log2 of its stride in the backbone as published: level 1 has stride 2, level 5 stride 32. The
    names stay when `output_stride` dilates the backbone, and `strides` then tells the true ones.

    Args:
        name: Any timm backbone with a pyramid that takes images of any size: ResNet, RegNet, EfficientNet,
            MobileNet, VGG, DenseNet, ConvNeXt, Swin and others; with or without timm's tag of the weights.
        pretrained: True for timm's own weights (downloaded once), False for random ones, `"offline"` for
            those of an installed package (`tf_efficientnet_lite0` only), or the path of a `.safetensors` or
            `.pth` file with the weights of the whole timm model.
        output_stride: 32, or 8 or 16 to dilate the deep stages instead of striding (atrous convolution).

    Attributes:
        name: The timm name.
        levels: The pyramid's levels, shallowest first, for example (1, 2, 3, 4, 5).
        channels: Channels of each level.
        strides: Stride of each level.
        stride: The deepest level's stride, of which the image's sides must be multiples.
        mean: Mean per RGB channel that images in [0, 1] are to be normalised with.
        std: Standard deviation per RGB channel, likewise.

    Raises:
        ValueError: The encoder is unknown or does not fit, or the weights are not exactly its own.
        TypeError: An argument is of another type.
        ImportError: The package with the offline weights is not installed.
        OSError: The weights cannot be downloaded or read.

    Examples:
        >>> import torch
        >>> encoder = TimmEncoder("resnet18", pretrained=False)
        >>> {level: tuple(map.shape) for level, map in encoder(torch.zeros(1, 3, 64, 96)).items() if level > 3}
        {4: (1, 256, 4, 6), 5: (1, 512, 2, 3)}
    """

    def __init__(self, name: str, *, pretrained: bool | str | Path = True, output_stride: int = 32) -> None:
        super().__init__()
        _check_name(name)
        check_source(name, pretrained)
        indices, levels = _pyramid(name)
        self.name = name
        self.model = _build(name, indices, output_stride)
        _fix_same_padding(self.model)
        info = _feature_info(self.model)
        self.levels = levels
        self.channels: tuple[int, ...] = tuple(info.channels())
        self.strides: tuple[int, ...] = tuple(info.reduction())
        self.stride = self.strides[-1]
        config = timm.get_pretrained_cfg(name)
        self.mean: tuple[float, ...] = tuple(config.mean if config else IMAGENET_DEFAULT_MEAN)
        self.std: tuple[float, ...] = tuple(config.std if config else IMAGENET_DEFAULT_STD)
        # Swin and its kin give their maps as (B, H, W, C).
        self._channels_last = str(getattr(self.model, "output_fmt", None)).endswith("NHWC")
        self._check_any_size()
        if pretrained is not False:
            load_weights(self.model, name, pretrained)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """The feature maps of a batch.

        Args:
            images: (B, 3, H, W), already normalised with `mean` and `std`; H and W multiples of `stride`.

        Returns:
            For each of `levels` a map (B, C, H / stride, W / stride).

        Raises:
            ValueError: H or W is not a multiple of `stride`.
        """
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"images has shape {tuple(images.shape)}; {self.name} wants sides that are multiples of {self.stride}: "
                "pad them, or use a model such as `UNetNormals`, which does"
            )
        maps = self.model(images)
        if self._channels_last:
            maps = [feature.permute(0, 3, 1, 2) for feature in maps]
        return dict(zip(self.levels, maps, strict=True))

    def extra_repr(self) -> str:
        """The name and the levels, for `print`."""
        return f"name={self.name!r}, levels={self.levels}, strides={self.strides}"

    def _check_any_size(self) -> None:
        """Run one image of an unusual shape: an attention bound to one size fails, or its maps do."""
        device = next(self.model.parameters()).device
        if device.type == "meta":  # Built for its shapes alone, and slow to run.
            return
        height, width = self.stride, 3 * self.stride
        image = torch.zeros(1, 3, height, width, device=device)
        was_training = self.model.training
        self.model.eval()
        reason = ""
        try:
            with torch.no_grad():
                maps = self(image)
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
        else:
            for channels, stride, feature in zip(self.channels, self.strides, maps.values(), strict=True):
                wanted = (1, channels, height // stride, width // stride)
                if tuple(feature.shape) != wanted:
                    reason = f"a map of shape {tuple(feature.shape)} where {wanted} was due"
        self.model.train(was_training)
        if reason:
            raise ValueError(_refusal(self.name, f"it cannot take images of any size ({width} x {height}: {reason})"))


class StaticSameConv2d(nn.Conv2d):
    """TensorFlow's "SAME" convolution with constant padding.

    timm computes the padding from each map's size, which `torch.export` cannot follow for a symbolic one; where
    the stride divides the size, as it does for every map of this encoder, it is constant.

    Args:
        convolution: timm's, whose weights are taken over.
    """

    def __init__(self, convolution: Conv2dSame) -> None:
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            _pair(convolution.kernel_size),
            stride=_pair(convolution.stride),
            dilation=_pair(convolution.dilation),
            groups=convolution.groups,
            bias=convolution.bias is not None,
            device="meta",
        )
        self.weight, self.bias = convolution.weight, convolution.bias
        sizes = zip(self.kernel_size, self.dilation, self.stride, strict=True)
        vertical, horizontal = (max((kernel - 1) * dilation + 1 - stride, 0) for kernel, dilation, stride in sizes)
        self.same_padding = (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve a map (B, C, H, W) whose sides are multiples of the stride."""
        return super().forward(functional.pad(features, self.same_padding))


def _pair(numbers: tuple[int, ...]) -> tuple[int, int]:
    vertical, horizontal = numbers
    return vertical, horizontal


def _fix_same_padding(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            # Subclasses prepare their weights as well, and stay as they are.
            if type(child) is Conv2dSame:
                setattr(parent, name, StaticSameConv2d(child))


def _refusal(name: str, why: str) -> str:
    return (
        f"encoder={name!r}: {why}; choose a convolutional encoder or a Swin, or, for a plain vision transformer, "
        f"`SMPNormals('DPT', encoder='tu-{name}')`"
    )


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"encoder={name!r}: wanted the name of a timm model, such as 'resnet18'")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=5)
        mend = f"did you mean {', '.join(near)}?" if near else "`timm.list_models()` lists them"
        raise ValueError(f"encoder={name!r}: timm has no such model; {mend}")
    if tag:
        tagged = timm.list_models(f"{architecture}.*", pretrained=True)
        if name not in tagged:
            raise ValueError(f"encoder={name!r}: no weights have this tag; timm has {', '.join(tagged) or 'none'}")


def _pyramid(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which of the backbone's feature maps to take, and their levels: the last map of each stride above 1."""
    try:
        with torch.device("meta"):
            info = _feature_info(_create(name, indices=(-1,))).info
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(_refusal(name, f"timm gives no feature maps of it ({reason})")) from error
    # TResNet lists a stem that has no module to take a map from.
    last = {entry["reduction"]: index for index, entry in enumerate(info) if entry["module"]}
    strides = sorted(stride for stride in last if stride > 1)
    if len(strides) < 2:
        raise ValueError(
            _refusal(name, f"it gives no pyramid: its maps all have stride {strides[0] if strides else 1}")
        )
    if any(stride & (stride - 1) for stride in strides):
        raise ValueError(_refusal(name, f"its strides {strides} are not powers of two"))
    return tuple(last[stride] for stride in strides), tuple(stride.bit_length() - 1 for stride in strides)


def _create(name: str, *, indices: tuple[int, ...] | None = None, output_stride: int = 32) -> nn.Module:
    """The feature extractor, free of a fixed image size where the family has that option."""
    options: dict[str, Any] = {} if indices is None else {"out_indices": indices}
    if output_stride != 32:
        options["output_stride"] = output_stride
    try:
        return timm.create_model(name, features_only=True, strict_img_size=False, **options)
    except TypeError as error:
        if "strict_img_size" not in str(error):
            raise
    return timm.create_model(name, features_only=True, **options)


def _build(name: str, indices: tuple[int, ...], output_stride: int) -> nn.Module:
    if type(output_stride) is not int or output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride={output_stride!r}: wanted 8, 16 or 32")
    if output_stride == 32:
        return _create(name, indices=indices)
    refusal = (
        f"output_stride={output_stride}: {name} cannot be dilated; use output_stride=32, or an encoder such as "
        "resnet18, regnetx_002, tf_efficientnet_lite0 or convnext_atto"
    )
    try:
        model = _create(name, indices=indices, output_stride=output_stride)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise ValueError(refusal) from error
    # Some families take the argument and do nothing with it.
    if _feature_info(model).reduction()[-1] != output_stride:
        raise ValueError(refusal)
    return model


def _feature_info(extractor: nn.Module) -> FeatureInfo:
    info = extractor.feature_info
    if not isinstance(info, FeatureInfo):
        raise AttributeError("it does not describe them")
    return info
