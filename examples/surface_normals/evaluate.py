r"""Score a trained network on a folder of frames with known normals: the report's line, and JSON on request.

python examples/surface_normals/evaluate.py --checkpoint runs/surface_normals/best \
    --data ../shared/data/red_kitchen/val
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from normalkit import load_model
from normalkit.cli import run_script
from normalkit.data import evaluation_loader, open_dataset
from normalkit.files import atomic_file, check_writable
from normalkit.training import evaluate, format_figures


@dataclass(frozen=True)
class Config:
    """Score a trained network."""

    checkpoint: Path
    """Folder of the model, such as runs/surface_normals/best."""
    data: Path
    """Folder of frames: colour, depth or normals, and intrinsics."""
    flip: bool = False
    """Average with the prediction for the mirrored picture."""
    out: Path | None = None
    """JSON file for the figures."""
    batch_size: int = 8
    """Pictures at a time; 1 where they differ in size."""
    workers: int | None = None
    """Loader processes; by default two, but none on two cores without a GPU."""


def main(cfg: Config) -> None:
    """Print the figures."""
    model = load_model(cfg.checkpoint)
    loader = evaluation_loader(open_dataset(cfg.data), batch_size=cfg.batch_size, workers=cfg.workers)
    if cfg.out is not None:
        check_writable(cfg.out.parent)
    figures = evaluate(model, loader, flip=cfg.flip)
    print(format_figures(figures))
    if cfg.out is not None:
        with atomic_file(cfg.out) as path:
            path.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main, Config)
