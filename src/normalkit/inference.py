"""Normals of a picture: any size, from a path, a PIL image, an array or a tensor."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normalkit.geometry import normalize
from normalkit.images import read_image

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["device_of", "evaluation_mode", "predict", "predict_batch"]


def predict(
    model: nn.Module, image: str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor, *, flip: bool = False
) -> Tensor:
    """Estimate the normals of one picture.

    Args:
        model: As in `normalkit.models`; used in eval mode where its parameters are, and left as it was.
        image: A path, a PIL image, an array (H, W, 3) or (H, W), or a tensor (3, H, W); uint8, or float in
            [0, 1]. EXIF orientation is followed.
        flip: Average with the prediction for the mirrored picture: a little better, at twice the time.

    Returns:
        (3, H, W) float32 unit normals, `Convention.OPENCV`, on the CPU; 0 where the model gives no direction.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: The file is no picture, the array has no picture's shape or range, or the model returns no
            normals.
        MemoryError: The picture is too large for the device's memory.

    Examples:
        >>> from normalkit import UNetNormals
        >>> model = UNetNormals("test_resnet", pretrained=False)
        >>> predict(model, torch.rand(3, 30, 50)).shape
        torch.Size([3, 30, 50])
    """
    pixels = read_image(image)
    device = device_of(model)
    with evaluation_mode(model):
        try:
            prediction = predict_batch(model, pixels.to(device)[None].float() / 255, flip=flip)[0]
        except RuntimeError as error:
            # A GPU's error has a class of its own, a processor's only its message.
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            _, height, width = pixels.shape
            raise MemoryError(f"a picture of {width} x {height} does not fit into memory; shrink it") from error
    return normalize(prediction.float(), dim=0).cpu()


def predict_batch(model: nn.Module, images: Tensor, *, flip: bool = False) -> Tensor:
    """Normals of a batch, as the model is: no change of mode or device.

    Args:
        model: Returns normals (B, 3, H, W) for images (B, 3, H, W) in [0, 1].
        images: (B, 3, H, W) float in [0, 1].
        flip: Average with the prediction for the mirrored pictures.

    Returns:
        (B, 3, H, W): what the model gives, or with `flip` the unit mean of its two answers, NaN where one of them is
        zero or not finite.

    Raises:
        ValueError: The model returns anything else.
    """
    prediction = _normals(model, images)
    if not flip:
        return prediction
    mirrored = _normals(model, images.flip(-1)).flip(-1)
    # A mirror turns the vectors too: nx changes sign.
    mirrored = mirrored * mirrored.new_tensor([-1.0, 1.0, 1.0]).view(1, 3, 1, 1)
    mean = normalize(normalize(prediction) + normalize(mirrored))
    # Where one of the two has no direction the other one alone would hide it from the metrics.
    usable = [
        (answer.isfinite().all(1, keepdim=True) & answer.any(1, keepdim=True)) for answer in (prediction, mirrored)
    ]
    return torch.where(usable[0] & usable[1], mean, math.nan)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters or buffers are; the CPU for one without any.

    Args:
        model: Any, with all of them on one device.
    """
    return next(itertools.chain(model.parameters(), model.buffers()), torch.empty(0)).device


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients within the block; afterwards each part of the model is in its own mode again.

    Args:
        model: Any, also with parts in different modes.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # Not inference mode: its tensors may not be changed or trained on later.
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _normals(model: nn.Module, images: Tensor) -> Tensor:
    prediction: Tensor = model(images)
    if not isinstance(prediction, Tensor) or prediction.shape != images.shape:
        found = tuple(prediction.shape) if isinstance(prediction, Tensor) else type(prediction).__name__
        raise ValueError(
            f"model: for images {tuple(images.shape)} it returned {found}; wanted normals of the images' shape"
        )
    return prediction
