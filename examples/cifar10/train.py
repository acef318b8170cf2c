r"""Train the report's networks on CIFAR-10.

python examples/cifar10/train.py --data ../shared/data/cifar10_train_jpeg.tar.xz --net base --seeds 0 1 2 3 4

Each seed has a folder with the checkpoints `best/` and `last/`, `metrics.csv`, TensorBoard logs, the curves, the
confusion matrix and the accuracies. Finished seeds are in `results.csv` and are not trained again.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from normalkit import BaseNet, ImprovedNet
from normalkit.classification import ClassScores, classification_loss, evaluate_classifier, format_accuracies
from normalkit.cli import run_script
from normalkit.data import LabeledImages, device_evaluation_loader, device_training_loader, read_labeled_images
from normalkit.files import atomic_file
from normalkit.models import Classifier
from normalkit.study import Variant, is_finished, run_study, study_markdown
from normalkit.training import TrainingSettings, fit, is_main_process, read_rows, training_device
from normalkit.visualize import confusion_matrix_figure, save_figure, training_curves


@dataclass(frozen=True)
class Recipe:
    """How to train, but for the network and the data."""

    settings: TrainingSettings
    batch_size: int
    padding: int
    flip: Literal["none", "random", "alternating"]
    cutout: int
    label_smoothing: float
    views: int = 1


MODERN = TrainingSettings(
    epochs=30, optimizer="sgd", lr=0.1, schedule="linear", weight_decay=1e-3, warmup=0.2, clip=0, ema=0.99
)
PLAIN = Recipe(
    TrainingSettings(epochs=30, optimizer="sgd", lr=0.01, schedule="constant", weight_decay=0, warmup=0, clip=0, ema=0),
    batch_size=128,
    padding=0,
    flip="none",
    cutout=0,
    label_smoothing=0.0,
)
# By recipe and network. A processor convolves the few channels of the small one faster where they come first.
RECIPES = {
    "modern": {
        "base": Recipe(
            dataclasses.replace(MODERN, channels_last=False),
            batch_size=128,
            padding=2,
            flip="alternating",
            cutout=0,
            label_smoothing=0.0,
        ),
        "improved": Recipe(MODERN, batch_size=128, padding=3, flip="alternating", cutout=8, label_smoothing=0.1),
    },
    "report": {
        "base": dataclasses.replace(PLAIN, settings=dataclasses.replace(PLAIN.settings, channels_last=False)),
        "improved": PLAIN,
    },
}
IMPROVED = ("batch_norm", "dropout", "fc_layers", "head")
"""The options of the improved net alone."""


@dataclass(frozen=True)
class Config:
    """Train the report's networks on CIFAR-10."""

    data: Path
    """A tar file or folder of train/CLASS/IMAGE, or the folder of torchvision's CIFAR-10."""
    out: Path | None = None
    """Folder of the runs; by default runs/cifar10/NET, and with another recipe runs/cifar10/NET-RECIPE."""
    net: Literal["base", "improved"] = "base"
    """The network."""
    batch_norm: bool = True
    """Improved net: batch norm."""
    dropout: float = 0.4
    """Improved net: dropout after the hidden fully connected layers."""
    fc_layers: int = 4
    """Improved net: fully connected layers."""
    head: Literal["flatten", "pool"] = "flatten"
    """Improved net: what the first fully connected layer sees."""
    recipe: Literal["modern", "report"] = "modern"
    """How to train: modern, or plainly as the report."""
    epochs: int | None = None
    """Instead of the recipe's."""
    lr: float | None = None
    """Peak learning rate instead of the recipe's."""
    weight_decay: float | None = None
    """Instead of the recipe's."""
    sam: float | None = None
    """Radius of sharpness-aware minimisation instead of the recipe's; 0 for none."""
    batch_size: int | None = None
    """Images a batch instead of the recipe's."""
    padding: int | None = None
    """Pixels that crops move by, at most, instead of the recipe's."""
    cutout: int | None = None
    """Side of a square filled with the mean colour, in pixels, instead of the recipe's."""
    label_smoothing: float | None = None
    """Instead of the recipe's."""
    views: int | None = None
    """How many times each image is in its batch, moved and mirrored anew each time, instead of the recipe's; an epoch
    takes as many times as long."""
    seeds: tuple[int, ...] = (0,)
    """One run each."""
    holdout: int = 5000
    """Images of the training set, the same share of each class, that validate."""
    split_seed: int = 0
    """Which ones."""
    download: bool = False
    """Let torchvision download CIFAR-10 to the data folder."""
    resume: bool = False
    """Go on with runs that were stopped."""


def main(cfg: Config) -> int:
    """Train with each seed, and print the figures."""
    variant, out = describe(cfg), folder_of(cfg)
    table = out / "results.csv"
    data = () if is_finished([variant], seeds=cfg.seeds, table=table) else read_data(cfg)
    rows, failures = run_study(
        [variant], lambda _, seed: train(cfg, seed, *data, out / f"seed{seed}"), seeds=cfg.seeds, table=table
    )
    print(
        study_markdown(rows, [variant], figures={"accuracy": "validation (%)", "accuracy_flip": "with mirroring (%)"})
    )
    return 1 if failures else 0


