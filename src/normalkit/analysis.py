"""Where a model errs: by image, and by the direction that a surface faces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from normalkit.data.sample import Sample
from normalkit.geometry import angular_error, normalize, rotate_normals, valid_normals
from normalkit.inference import device_of, evaluation_mode, predict_batch
from normalkit.metrics import SurfaceNormalMetrics, surface_normal_metrics

__all__ = [
    "DIRECTIONS",
    "ErrorReport",
    "ImageErrors",
    "best_rotation",
    "error_report",
    "facing_directions",
    "up_direction",
]

DIRECTIONS = ("up", "upright", "down", "slanted")
"""What surfaces face: up as floors and table tops do; upright are walls and fronts; down, ceilings; and the rest."""

UPRIGHT_CAMERA = (0.0, -1.0, 0.0)
"""Up, in OPENCV axes, of a camera that is held level."""


@dataclass(frozen=True)
class ImageErrors:
    """One image's figures.

    Attributes:
        index: Its number in the data set.
        name: Its name there.
        figures: As `surface_normal_metrics` gives them: degrees, and per cent of its valid pixels.
        rotation: The `best_rotation` from its prediction to its truth as a rotation vector in OPENCV axes, degrees: a
            camera that the model took to be tilted (x), panned (y) or rolled (z) otherwise than it is.
        rotated: The figures after it.
    """

    index: int
    name: str
    figures: Mapping[str, float]
    rotation: tuple[float, float, float]
    rotated: Mapping[str, float]


@dataclass(frozen=True)
class ErrorReport:
    """A model's errors on a data set.

    Attributes:
        images: In the data set's order; images without a valid pixel, or without a usable prediction on one, are
            left out.
        left_out: The names of those.
        directions: The pooled figures of the pixels that face each of `DIRECTIONS`, and `share`, their per cent of
            all; a direction that no pixel faces is missing.
    """

    images: tuple[ImageErrors, ...]
    left_out: tuple[str, ...]
    directions: Mapping[str, Mapping[str, float]]


def up_direction(normals: Tensor, mask: Tensor | None = None, *, tilt: float = 50.0) -> Tensor:
    """Estimate which way is up from the floor and the table tops in view.

    The mean of the normals within `tilt` degrees of a level camera's up, then twice of those within 20 degrees of
    that mean. A picture without such surfaces has a level camera's up.

    Args:
        normals: (3, H, W), `Convention.OPENCV`; invalid labels are left out.
        mask: (H, W) bool, True where they count; None for all.
        tilt: The most that the camera may be tilted or rolled, degrees in (0, 90).

    Returns:
        (3,), a unit vector.

    Raises:
        ValueError: `tilt` is out of range, or a shape is another.

    Examples:
        >>> floor = torch.tensor([0.0, -0.8, -0.6]).view(3, 1, 1).expand(3, 4, 4)
        >>> [round(value, 2) for value in up_direction(floor).tolist()]
        [0.0, -0.8, -0.6]
    """
    if not 0 < tilt < 90:
        raise ValueError(f"tilt={tilt}: wanted degrees in (0, 90)")
    if normals.ndim != 3 or len(normals) != 3:
        raise ValueError(f"normals has shape {tuple(normals.shape)}; wanted (3, H, W)")
    vectors = normalize(normals.float(), dim=0)[:, valid_normals(normals, mask, dim=0)]
    up = vectors.new_tensor(UPRIGHT_CAMERA)
    for angle in (tilt, 20.0, 20.0):
        near = vectors[:, up @ vectors > math.cos(math.radians(angle))]
        if near.shape[1]:
            up = normalize(near.double().mean(1), dim=0).float()
    return up


def facing_directions(normals: Tensor, up: Tensor, *, tolerance: float = 25.0) -> Tensor:
    """What each pixel's surface faces.

    Args:
        normals: (3, H, W), `Convention.OPENCV`, any length but zero.
        up: (3,), a unit vector in the same axes.
        tolerance: Degrees around up, down and the horizontal, in (0, 45].

    Returns:
        (H, W) int64, indices of `DIRECTIONS`.

    Raises:
        ValueError: `tolerance` is out of range, or a shape is another.

    Examples:
        >>> normals = torch.tensor([[0.0, 0.0, 0.0], [-1.0, 0.0, 0.7], [0.0, -1.0, -0.7]])[:, None]
        >>> [DIRECTIONS[i] for i in facing_directions(normals, torch.tensor([0.0, -1.0, 0.0]))[0]]
        ['up', 'upright', 'slanted']
    """
    if not 0 < tolerance <= 45:
        raise ValueError(f"tolerance={tolerance}: wanted degrees in (0, 45]")
    if normals.ndim != 3 or len(normals) != 3 or up.shape != (3,):
        raise ValueError(f"normals has shape {tuple(normals.shape)} and up {tuple(up.shape)}; wanted (3, H, W), (3,)")
    height = torch.einsum("c,chw->hw", up, normalize(normals, dim=0))
    cosine, sine = math.cos(math.radians(tolerance)), math.sin(math.radians(tolerance))
    facing = torch.full_like(height, DIRECTIONS.index("slanted"), dtype=torch.int64)
    facing[height > cosine] = DIRECTIONS.index("up")
    facing[height < -cosine] = DIRECTIONS.index("down")
    facing[height.abs() < sine] = DIRECTIONS.index("upright")
    return facing


def best_rotation(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """The one rotation of all predictions that brings them closest to the truth, outliers counting less.

    The least-squares rotation (Kabsch), ten times with each pixel weighted by 1 / (error + 3 degrees), so that the
    sum of errors falls rather than that of their squares.

    Args:
        pred: (3, H, W), normals of any length.
        target: Labels, the same shape, in the same axes.
        mask: (H, W) bool, True where the label counts; None for all.

    Returns:
        (3, 3), float64, for `rotate_normals`; the identity where no pixel counts.

    Raises:
        ValueError: A shape is another.

    Examples:
        >>> wall = torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1)
        >>> best_rotation(wall, wall).diag().tolist()
        [1.0, 1.0, 1.0]
    """
    if target.ndim != 3 or len(target) != 3 or pred.shape != target.shape:
        raise ValueError(
            f"pred has shape {tuple(pred.shape)} and target {tuple(target.shape)}; wanted (3, H, W) for both"
        )
    counted = valid_normals(target, mask, dim=0) & pred.isfinite().all(0) & pred.any(0)
    found, true = (normalize(x[:, counted].double(), dim=0) for x in (pred, target))
    rotation = torch.eye(3, dtype=torch.float64, device=pred.device)
    if not found.shape[1]:
        return rotation
    for _ in range(10):
        weight = 1 / (angular_error(rotation @ found, true, dim=0) + 3)
        u, _, vh = torch.linalg.svd((true * weight) @ found.T)
        # The determinant keeps it from being a mirror.
        rotation = u @ torch.diag(torch.stack([*torch.ones_like(weight[:1]).expand(2), torch.linalg.det(u @ vh)])) @ vh
    return rotation


def error_report(
    model: nn.Module, dataset: Dataset[Sample], *, flip: bool = False, progress: bool = True
) -> ErrorReport:
    """Score a model on each image of a data set, and on the surfaces that face each direction.

    Args:
        model: As in `normalkit.models`; used in eval mode where its parameters are, and left as it was.
        dataset: Samples of any size, with a length; see `normalkit.data`.
        flip: Average with the prediction for the mirrored picture.
        progress: Whether to show a progress bar.

    Returns:
        The figures.

    Raises:
        ValueError: No pixel of the whole set can be scored.
    """
    device = device_of(model)
    pooled = {name: SurfaceNormalMetrics() for name in DIRECTIONS}
    pixels = dict.fromkeys(DIRECTIONS, 0)
    images: list[ImageErrors] = []
    left_out: list[str] = []
    numbers = range(len(dataset))  # type: ignore[arg-type]
    if progress:
        from tqdm import tqdm

        numbers = tqdm(numbers, desc="scoring", leave=False, dynamic_ncols=True)
    with evaluation_mode(model):
        for index in numbers:
            sample = dataset[index]
            normals, mask, name = sample["normals"], sample.get("mask"), str(sample.get("name", index))
            prediction = predict_batch(model, sample["image"][None].to(device), flip=flip)[0].float().cpu()
            valid = valid_normals(normals, mask, dim=0)
            usable = valid & prediction.isfinite().all(0) & prediction.any(0)
            if not usable.any():
                left_out.append(name)
                continue
            figures = surface_normal_metrics(prediction[None], normals[None], usable[None])
            rotation = best_rotation(prediction, normals, usable)
            rotated = surface_normal_metrics(
                rotate_normals(prediction[None], rotation.float()), normals[None], usable[None]
            )
            images.append(ImageErrors(index, name, _numbers(figures), _rotation_vector(rotation), _numbers(rotated)))
            facing = facing_directions(normals, up_direction(normals, valid))
            for number, direction in enumerate(DIRECTIONS):
                chosen = usable & (facing == number)
                pixels[direction] += int(chosen.sum())
                pooled[direction].update(prediction[None], normals[None], chosen[None])
    if not images:
        raise ValueError("no pixel of the data set has both a valid label and a usable prediction")
    total = sum(pixels.values())
    directions = {
        direction: {"share": 100 * pixels[direction] / total} | _numbers(pooled[direction].compute())
        for direction in DIRECTIONS
        if pixels[direction]
    }
    return ErrorReport(tuple(images), tuple(left_out), directions)


def _numbers(figures: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items()}


def _rotation_vector(rotation: Tensor) -> tuple[float, float, float]:
    """Axis times angle, degrees."""
    skew = (rotation - rotation.mT) / 2
    axis = torch.stack([skew[2, 1], skew[0, 2], skew[1, 0]])
    sine, cosine = axis.norm(), (rotation.diagonal().sum() - 1) / 2
    x, y, z = (axis / sine.clamp_min(1e-12) * torch.atan2(sine, cosine).rad2deg()).tolist()
    return x, y, z
