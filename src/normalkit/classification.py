"""Training and scoring a classifier: the loss, accuracy in all and by class, the report's printed lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from normalkit.inference import device_of, evaluation_mode

__all__ = ["ClassScores", "classification_loss", "evaluate_classifier", "format_accuracies"]

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class ClassScores:
    """How a classifier did on a data set.

    Attributes:
        loss: Mean cross-entropy, nats.
        confusion: (C, C) int64 counts, on the CPU: rows are the true classes, columns the predicted ones.
    """

    loss: float
    confusion: Tensor

    @property
    def accuracy(self) -> float:
        """Per cent of the images whose class is right."""
        return float(100 * self.confusion.diagonal().sum().double() / self.confusion.sum())

    @property
    def class_accuracies(self) -> list[float]:
        """Per cent of each class's images that are right; NaN for a class without images."""
        return (100 * self.confusion.diagonal().double() / self.confusion.sum(1)).tolist()

    @property
    def figures(self) -> dict[str, float]:
        """`loss` and `accuracy`, as `normalkit.training.fit` logs them."""
        return {"loss": self.loss, "accuracy": self.accuracy}


def classification_loss(*, label_smoothing: float = 0.0) -> Callable[[nn.Module, Batch], dict[str, Tensor]]:
    """Cross-entropy of a classifier on a batch, with the accuracy to show.

    Args:
        label_smoothing: Share of each label that is spread over all classes, in [0, 1).

    Returns:
        A function for `normalkit.training.fit`; its dict has `loss` and `accuracy`, per cent. On the processor labels
        outside the classes are a ValueError; on a GPU torch itself ends the process.

    Raises:
        ValueError: `label_smoothing` is out of range.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing={label_smoothing}: wanted a share in [0, 1)")

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, labels = model(batch["image"]), batch["label"]
        # Elsewhere a look at the values would wait for the device.
        if labels.device.type == "cpu":
            _check_labels(labels, logits.shape[1], "make the network with as many classes as the data set has")
        right = (logits.detach().argmax(1) == labels).float()
        value = functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
        return {"loss": value, "accuracy": 100 * right.mean()}

    return loss


def evaluate_classifier(model: nn.Module, loader: Iterable[Batch], *, flip: bool = False) -> ClassScores:
    """Score a classifier on a data set.

    In several processes each one gives its own share of the batches and all of them return the whole's scores.

    Args:
        model: Returns logits (B, C) for images (B, 3, H, W); evaluated where its parameters are, in eval mode, and
            left in the mode that it was in.
        loader: Batches with `image`, and `label`, (B,) int64.
        flip: Average the class probabilities with those of the mirrored image.

    Raises:
        ValueError: There are no images, a label is outside the classes, or the model returns no logits, or some that
            are not finite.
    """
    device = device_of(model)
    confusion: MulticlassConfusionMatrix | None = None
    loss = MeanMetric(nan_strategy="error").to(device)
    with evaluation_mode(model):
        for batch in loader:
            images, labels = batch["image"].to(device), batch["label"].to(device)
            logits = _log_probabilities(model, images, flip=flip)
            classes = logits.shape[1]
            if confusion is None:
                confusion = MulticlassConfusionMatrix(classes, validate_args=False).to(device)
            _check_labels(labels, classes, "give the data set that it was trained for")
            confusion.update(logits.argmax(1), labels)
            loss.update(functional.nll_loss(logits, labels, reduction="none"))
    if confusion is None:
        raise ValueError("loader: it has no batches; give a data set with at least one image")
    return ClassScores(loss=float(loss.compute()), confusion=confusion.compute().long().cpu())


def _check_labels(labels: Tensor, classes: int, mend: str) -> None:
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"label: {int(labels.min())} to {int(labels.max())}, but the model has the {classes} classes 0 to "
            f"{classes - 1}; {mend}"
        )


def _log_probabilities(model: nn.Module, images: Tensor, *, flip: bool) -> Tensor:
    logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model: for images {tuple(images.shape)} it returned {found}; wanted logits (B, classes)")
    answers = logits.float().log_softmax(1)
    bad = int(answers.isnan().any(1).sum())
    if bad:
        raise ValueError(f"model: its logits of {bad} images are not finite, so they have no class; it has diverged")
    if not flip:
        return answers
    mirrored = _log_probabilities(model, images.flip(-1), flip=False)
    return torch.logaddexp(answers, mirrored) - math.log(2)


def format_accuracies(scores: ClassScores, classes: Sequence[str], *, split: str = "val") -> str:
    """The report's lines: the accuracy in all, then one of each class.

    Args:
        scores: From `evaluate_classifier`.
        classes: Their names, in the order of the labels.
        split: What the images were, such as "val" or "test".

    Raises:
        ValueError: There are not as many names as classes.

    Examples:
        >>> scores = ClassScores(loss=0.9, confusion=torch.tensor([[3, 1], [0, 4]]))
        >>> print(format_accuracies(scores, ["cat", "dog"]))
        Accuracy of the final network on the val images: 87.5 %
        Accuracy of cat : 75.0 %
        Accuracy of dog : 100.0 %
    """
    if len(classes) != len(scores.confusion):
        raise ValueError(f"classes has {len(classes)} names; wanted {len(scores.confusion)}, one for each label")
    width = max(map(len, classes))
    lines = [f"Accuracy of the final network on the {split} images: {scores.accuracy:.1f} %"]
    for name, share in zip(classes, scores.class_accuracies, strict=True):
        lines.append(f"Accuracy of {name:<{width}} : {share:.1f} %")
    return "\n".join(lines)
