"""What normal estimators are trained with: L1 and cosine distance, or the likelihood of the labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from normalkit.geometry import angular_error, normalize, valid_normals

__all__ = [
    "AngMFLoss",
    "AngularLoss",
    "angmf_by_pixel",
    "angmf_loss",
    "angular_loss",
    "angular_loss_terms",
    "check_fields",
]

SHORTEST_PREDICTION = {torch.float16: 1e-3}
"""Below this length a prediction counts as a zero vector: its gradient, 1 / length, must fit its dtype."""
SHORTEST_PREDICTION_OTHERWISE = 1e-30


class AngularLoss(nn.Module):
    """`alpha` L1 + `beta` (1 - cosine) over the valid pixels of a batch.

    L1 is the mean over valid pixels and the three channels of |pred - target|, on the prediction as
    the model returned it; the cosine is that of the angle between them, averaged over valid pixels.
    The label is scaled to unit length first. See `angular_loss` for what is valid and what happens to
    vectors that are zero or not finite.

    Args:
        alpha: Weight of L1.
        beta: Weight of the cosine distance.

    Raises:
        ValueError: A weight is negative or not finite, or both are zero.

    Examples:
        >>> import torch
        >>> target = torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
        >>> pred = torch.tensor([0.0, -1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
        >>> AngularLoss(alpha=3.0, beta=0.5)(pred, target)
        tensor(2.5000)
    """

    def __init__(self, alpha: float = 1.0, beta: float = 1.0) -> None:
        super().__init__()
        _check_weights(alpha, beta)
        self.alpha = float(alpha)
        self.beta = float(beta)

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of a batch, 0-dimensional; see `angular_loss`."""
        return angular_loss(pred, target, mask, alpha=self.alpha, beta=self.beta)

    def extra_repr(self) -> str:
        """The weights, for `print(loss)`."""
        return f"alpha={self.alpha:g}, beta={self.beta:g}"


def angular_loss(
    pred: Tensor, target: Tensor, mask: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """`alpha` L1 + `beta` (1 - cosine) over the valid pixels of a batch.

    A label that the mask leaves out, or that `valid_normals` rejects (NaN, infinite, shorter than 0.5),
    has no influence on the loss or its gradient, and a batch without a valid pixel has a loss and a
    gradient of exactly zero. A predicted zero vector has no direction: its cosine is 0, and only L1
    pulls on it.
    A prediction that is NaN or infinite on a valid pixel makes the loss not finite whatever the
    weights, so that training can stop there instead of going on without those pixels.

    Args:
        pred: (B, 3, H, W), floating point; any length. Half precision is computed in float32.
        target: Labels, the same shape, in the same axes; any length above 0.5.
        mask: (B, H, W) bool, True where the label counts; None for all.
        alpha: Weight of L1, which lies in [0, 2] for unit predictions.
        beta: Weight of the cosine distance, which lies in [0, 2].

    Returns:
        0-dimensional, float32, or float64 where an input is; connected to `pred`.

    Raises:
        ValueError: Shapes or devices differ or are not as above, a weight is negative or not finite,
            or both weights are zero.
        TypeError: An input is not floating point, or the mask is not boolean.

    Examples:
        >>> import torch
        >>> target = torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1)
        >>> angular_loss(-target, target, alpha=3.0, beta=1.0)
        tensor(4.)
    """
    _check_weights(alpha, beta)
    l1, cosine = angular_loss_terms(pred, target, mask)
    return alpha * l1 + beta * cosine


def angular_loss_terms(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The two parts of `angular_loss`, before their weights.

    Args:
        pred: (B, 3, H, W), floating point; any length.
        target: Labels, the same shape.
        mask: (B, H, W) bool, True where the label counts; None for all.

    Returns:
        L1, the mean over valid pixels and channels of |pred - target|, and the mean over valid pixels
        of 1 - cosine; both 0-dimensional, 0 without a valid pixel.

    Raises:
        ValueError: Shapes or devices differ or are not as above.
        TypeError: An input is not floating point, or the mask is not boolean.

    Examples:
        >>> import torch
        >>> target = torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1)
        >>> l1, cosine = angular_loss_terms(0.25 * target, target)
        >>> l1, cosine
        (tensor(0.2500), tensor(0.))
    """
    check_fields(pred, target, mask)
    valid = valid_normals(target, mask)
    count = valid.sum().clamp_min(1)
    shortest = SHORTEST_PREDICTION.get(pred.dtype, SHORTEST_PREDICTION_OTHERWISE)
    dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
    # `where` before any arithmetic: a NaN times a zero gradient would be NaN again.
    pred = torch.where(valid.unsqueeze(1), pred.to(dtype), 0)
    target = normalize(torch.where(valid.unsqueeze(1), target.to(dtype), 0))
    l1 = (pred - target).abs().sum() / (3 * count)

    longest = pred.detach().abs().amax(1)
    has_direction = longest >= shortest
    direction = normalize(torch.where(has_direction.unsqueeze(1), pred, 0))
    # For unit vectors 1 - a.b = |a - b|^2 / 2, which keeps the digits that 1 - cos loses near 0.
    distance = 0.5 * (direction - target).square().sum(1)
    distance = torch.where(has_direction, distance, 1)
    distance = torch.where(torch.isfinite(longest), distance, math.nan)
    cosine = torch.where(valid, distance, 0).sum() / count
    return l1, cosine


class AngMFLoss(nn.Module):
    """Negative log-likelihood of the labels under the angular von Mises-Fisher distribution; see `angmf_loss`.

    Examples:
        >>> target = torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1)
        >>> AngMFLoss()(10 * target, target) < AngMFLoss()(target, target)
        tensor(True)
    """

    def forward(self, raw: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of a batch, 0-dimensional; see `angmf_loss`."""
        return angmf_loss(raw, target, mask)


def angmf_loss(raw: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over valid pixels of k t - log(k^2 + 1) + log(1 + exp(-k pi)), which leaves out log(2 pi).

    k is the length of the raw vector, and t its angle to the label in radians. What `angular_loss` says of labels that
    do not count, and of batches without one that does, holds here too; a zero vector has k = 0, and no gradient but
    that of its nearest neighbours. A raw vector that is not finite on a valid pixel makes the loss NaN.

    Args:
        raw: (B, 3, H, W), floating point: a network's map, not normalised. Half precision is computed in float32.
        target: Labels, the same shape, in the same axes; any length above 0.5.
        mask: (B, H, W) bool, True where the label counts; None for all.

    Returns:
        0-dimensional, float32, or float64 where an input is; connected to `raw`.

    Raises:
        ValueError: Shapes or devices differ or are not as above.
        TypeError: An input is not floating point, or the mask is not boolean.
    """
    check_fields(raw, target, mask)
    valid = valid_normals(target, mask)
    dtype = torch.promote_types(torch.promote_types(raw.dtype, target.dtype), torch.float32)
    # `where` before any arithmetic: a NaN times a zero gradient would be NaN again.
    raw = torch.where(valid.unsqueeze(1), raw.to(dtype), 0)
    finite = raw.isfinite().all(1)
    # A vector without a direction is at no angle.
    angles = torch.deg2rad(angular_error(raw, target.to(dtype)).nan_to_num(0.0))
    pixels = angmf_by_pixel(torch.linalg.vector_norm(raw, dim=1), angles)
    pixels = torch.where(finite, pixels, math.nan)
    return torch.where(valid, pixels, 0).sum() / valid.sum().clamp_min(1)


def angmf_by_pixel(concentration: Tensor, angles: Tensor) -> Tensor:
    """What `angmf_loss` averages.

    Args:
        concentration: k, any shape, 0 or more.
        angles: t, the same shape, radians.
    """
    return concentration * angles - torch.log1p(concentration.square()) + functional.softplus(-math.pi * concentration)


def check_fields(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
    """Refuse a prediction and a label that cannot be compared pixel by pixel.

    Args:
        pred: Wanted (B, 3, H, W), floating point.
        target: Wanted the same shape, floating point, on the same device.
        mask: Wanted (B, H, W), bool, or None.

    Raises:
        ValueError: Shapes or devices differ or are not as above, or there are no pixels.
        TypeError: An input is not floating point, or the mask is not boolean.
    """
    for name, field in (("pred", pred), ("target", target)):
        if field.ndim != 4 or field.shape[1] != 3:
            hint = "; add the batch axis with .unsqueeze(0)" if field.ndim == 3 and field.shape[0] == 3 else ""
            raise ValueError(f"{name} has shape {tuple(field.shape)}; wanted (B, 3, H, W){hint}")
        if not field.is_floating_point():
            raise TypeError(
                f"{name} has dtype {field.dtype}; wanted floating-point vectors (decode colours with rgb_to_normals)"
            )
    if pred.shape != target.shape:
        raise ValueError(
            f"pred has shape {tuple(pred.shape)} and target {tuple(target.shape)}; they must be equal "
            "(resize the prediction to the label's size)"
        )
    if pred.device != target.device:
        raise ValueError(f"pred is on {pred.device} and target on {target.device}; move one with .to(device)")
    batch, _, height, width = pred.shape
    if height == 0 or width == 0:
        raise ValueError(f"pred has shape {tuple(pred.shape)}: no pixels; wanted H and W of at least 1")
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"mask has dtype {mask.dtype}; wanted torch.bool (use `mask > 0`)")
    if mask is not None and mask.shape != (batch, height, width):
        hint = "; drop its channel axis with .squeeze(1)" if mask.shape == (batch, 1, height, width) else ""
        raise ValueError(f"mask has shape {tuple(mask.shape)}; wanted {(batch, height, width)}{hint}")


def _check_weights(alpha: float, beta: float) -> None:
    for name, weight in (("alpha", alpha), ("beta", beta)):
        if not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise ValueError(f"{name}={weight!r}: wanted a finite number, 0 or more")
    if alpha == 0 and beta == 0:
        raise ValueError("alpha=0 and beta=0: nothing would be trained; give at least one a positive weight")
