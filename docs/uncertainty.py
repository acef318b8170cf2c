"""How sure the network in the package is of rooms that it never saw: `python docs/uncertainty.py`.

Draws the sparsification curve of results/rooms.md, and prints the table beside it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from normalkit import load_model
from normalkit.cli import run_script
from normalkit.data import reference_rooms
from normalkit.inference import predict_with_error
from normalkit.uncertainty import sparsification
from normalkit.visualize import error_map, save_figure, sparsification_figure

EDGES = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 50.0, 90.0)
"""Of the expected error, degrees; the rows of the table."""


@dataclass(frozen=True)
class Config:
    """Compare the errors that a network expects with those that it makes, on the reference rooms."""

    checkpoint: str | None = None
    """Of a network trained with AngMFLoss; by default the one in the package."""
    out: Path = Path(__file__).parent / "results" / "rooms" / "sparsification.png"
    """The curve's file."""


def main(cfg: Config) -> None:
    """Predict, draw, print."""
    errors, expected = errors_of(cfg.checkpoint)
    curve = sparsification(errors, expected)
    save_figure(sparsification_figure(curve), cfg.out, dpi=150)
    print(f"mean error {errors.mean():.2f}, expected {expected.mean():.2f}, area {curve.area:.2f} degrees\n")
    for removed, left in zip(curve.removed.tolist(), curve.error.tolist(), strict=True):
        if math.isclose(removed, 0.5):
            print(f"of the half that it is surest of: {left:.2f}\n")
    print("\n".join(table(errors, expected)))


def errors_of(checkpoint: str | None) -> tuple[Tensor, Tensor]:
    """The angular errors of all valid pixels of the reference rooms, and what the network expects of each, degrees."""
    model, rooms = load_model(checkpoint), reference_rooms()
    errors, expected = [], []
    for room in (rooms[i] for i in range(len(rooms))):
        normals, error = predict_with_error(model, room["image"])
        made = error_map(normals, room["normals"], room["mask"])
        errors.append(made[made.isfinite()])
        expected.append(error[made.isfinite()])
    return torch.cat(errors), torch.cat(expected)


def table(errors: Tensor, expected: Tensor) -> list[str]:
    """Lines of Markdown: for each range of the expected error, what came of it."""
    lines = ["| expected | pixels (%) | expected, mean | made, mean | made, median |", "|---|---:|---:|---:|---:|"]
    for low, high in itertools.pairwise(EDGES):
        within = (expected >= low) & (expected < high)
        if within.any():
            made = errors[within]
            lines.append(
                f"| {low:g} to {high:g} | {100 * within.float().mean():.1f} | {expected[within].mean():.1f} | "
                f"{made.mean():.1f} | {made.median():.1f} |"
            )
    return lines


if __name__ == "__main__":
    run_script(main, Config)
