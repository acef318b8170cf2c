r"""The report's Table 2: the improved net without batch norm, without dropout, with fewer layers; over seeds.

python examples/cifar10/ablate.py --data ../shared/data/cifar10_train_jpeg.tar.xz --epochs 8 --seeds 0 \
    --padding 2 --cutout 0 --label-smoothing 0 --weight-decay 5e-4

In 8 epochs little is learnt by heart, so that these runs are held back less than the recipe of 30 does.

Each finished run is a row of the CSV table, which may be committed: started again, the study skips those, and goes
on with the run that was stopped. A Markdown table and a figure stand beside it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from train import Config as Training
from train import describe, read_data, train

from normalkit.cli import run_script
from normalkit.study import StudyRow, Variant, is_finished, run_study, write_report

# The report's names and validation figures; its table counts one layer fewer than its names for the last two.
# Without batch norm the others' rate, 0.1, is too high.
VARIANTS: dict[str, tuple[dict[str, Any], float | None]] = {
    "default": ({}, 87.0),
    "no batch norm": ({"batch_norm": False, "lr": 0.02}, 86.0),
    "no dropout": ({"dropout": 0.0}, 87.9),
    "FC2, 1 layer removed": ({"fc_layers": 3}, 88.0),
    "FC1, 2 layers removed": ({"fc_layers": 2}, 87.0),
    "3 layers removed": ({"fc_layers": 1}, None),
    "pooled head": ({"head": "pool"}, None),
    "pooled head, no dropout": ({"head": "pool", "dropout": 0.0}, None),
}


@dataclass(frozen=True)
class Config:
    """Run the ablation of the improved net."""

    data: Path
    """A tar file or folder of train/CLASS/IMAGE, or the folder of torchvision's CIFAR-10."""
    table: Path = Path("docs/results/cifar10-ablation.csv")
    """The rows of finished runs. The report beside it is of one recipe: give another name for another."""
    runs: Path = Path("runs/cifar10-ablation")
    """Folder of the runs' checkpoints and logs."""
    recipe: Literal["modern", "report"] = "modern"
    """How to train: modern, or plainly as the report."""
    epochs: int | None = None
    """Instead of the recipe's."""
    weight_decay: float | None = None
    """Instead of the recipe's."""
    batch_size: int | None = None
    """Images a batch instead of the recipe's."""
    padding: int | None = None
    """Pixels that crops move by, at most, instead of the recipe's."""
    cutout: int | None = None
    """Side of a square filled with the mean colour, in pixels, instead of the recipe's."""
    label_smoothing: float | None = None
    """Instead of the recipe's."""
    seeds: tuple[int, ...] = (0,)
    """One run of each variant for each."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which ones to run; the report has those and what else is in the table."""
    holdout: int = 5000
    """Images of the training set that validate."""
    download: bool = False
    """Let torchvision download CIFAR-10 to the data folder."""


def main(cfg: Config) -> int:
    """Do the runs that are not finished, and write the report."""
    unknown = sorted(set(cfg.variants) - set(VARIANTS))
    if unknown:
        raise ValueError(f"--variants: no {', '.join(unknown)}; wanted some of {', '.join(VARIANTS)}")
    shared = (
        *("data", "recipe", "epochs", "weight_decay", "batch_size", "padding", "cutout", "label_smoothing"),
        *("holdout", "download"),
    )
    base = Training(net="improved", resume=True, **{name: getattr(cfg, name) for name in shared})
    configs = {name: dataclasses.replace(base, **options) for name, (options, _) in VARIANTS.items()}
    variants = [
        dataclasses.replace(describe(config, name), reported={} if reported is None else {"accuracy": reported})
        for (name, config), (_, reported) in zip(configs.items(), VARIANTS.values(), strict=True)
    ]
    chosen = [variant for variant in variants if variant.name in cfg.variants]
    data = () if is_finished(chosen, seeds=cfg.seeds, table=cfg.table) else read_data(base)

    def run(variant: Variant, seed: int) -> dict[str, float]:
        return train(configs[variant.name], seed, *data, cfg.runs / variant.folder(seed))

    def report(rows: list[StudyRow]) -> None:
        figures = {"accuracy": "validation (%)", "accuracy_flip": "with mirroring (%)"}
        write_report(cfg.table, rows, variants, figures=figures, title="Improved net: Table 2")

    rows, failures = run_study(chosen, run, seeds=cfg.seeds, table=cfg.table, report=report)
    if rows:
        print(cfg.table.with_suffix(".md").read_text())
    return 1 if failures else 0


if __name__ == "__main__":
    run_script(main, Config)