def folder_of(cfg: Config) -> Path:
    """Where the runs of the seeds go."""
    name = cfg.net if cfg.recipe == Config.recipe else f"{cfg.net}-{cfg.recipe}"
    return cfg.out or Path("runs/cifar10") / name


def read_data(cfg: Config) -> tuple[LabeledImages, LabeledImages]:
    """The images to train on and those that validate, on the device that trains."""
    data = read_labeled_images(cfg.data, split="train", size=Classifier.SIZE, download=cfg.download)
    if not 0 < cfg.holdout < len(data):
        raise ValueError(f"--holdout {cfg.holdout}: wanted 1 to {len(data) - 1}, as {cfg.data} has {len(data)} images")
    training, validation = data.to(training_device()).split(cfg.holdout, seed=cfg.split_seed)
    print(f"{len(training)} images to train on, {len(validation)} to validate, {len(data.classes)} classes")
    return training, validation


def recipe_of(cfg: Config) -> Recipe:
    """The recipe with what the command line changes."""
    recipe = RECIPES[cfg.recipe][cfg.net]

    def changes(*names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(cfg, name)) is not None}

    settings = dataclasses.replace(recipe.settings, **changes("epochs", "lr", "weight_decay", "sam"))
    return dataclasses.replace(
        recipe, settings=settings, **changes("batch_size", "padding", "cutout", "label_smoothing", "views")
    )


def make_net(cfg: Config, classes: int) -> Classifier:
    """The network, with weights drawn from torch's generator."""
    if cfg.net == "base":
        return BaseNet(classes)
    return ImprovedNet(cfg.batch_norm, cfg.dropout, cfg.fc_layers, cfg.head, classes)


def describe(cfg: Config, name: str | None = None) -> Variant:
    """What identifies the runs of a configuration."""
    net = {"net": cfg.net}
    given = [f"--{field.replace('_', '-')}" for field in IMPROVED if getattr(cfg, field) != getattr(Config, field)]
    if cfg.net == "improved":
        net |= {field: getattr(cfg, field) for field in IMPROVED}
    elif given:
        raise ValueError(f"{', '.join(given)}: only the improved net has that; leave it out, or give --net improved")
    recipe = recipe_of(cfg)
    training = dataclasses.asdict(recipe) | recipe.settings.facts()
    del training["settings"]
    if recipe.views == 1:  # Tables of finished runs are older than the views.
        del training["views"]
    facts = {"data": cfg.data.resolve().name, "holdout": cfg.holdout, "split_seed": cfg.split_seed}
    return Variant(name or f"{cfg.net} net, {cfg.recipe} recipe", {**net, **facts, **training})


def train(cfg: Config, seed: int, training: LabeledImages, validation: LabeledImages, folder: Path) -> dict[str, float]:
    """One run: its figures, which are those of the last epoch."""
    recipe = recipe_of(cfg)
    torch.manual_seed(seed)
    net = make_net(cfg, len(training.classes))
    settings = describe(cfg).settings
    facts = {"data": settings["data"], "classes": list(training.classes), "train": settings}
    rows = fit(
        net,
        lambda epoch: device_training_loader(
            training,
            batch_size=recipe.batch_size,
            epoch=epoch,
            seed=seed,
            padding=recipe.padding,
            flip=recipe.flip,
            cutout=recipe.cutout,
            views=recipe.views,
        ),
        loss=classification_loss(label_smoothing=recipe.label_smoothing),
        validate=lambda model: evaluate_classifier(model, device_evaluation_loader(validation)).figures,
        folder=folder,
        settings=dataclasses.replace(recipe.settings, seed=seed),
        monitor="accuracy",
        mode="max",
        metadata=facts,
        resume=cfg.resume,
    )
    last = Classifier.from_pretrained(folder / "last", device=training_device())
    scores, mirrored = (
        evaluate_classifier(last, device_evaluation_loader(validation), flip=flip) for flip in (False, True)
    )
    if is_main_process():
        write_results(folder, scores, mirrored, training.classes)
    return {**scores.figures, "accuracy_flip": mirrored.accuracy, "seconds": rows[-1]["seconds"]}


def write_results(folder: Path, scores: ClassScores, mirrored: ClassScores, classes: tuple[str, ...]) -> None:
    """Print the report's lines, and draw its Figure 1 and the confusion matrix."""
    print(format_accuracies(scores, classes))
    print(f"averaged with the mirrored image: {mirrored.accuracy:.1f} %")
    shares = zip(classes, scores.class_accuracies, strict=True)
    by_class = {name: None if math.isnan(share) else share for name, share in shares}
    with atomic_file(folder / "val.json") as path:
        text = json.dumps({**scores.figures, "accuracy_flip": mirrored.accuracy, "by_class": by_class}, indent=2)
        path.write_text(text + "\n")
    save_figure(training_curves(read_rows(folder / "metrics.csv")), folder / "curves.png")
    save_figure(confusion_matrix_figure(scores.confusion, classes), folder / "confusion.png")


if __name__ == "__main__":
    run_script(main, Config)
