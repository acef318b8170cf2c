"""What a photo costs beyond the network, and what the command costs beyond the libraries it stands on.

The first table has the network's bare forward pass on a tensor that is ready, `predict` on a file, and all that
`normalkit predict` does with a photo: reading the JPEG, the normals, writing the PNG. The second has fresh processes:
`python -c "import torch, timm"`, and the whole command on a photo of one pixel. Both are measured in turn, by the clock
and by the processor's time, which other work on the machine disturbs less.

    python benchmarks/predict.py --threads 2
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from measurement import processor
from PIL import Image
from torch import Tensor, nn

from normalkit import UNetNormals, predict, save_model
from normalkit.images import read_image
from normalkit.outputs import Outputs

EQUAL = 1e-4
"""The largest difference of a component."""


def make_photo(path: Path, height: int, width: int) -> None:
    """Smooth colours with some grain, as a camera's JPEG has."""
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
    grain = draw.normal(0, 4, (height, width, 3))
    Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(path, quality=92)


def contenders(model: nn.Module, photo: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """What the first table compares, the peer first."""
    images = read_image(photo)[None].float() / 255
    outputs, result = Outputs(folder), folder / "photo.normals.png"

    def forward() -> Tensor:
        with torch.no_grad():
            return model(images)[0]

    def command() -> None:
        image = read_image(photo)
        outputs.write_photo(photo, result, image, predict(model, image))

    return {
        "the network alone": forward,
        "predict(model, file)": lambda: predict(model, photo),
        "file to file": command,
    }


def measured(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds by the clock and of the processor, of each in turn; the first round is not timed."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            clock, work = time.perf_counter(), _processor_time()
            run()
            if repeat:
                taken[name].append((time.perf_counter() - clock, _processor_time() - work))
    return taken


def _processor_time() -> float:
    """Of this process and of those it has started and seen the end of."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def print_table(taken: dict[str, list[tuple[float, float]]]) -> None:
    """Medians, the spread, and how much more each is than the first."""
    print(f"{'':44}{'ms':>9}{'least - most':>18}{'ratio':>8}{'processor ms':>15}{'ratio':>8}")
    peers = None
    for name, each in taken.items():
        clock, work = (statistics.median(x[i] for x in each) for i in (0, 1))
        peers = peers or (clock, work)
        spread = f"{1e3 * min(x[0] for x in each):,.0f} - {1e3 * max(x[0] for x in each):,.0f}"
        print(
            f"{name:44}{1e3 * clock:9,.0f}{spread:>18}{clock / peers[0]:8.2f}{1e3 * work:15,.0f}{work / peers[1]:8.2f}"
        )
    print(flush=True)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="tf_efficientnet_lite0", help="of the U-Net; its weights are random")
    parser.add_argument("--resolution", type=int, nargs="*", default=[0, 320], help="of the network; 0 for none")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"), help="of the photo")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each, after one that is not timed")
    parser.add_argument("--starts", type=int, default=3, help="of each command, after one that is not timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"U-Net on {args.encoder}; {processor()}, {args.threads} threads, load {os.getloadavg()[0]:.1f}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photo(folder / "photo.jpg", *args.size)
        Image.new("RGB", (1, 1)).save(folder / "pixel.png")
        for resolution in args.resolution:
            torch.manual_seed(0)
            model = UNetNormals(args.encoder, pretrained=False, resolution=resolution or None).eval()
            runs = contenders(model, folder / "photo.jpg", folder)
            difference = float((runs["the network alone"]() - runs["predict(model, file)"]()).abs().max())
            if not difference <= EQUAL:
                raise SystemExit(f"the normals differ by {difference:.1e}; so no speed is compared")
            seen = f"scaled to {resolution}" if resolution else "as it is"
            print(f"a photo of {args.size[1]} x {args.size[0]}, {seen}; normals differ by {difference:.0e}")
            print_table(measured(runs, args.repeats))
        save_model(folder / "model", model)
        words = ["predict", folder / "pixel.png", "--checkpoint", folder / "model", "--out", folder]
        starts = {
            'python -c "import torch, timm"': [sys.executable, "-c", "import torch, timm"],
            "normalkit predict, one pixel": [sys.executable, "-m", "normalkit.cli", *words],
        }
        start = {
            label: lambda command=command: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for label, command in starts.items()
        }
        print("a fresh process")
        print_table(measured(start, args.starts))


if __name__ == "__main__":
    main()
