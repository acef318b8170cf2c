r"""Score a trained network on held-back images: the report's lines, JSON and a confusion matrix on request.

python examples/cifar10/evaluate.py --checkpoint runs/cifar10/base/seed0/last --data cifar10-test --split test
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from normalkit.classification import evaluate_classifier, format_accuracies
from normalkit.cli import run_script
from normalkit.data import device_evaluation_loader, read_labeled_images
from normalkit.files import atomic_file, check_writable
from normalkit.models import Classifier
from normalkit.models.checkpoint import read_config
from normalkit.training import training_device
from normalkit.visualize import confusion_matrix_figure, save_figure


@dataclass(frozen=True)
class Config:
    """Score a trained network on CIFAR-10 or images like it."""

    checkpoint: Path
    """Folder of the model, such as runs/cifar10/base/seed0/last."""
    data: Path
    """A tar file or folder of SPLIT/CLASS/IMAGE, or the folder of torchvision's CIFAR-10."""
    split: str = "test"
    """Which part of the data."""
    flip: bool = False
    """Average with the scores of the mirrored image."""
    out: Path | None = None
    """JSON file for the accuracies."""
    figure: Path | None = None
    """Picture file for the confusion matrix."""
    download: bool = False
    """Let torchvision download CIFAR-10 to the data folder."""


def main(cfg: Config) -> None:
    """Print the accuracies."""
    device = training_device()
    net = Classifier.from_pretrained(cfg.checkpoint, device=device)
    # Labels are numbers: the checkpoint says which class each one is.
    classes = read_config(cfg.checkpoint).get("classes")
    for path in (cfg.out, cfg.figure):
        if path is not None:
            check_writable(path.parent)
    data = read_labeled_images(cfg.data, split=cfg.split, classes=classes, size=Classifier.SIZE, download=cfg.download)
    scores = evaluate_classifier(net, device_evaluation_loader(data.to(device)), flip=cfg.flip)
    print(format_accuracies(scores, data.classes, split=cfg.split))
    if cfg.flip:
        print("each averaged with the mirrored image")
    if cfg.out is not None:
        by_class = dict(zip(data.classes, scores.class_accuracies, strict=True))
        with atomic_file(cfg.out) as path:
            path.write_text(json.dumps({**scores.figures, "flip": cfg.flip, "by_class": by_class}, indent=2) + "\n")
    if cfg.figure is not None:
        save_figure(confusion_matrix_figure(scores.confusion, data.classes), cfg.figure)


if __name__ == "__main__":
    run_script(main, Config)
