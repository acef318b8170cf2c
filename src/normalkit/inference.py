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
from normalkit.scaling import ROWS, enlarged_rows, scaled_picture, scaled_size
from normalkit.tiling import MIN_TILE, add_tiles, check_tile

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from normalkit.models.base import NormalEstimator

__all__ = ["device_of", "evaluation_mode", "predict", "predict_batch", "predict_with_error"]


def predict(
    model: nn.Module,
    image: str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor,
    *,
    flip: bool = False,
    tile: int | None = None,
) -> Tensor:
    """Estimate the normals of one picture; `predict_with_error` also says how sure they are.

    Args:
        model: As in `normalkit.models`; used in eval mode where its parameters are, and left as it was.
        image: A path, a PIL image, an array (H, W, 3) or (H, W), or a tensor (3, H, W); uint8, or float in
            [0, 1]. EXIF orientation is followed.
        flip: Average with the prediction for the mirrored picture: a little better, at twice the time.
        tile: Work through the picture in overlapping tiles with sides of so many pixels, whose answers are blended
            without a seam: for pictures too large for the memory, which is then needed for the picture, the result
            and a tile. A picture no larger than a tile is answered as without. The pixels are those that the network
            sees: where the model has a `resolution`, the picture is scaled to it as a whole and then cut, so that
            objects keep the size that the network knows. At least 16; the larger, the more each tile sees of what is
            around.

    Returns:
        (3, H, W) float32 unit normals, `Convention.OPENCV`, on the CPU; 0 where the model gives no direction.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: The file is no picture, the array has no picture's shape or range, the model returns no
            normals, or `tile` is below 16.
        TypeError: `tile` is no integer.
        MemoryError: The picture, or the tile, is too large for the device's memory.

    Examples:
        >>> from normalkit import UNetNormals
        >>> model = UNetNormals("test_resnet", pretrained=False)
        >>> predict(model, torch.rand(3, 30, 50)).shape
        torch.Size([3, 30, 50])
        >>> predict(model, torch.rand(3, 100, 150), tile=64).shape
        torch.Size([3, 100, 150])
    """
    if tile is not None:
        check_tile(tile)
    pixels = read_image(image)
    with evaluation_mode(model), _memory_named(pixels, tile):
        if tile is not None:
            return _predict_in_tiles(model, pixels, flip=flip, tile=tile)
        images = pixels.to(device_of(model))[None].float() / 255
        return normalize(predict_batch(model, images, flip=flip)[0].float(), dim=0).cpu()


