r"""What a network costs: parameters, milliseconds an image, and the memory of a training step.

python examples/surface_normals/cost.py --checkpoint runs/surface_normals/best

Memory is the most that one step needs on top of the network: on a GPU what torch has allocated, on a processor, under
Linux, the growth of this process, which is why it is a program of its own. Where the system does not count, it is
left out.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from normalkit import AngularLoss, load_model
from normalkit.cli import run_script
from normalkit.models import NormalEstimator
from normalkit.profiling import peak_memory
from normalkit.training import training_device


@dataclass(frozen=True)
class Config:
    """Measure what a network costs."""

    checkpoint: Path
    """Folder of the model, such as runs/surface_normals/best."""
    height: int = 240
    """Of the images, pixels."""
    width: int = 320
    """Of the images, pixels."""
    batch_size: int = 8
    """Images in the training step."""
    repeats: int = 20
    """Predictions, of which the median time counts."""


def main(cfg: Config) -> None:
    """Print the figures as JSON."""
    device = training_device()
    model = load_model(cfg.checkpoint, device=device)
    images = torch.rand(cfg.batch_size, 3, cfg.height, cfg.width, device=device)
    try:
        memory = {"megabytes": step_memory(model, images) / 1e6}
    except OSError as error:
        print(f"the memory of a step is not known here: {error}", file=sys.stderr)
        memory = {}
    figures = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        "milliseconds": 1000 * seconds_an_image(model.eval(), images[:1], cfg.repeats),
        **memory,
    }
    print(json.dumps(figures))


def step_memory(model: NormalEstimator, images: torch.Tensor) -> int:
    """Bytes that the loss and its gradient need at their peak."""
    target = torch.zeros_like(images)
    target[:, 2] = -1
    model.train()
    return peak_memory(lambda: AngularLoss()(model(images), target).backward(), device=images.device)


@torch.inference_mode()
def seconds_an_image(model: NormalEstimator, image: torch.Tensor, repeats: int) -> float:
    """Median over predictions of one image, after three that do not count."""
    times = []
    for _ in range(3 + repeats):
        start = time.perf_counter()
        model(image).sum().item()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


if __name__ == "__main__":
    run_script(main, Config)
