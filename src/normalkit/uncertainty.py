"""How sure a network is of each normal: the angular von Mises-Fisher distribution, its loss and its calibration.

A direction and a concentration make three numbers, so the raw map that a network gives holds both: its direction is
the normal, and its length, times the model's `concentration`, says how close to it the truth is. Every network here can
be trained for it with `AngMFLoss`, and answers as before.

The density at an angle t from the normal is (k^2 + 1) exp(-k t) / (2 pi (1 + exp(-k pi))), as in Bae, Budvytis and
Cipolla, Estimating and Exploiting the Aleatoric Uncertainty in Surface Normal Estimation, ICCV 2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from normalkit.geometry import angular_error, normalize, valid_normals
from normalkit.inference import device_of, evaluation_mode
from normalkit.losses import angmf_by_pixel
from normalkit.models.base import NormalEstimator

if TYPE_CHECKING:
    from normalkit.training.types import Batch

__all__ = [
    "Sparsification",
    "calibrate",
    "check_sure",
    "estimate",
    "expected_error",
    "normals_and_error",
    "sparsification",
]

SCALES = torch.logspace(-1.5, 1.5, 121, base=10.0)
"""What `calibrate` tries, 6 per cent apart."""


def expected_error(concentration: Tensor) -> Tensor:
    """The mean angle to the truth, under the distribution of a concentration.

    Args:
        concentration: Any shape, 0 or more; 0 says nothing but that a direction is as likely as its neighbours.

    Returns:
        Degrees of the same shape: 90 for 0, near 2 / k radians for large k.

    Examples:
        >>> expected_error(torch.tensor([0.0, 10.0]))
        tensor([90.0000, 11.3457])
    """
    k = concentration
    return torch.rad2deg(2 * k / (k.square() + 1) + math.pi * torch.sigmoid(-math.pi * k))


def estimate(model: NormalEstimator, images: Tensor) -> tuple[Tensor, Tensor]:
    """Normals and the error that the model expects of each, of a batch; of a picture, `predict_with_error`.

    Args:
        model: Trained with `AngMFLoss`, so that it has a `concentration`.
        images: (B, 3, H, W), RGB, floating point in [0, 1].

    Returns:
        Unit normals (B, 3, H, W), `Convention.OPENCV`, and degrees (B, H, W); where the model gives no direction, 0
        and 90.

    Raises:
        ValueError: The model has no concentration.
    """
    concentration = check_sure(model)
    return normals_and_error(model(images, normalize=False), concentration)


def check_sure(model: NormalEstimator) -> float:
    """The concentration of a model.

    Args:
        model: Any normal estimator.

    Raises:
        ValueError: It has none.
    """
    concentration: float | None = getattr(model, "concentration", None)
    if concentration is None:
        raise ValueError("model: it was not trained to say how sure it is; train it with AngMFLoss")
    return concentration


def normals_and_error(raw: Tensor, concentration: float) -> tuple[Tensor, Tensor]:
    """What a raw map says.

    Args:
        raw: (B, 3, H, W).
        concentration: The model's.

    Returns:
        As `estimate`.
    """
    # A vector that is not finite says nothing.
    raw = torch.where(raw.isfinite().all(1, keepdim=True), raw, 0)
    return normalize(raw), expected_error(concentration * torch.linalg.vector_norm(raw, dim=1))


def calibrate(model: NormalEstimator, loader: Iterable[Batch]) -> float:
    """Set the model's concentration to what makes labels that it was not trained on the likeliest.

    Networks are surer of what they were trained on than of anything else; one factor for all mends most of that, and
    leaves the normals and the order of the pixels as they were.

    Args:
        model: Trained with `AngMFLoss`; used where its parameters are, and left in its mode.
        loader: Batches of samples held out of training.

    Returns:
        The concentration, which the model has now and a checkpoint of it keeps.

    Raises:
        ValueError: There is no valid pixel.
    """
    # What trains brings torchmetrics along, which takes longer to import than all that a prediction needs.
    from normalkit.training.devices import to_device

    device = device_of(model)
    scales = SCALES.to(device)
    sums, count = torch.zeros(len(scales), dtype=torch.float64, device=device), 0
    with evaluation_mode(model):
        for batch in loader:
            batch = to_device(batch, device, torch.contiguous_format)
            raw, normals = model(batch["image"], normalize=False), batch["normals"]
            valid = valid_normals(normals, batch.get("mask")) & raw.isfinite().all(1)
            chosen, truth = (field.movedim(1, -1)[valid] for field in (raw, normals))
            angles = torch.deg2rad(angular_error(chosen, truth, dim=1).nan_to_num(90.0))
            lengths = torch.linalg.vector_norm(chosen, dim=1)
            sums += torch.stack([angmf_by_pixel(scale * lengths, angles).double().sum() for scale in scales])
            count += len(angles)
    if count == 0:
        raise ValueError("loader: no valid pixel in all of its batches; nothing to calibrate on")
    model.concentration = float(scales[sums.argmin()])
    return model.concentration


class Sparsification(NamedTuple):
    """The mean error of the pixels that are left, as the least certain are taken away."""

    removed: Tensor
    """Shares of the pixels that are taken away, in [0, 1)."""
    error: Tensor
    """Degrees: the mean of the others, by the network's own order."""
    best: Tensor
    """Degrees: by the order of the true errors, which no network can do better than."""

    @property
    def area(self) -> float:
        """The area between the two curves (AUSE), degrees; 0 for a perfect order."""
        return float(torch.trapezoid(self.error - self.best, self.removed))


def sparsification(errors: Tensor, uncertainties: Tensor, *, steps: int = 50) -> Sparsification:
    """How well uncertainties sort errors: take away the pixels that are least certain, and look at the rest.

    Args:
        errors: True angular errors, degrees, any shape; NaN for pixels that do not count.
        uncertainties: What the network expects them to be, or anything else that grows with it; the same shape.
        steps: Points of the curve.

    Returns:
        `steps` points, from all pixels to a share of 1 / `steps`.

    Raises:
        ValueError: The shapes differ, no pixel counts, or `steps` is below 2.
    """
    if errors.shape != uncertainties.shape:
        raise ValueError(f"errors {tuple(errors.shape)} and uncertainties {tuple(uncertainties.shape)} differ in shape")
    if steps < 2:
        raise ValueError(f"steps={steps}: wanted at least 2")
    counts = errors.isfinite()
    errors, uncertainties = errors[counts].double(), uncertainties[counts]
    if not len(errors):
        raise ValueError("errors: no pixel counts; wanted at least one finite error")
    removed = torch.arange(steps, dtype=torch.float64) / steps
    kept = (len(errors) * (1 - removed)).ceil().long().clamp_min(1)

    def curve(order: Tensor) -> Tensor:
        return (errors[order].cumsum(0).cpu()[kept - 1] / kept).float()

    return Sparsification(removed.float(), curve(uncertainties.argsort()), curve(errors.argsort()))
