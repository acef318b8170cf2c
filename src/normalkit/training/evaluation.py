"""The loss of a normals network, its figures on a data set, and the line that shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from normalkit.geometry import angular_error, valid_normals
from normalkit.inference import device_of, evaluation_mode, predict_batch
from normalkit.losses import AngMFLoss, AngularLoss, angular_loss_terms
from normalkit.metrics import Reduction, SurfaceNormalMetrics
from normalkit.training.devices import is_main_process, sum_dtype, to_device
from normalkit.training.types import Batch, Figures, LossFunction

__all__ = ["evaluate", "format_figures", "normals_loss"]


def normals_loss(criterion: AngularLoss | AngMFLoss) -> LossFunction:
    """The loss of a normals network on a sample batch, with the mean angular error to show.

    Args:
        criterion: Of prediction, normals and mask; `AngMFLoss` is given the raw map.

    Returns:
        A function for `fit`; its dict has `loss` and `mean`, degrees.
    """
    options = {"normalize": False} if isinstance(criterion, AngMFLoss) else {}

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        prediction = model(batch["image"], **options)
        value = criterion(prediction, batch["normals"], batch.get("mask"))
        return {"loss": value, "mean": _mean_error(prediction.detach(), batch["normals"], batch.get("mask"))}

    return loss


def _mean_error(prediction: Tensor, normals: Tensor, mask: Tensor | None) -> Tensor:
    errors = angular_error(prediction, normals)
    counted = valid_normals(normals, mask) & errors.isfinite()
    return torch.where(counted, errors, 0).sum() / counted.sum().clamp_min(1)


def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    flip: bool = False,
    reduction: Reduction = "pooled",
    progress: bool = True,
    each: Callable[[Batch, Tensor], None] | None = None,
) -> Figures:
    """Score a model on a data set: the assignment's `simple_predict`.

    In several processes each one gives its own share of the batches and all of them return the whole's figures.

    Args:
        model: Returns normals (B, 3, H, W) for images (B, 3, H, W); evaluated where its parameters are, in eval
            mode, and left in the mode that it was in.
        loader: Batches of samples: `image`, `normals` and, if there is one, `mask`.
        flip: Average the prediction with that of the mirrored image.
        reduction: "pooled" counts every pixel alike, "per_image" every image; see `SurfaceNormalMetrics`.
        progress: Whether to show a progress bar.
        each: Called with every batch and its predictions (B, 3, H, W), for instance to write them to files; in
            several processes with this one's share.

    Returns:
        `loss`, the L1 over the scored pixels and their channels, pooled in either case; and the figures of
        `SurfaceNormalMetrics`, which leave out, and count, predictions that are zero or not finite.

    Raises:
        ValueError: There is no valid pixel in the whole set, or the model returns no normals.
    """
    device = device_of(model)
    metrics = SurfaceNormalMetrics(reduction=reduction).to(device)
    l1 = MeanMetric(nan_strategy="error").to(device).set_dtype(sum_dtype(device))
    with evaluation_mode(model):
        for batch in _bar(loader, progress and is_main_process(), "evaluating"):
            batch = to_device(batch, device, torch.contiguous_format)
            normals, mask = batch["normals"], batch.get("mask")
            prediction = predict_batch(model, batch["image"], flip=flip)
            metrics.update(prediction, normals, mask)
            usable = prediction.isfinite().all(1) & prediction.any(1)
            scored = valid_normals(normals, mask) & usable
            l1.update(angular_loss_terms(prediction, normals, scored)[0], scored.sum())
            if each is not None:
                each(batch, prediction)
    figures = metrics.compute()
    return {"loss": float(l1.compute())} | {name: float(value) for name, value in figures.items()}


def format_figures(figures: Mapping[str, float]) -> str:
    """The report's line: loss (L1), then mean, median, and the shares within 11.25, 22.5 and 30 degrees.

    Args:
        figures: As `evaluate` returns them; those of other tasks, which have no median, are listed by name.

    Examples:
        >>> format_figures({"loss": 0.2532, "mean": 32.8, "median": 26.8, "11.25": 26.8, "22.5": 44.2, "30": 54.1})
        'loss 0.2532  mean 32.80  median 26.80  11.25: 26.80  22.5: 44.20  30: 54.10'
    """
    line = ("loss", "mean", "median", "11.25", "22.5", "30") if "median" in figures else tuple(figures)
    parts = []
    for name in line:
        if name in figures and name != "invalid":
            colon = ":" if name[0].isdigit() else ""
            parts.append(f"{name}{colon} {figures[name]:.{4 if name == 'loss' else 2}f}")
    if figures.get("invalid"):
        parts.append(f"invalid predictions: {figures['invalid']:.0f}")
    return "  ".join(parts)


def _bar(loader: Iterable[Batch], show: bool, name: str) -> Iterable[Batch]:
    if not show:
        return loader
    from tqdm import tqdm

    return tqdm(loader, desc=name, leave=False, dynamic_ncols=True)  # type: ignore[no-any-return]