def predict_with_error(
    model: NormalEstimator,
    image: str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor,
    *,
    flip: bool = False,
    tile: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Estimate the normals of one picture, and the error that the network expects of each.

    Args:
        model: Trained with `AngMFLoss`, so that it has a `concentration`.
        image: As in `predict`.
        flip: As in `predict`; where the two answers disagree, the error is larger.
        tile: As in `predict`.

    Returns:
        (3, H, W) float32 unit normals, `Convention.OPENCV`, and (H, W) float32 degrees, both on the CPU; 0 and 90 where
        the model gives no direction.

    Raises:
        ValueError: The model has no concentration; and as `predict`.
        OSError: As `predict`.
        TypeError: As `predict`.
        MemoryError: As `predict`.
    """
    from normalkit.uncertainty import check_sure, normals_and_error

    concentration = check_sure(model)
    if tile is not None:
        check_tile(tile)
    pixels = read_image(image)
    with evaluation_mode(model), _memory_named(pixels, tile):
        raw = _raw_map(model, pixels, flip=flip, tile=tile)
        normals, error = normals_and_error(raw[None], concentration)
    return normals[0], error[0]


@contextmanager
def _memory_named(pixels: Tensor, tile: int | None) -> Iterator[None]:
    """Say what to do where the memory does not suffice."""
    try:
        yield
    except RuntimeError as error:
        # A GPU's error has a class of its own, a processor's only its message.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        _, height, width = pixels.shape
        mend = "shrink it, or work in tiles (tile=1024)" if tile is None else f"use smaller tiles than {tile}"
        raise MemoryError(f"a picture of {width} x {height} does not fit into memory; {mend}") from error


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
    mirrored = _mirrored(model, images)
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


def _predict_in_tiles(model: nn.Module, pixels: Tensor, *, flip: bool, tile: int) -> Tensor:
    """Unit normals (3, H, W) of a picture (3, H, W), uint8."""
    resolution = _whole_number(model, "resolution")
    if resolution is not None:
        return _predict_scaled(model, pixels, resolution, flip=flip, tile=tile)
    total = torch.zeros(pixels.shape)
    for mirror in _mirrors(flip):
        _add_answers(total, model, pixels, tile=tile, mirror=mirror, unit=True)
    for band in torch.split(total, ROWS, dim=1):
        band.copy_(normalize(band, dim=0))
    return total


def _predict_scaled(model: nn.Module, pixels: Tensor, resolution: int, *, flip: bool, tile: int) -> Tensor:
    """The same as `NormalEstimator.forward` does it: the picture scaled to the network, and its raw map back."""
    size = (pixels.shape[1], pixels.shape[2])
    shown = scaled_picture(pixels, scaled_size(size, resolution))
    maps = [torch.zeros_like(shown) for _ in _mirrors(flip)]
    with _as_is(model):
        for total, mirror in zip(maps, _mirrors(flip), strict=True):
            _add_answers(total, model, shown, tile=tile, mirror=mirror)
    result = torch.empty(pixels.shape)
    for bands in zip(*(enlarged_rows(small, size) for small in maps), strict=True):
        rows = bands[0][0]
        result[:, rows] = normalize(torch.stack([normalize(band, dim=0) for _, band in bands]).sum(0), dim=0)
    return result


def _raw_map(model: NormalEstimator, pixels: Tensor, *, flip: bool, tile: int | None) -> Tensor:
    """The raw map (3, H, W) of a picture (3, H, W), uint8, on the CPU; with `flip` the mean of both."""
    size, resolution = (pixels.shape[1], pixels.shape[2]), model.resolution
    shown = pixels
    if tile is not None and resolution is not None:
        shown = scaled_picture(pixels, scaled_size(size, resolution))
    with _as_is(model, resolution=resolution if tile is None else None):
        total = torch.zeros(shown.shape)
        for mirror in _mirrors(flip):
            _add_answers(total, model, shown, tile=tile or max(*size, MIN_TILE), mirror=mirror)
    total /= len(_mirrors(flip))
    if total.shape == pixels.shape:
        return total
    result = torch.empty(pixels.shape)
    for rows, band in enlarged_rows(total, size):
        result[:, rows] = band
    return result


def _mirrors(flip: bool) -> tuple[bool, ...]:
    """Whether the picture is to be mirrored, for each answer of which the mean is wanted."""
    return (False, True) if flip else (False,)


def _add_answers(
    total: Tensor, model: nn.Module, pixels: Tensor, *, tile: int, mirror: bool, unit: bool = False
) -> None:
    """Add what the model gives for each tile, as it is or made unit length."""
    device, answer = device_of(model), _mirrored if mirror else _normals

    def estimate(part: Tensor) -> Tensor:
        images = part.to(device)[None]
        found = answer(model, images if images.is_floating_point() else images.float() / 255).float()
        return (normalize(found) if unit else found)[0].cpu()

    add_tiles(total, estimate, pixels, tile=tile, stride=_whole_number(model, "stride") or 1, from_right=mirror)


@contextmanager
def _as_is(model: nn.Module, *, resolution: int | None = None) -> Iterator[None]:
    """A normal estimator that neither scales its answer's vectors nor, by default, its images."""
    changed = {"resolution": resolution, "normalize": False}
    before = {name: getattr(model, name) for name in changed}
    try:
        for name, value in changed.items():
            setattr(model, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(model, name, value)


def _whole_number(model: nn.Module, name: str) -> int | None:
    """An attribute of normal estimators; None where it is none, or another thing, as a convolution's `stride` is."""
    value = getattr(model, name, None)
    return value if type(value) is int else None


def _mirrored(model: nn.Module, images: Tensor) -> Tensor:
    """The answer for the mirrored pictures, mirrored back."""
    prediction = _normals(model, images.flip(-1)).flip(-1)
    # A mirror turns the vectors too: nx changes sign.
    return prediction * prediction.new_tensor([-1.0, 1.0, 1.0]).view(1, 3, 1, 1)


def _normals(model: nn.Module, images: Tensor) -> Tensor:
    prediction: Tensor = model(images)
    if not isinstance(prediction, Tensor) or prediction.shape != images.shape:
        found = tuple(prediction.shape) if isinstance(prediction, Tensor) else type(prediction).__name__
        raise ValueError(
            f"model: for images {tuple(images.shape)} it returned {found}; wanted normals of the images' shape"
        )
    return prediction
