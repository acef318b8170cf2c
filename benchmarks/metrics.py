"""Speed and memory of `SurfaceNormalMetrics` beside the field's way, in the same run.

The field's way keeps the arc-cosine error of every valid pixel and calls numpy on all of them in the end. It
is measured in two forms: with `torch.cosine_similarity`, as published evaluation scripts have it, and leaner,
with a plain scalar product, which trusts every vector to have unit length and to be finite.

    python benchmarks/metrics.py --maps 654
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torchmetrics
from torch import Tensor
from torch.nn import functional

from normalkit.metrics import THRESHOLDS, SurfaceNormalMetrics

Map = tuple[Tensor, Tensor, Tensor]
Figures = dict[str, float]
DISTINCT_MAPS = 8
"""So many are kept and seen over and over: 654 in memory would take 4 GB and hide what is measured."""
MEDIAN_BOUND = 0.01


def make_maps(height: int, width: int) -> list[Map]:
    """Smooth labels, predictions that are some 20 degrees off, and a tenth of the pixels without a label."""
    generator = torch.Generator().manual_seed(0)
    maps = []
    for _ in range(DISTINCT_MAPS):
        coarse = torch.randn(1, 3, 6, 8, generator=generator)
        target = functional.normalize(functional.interpolate(coarse, (height, width), mode="bilinear"), dim=1)
        noise = torch.randn(target.shape, generator=generator)
        pred = functional.normalize(target + 0.25 * noise, dim=1)
        mask = functional.interpolate(torch.rand(1, 1, 24, 32, generator=generator), (height, width))[:, 0] > 0.1
        maps.append((pred, target, mask))
    return maps


def ours(maps: Iterable[Map]) -> Figures:
    """One update a map, one compute."""
    metric = SurfaceNormalMetrics()
    for pred, target, mask in maps:
        metric.update(pred, target, mask)
    return {name: value.item() for name, value in metric.compute().items() if name != "invalid"}


def field(maps: Iterable[Map]) -> Figures:
    """Keep every error; cosine similarity."""
    return numpy_figures(
        torch.cosine_similarity(pred, target, dim=1).clamp(-1, 1).acos().rad2deg()[mask].numpy()
        for pred, target, mask in maps
    )


def lean_field(maps: Iterable[Map]) -> Figures:
    """Keep every error; scalar product of what are taken for unit vectors."""
    return numpy_figures(
        (pred * target).sum(1).clamp(-1, 1).acos().rad2deg()[mask].numpy() for pred, target, mask in maps
    )


def numpy_figures(errors: Iterable[np.ndarray]) -> Figures:
    """The figures of all errors at once, as published evaluation scripts compute them."""
    total = np.concatenate(list(errors))
    figures = {
        "mean": float(np.average(total)),
        "median": float(np.median(total)),
        "rmse": float(np.sqrt(np.sum(total * total) / total.size)),
    }
    return figures | {f"{t:g}": float(100 * np.sum(total < t) / total.size) for t in THRESHOLDS}


def peak_memory(contender: Callable[[Iterable[Map]], Figures], maps: int, size: tuple[int, int], threads: int) -> float:
    """MB that a fresh process needs at its peak beyond its maps and libraries; NaN where Linux's counters lack."""
    # glibc then gives every freed tensor back at once, so that no room left by the maps' making is used unseen.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(_peak_memory, (contender, maps, size, threads))
    except FileNotFoundError:
        return float("nan")


def _peak_memory(
    contender: Callable[[Iterable[Map]], Figures], maps: int, size: tuple[int, int], threads: int
) -> float:
    torch.set_num_threads(threads)
    distinct = make_maps(*size)
    # Libraries and threads are set up by a map of a few pixels.
    contender([tuple(x[..., :8, :8] for x in distinct[0])])
    Path("/proc/self/clear_refs").write_text("5")
    before = process_memory("VmRSS")
    contender(distinct[i % DISTINCT_MAPS] for i in range(maps))
    return (process_memory("VmHWM") - before) / 1024


def process_memory(field_name: str) -> int:
    """A line of this process's status, in kB; FileNotFoundError where there is none."""
    found = re.search(rf"{field_name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def check_equal(figures: Figures, peer: Figures) -> None:
    """Refuse to compare the speed of different answers."""
    for name, value in figures.items():
        # Arc cosines in float32 are themselves off by up to 0.02 degrees near 0; so are counts near a threshold.
        tolerance = MEDIAN_BOUND if name == "median" else 0.005
        if not abs(value - peer[name]) <= tolerance:
            raise SystemExit(f"{name}: {value} against {peer[name]}; the figures differ, so no speed is compared")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=40, help="maps in the data set")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"), help="of a map")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each, after one that is not timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size = tuple(args.size)
    distinct = make_maps(*size)
    maps = [distinct[i % DISTINCT_MAPS] for i in range(args.maps)]
    contenders = {"SurfaceNormalMetrics": ours, "cosine_similarity, acos, numpy": field, "dot, acos, numpy": lean_field}

    figures = {name: contender(maps) for name, contender in contenders.items()}
    expected = figures["SurfaceNormalMetrics"]
    for peer in list(figures.values())[1:]:
        check_equal(expected, peer)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(args.repeats):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender(maps)
            seconds[name].append(time.perf_counter() - start)

    print(f"{args.maps} maps of {size[0]} x {size[1]}, {args.threads} threads of {processor()}")
    print(f"torch {torch.__version__}, torchmetrics {torchmetrics.__version__}, numpy {np.__version__}\n")
    print(f"{'':32}{'ms a map':>10}{'min - max':>16}{'ours is':>10}{'peak MB':>10}{'mean':>9}{'median':>9}")
    reference = statistics.median(seconds["SurfaceNormalMetrics"])
    for name, contender in contenders.items():
        each = [1e3 * s / args.maps for s in seconds[name]]
        ratio = statistics.median(seconds[name]) / reference
        memory = peak_memory(contender, args.maps, size, args.threads)
        print(
            f"{name:32}{statistics.median(each):10.2f}{f'{min(each):.2f} - {max(each):.2f}':>16}{ratio:9.1f}x"
            f"{memory:10.1f}{figures[name]['mean']:9.4f}{figures[name]['median']:9.4f}"
        )


if __name__ == "__main__":
    main()
