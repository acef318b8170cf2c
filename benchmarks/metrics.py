"""Speed and memory of `SurfaceNormalMetrics` beside the field's way, in the same run.

The field's way keeps the arc-cosine error of every valid pixel and calls numpy on all of them in the end. It
is measured in two forms: with `torch.cosine_similarity`, as published evaluation scripts have it, and leaner,
with a plain scalar product, which trusts every vector to have unit length and to be finite.

    python benchmarks/metrics.py --maps 654
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import torch
from measurement import argument_parser, digits, peak_megabytes, print_header, print_table, seconds, timing_rows
from torch import Tensor
from torch.nn import functional

from normalkit.metrics import THRESHOLDS, SurfaceNormalMetrics
from normalkit.profiling import peak_memory

Map = tuple[Tensor, Tensor, Tensor]
Figures = dict[str, float]
DISTINCT_MAPS = 8
"""So many are kept and seen over and over: 654 in memory would take 4 GB and hide what is measured."""
MEDIAN_BOUND = 0.01


def make_maps(height: int, width: int, device: torch.device) -> list[Map]:
    """Smooth labels, predictions that are some 20 degrees off, and a tenth of the pixels without a label."""
    generator = torch.Generator().manual_seed(0)
    maps = []
    for _ in range(DISTINCT_MAPS):
        coarse = torch.randn(1, 3, 6, 8, generator=generator)
        target = functional.normalize(functional.interpolate(coarse, (height, width), mode="bilinear"), dim=1)
        noise = torch.randn(target.shape, generator=generator)
        pred = functional.normalize(target + 0.25 * noise, dim=1)
        mask = functional.interpolate(torch.rand(1, 1, 24, 32, generator=generator), (height, width))[:, 0] > 0.1
        maps.append((pred.to(device), target.to(device), mask.to(device)))
    return maps


def ours(maps: Iterable[Map]) -> Figures:
    """One update a map, one compute."""
    metric = SurfaceNormalMetrics()
    for pred, target, mask in maps:
        metric = metric.to(pred.device)
        metric.update(pred, target, mask)
    return {name: value.item() for name, value in metric.compute().items() if name != "invalid"}


def field(maps: Iterable[Map]) -> Figures:
    """Keep every error; cosine similarity."""
    return numpy_figures(
        torch.cosine_similarity(pred, target, dim=1).clamp(-1, 1).acos().rad2deg()[mask].cpu().numpy()
        for pred, target, mask in maps
    )


def lean_field(maps: Iterable[Map]) -> Figures:
    """Keep every error; scalar product of what are taken for unit vectors."""
    return numpy_figures(
        (pred * target).sum(1).clamp(-1, 1).acos().rad2deg()[mask].cpu().numpy() for pred, target, mask in maps
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


def peak_memory_of(name: str, maps: int, size: tuple[int, int], device: torch.device, threads: int) -> int:
    """Bytes that a contender needs beyond its maps and libraries."""
    torch.set_num_threads(threads)
    contender, distinct = CONTENDERS[name], make_maps(*size, device)
    # Libraries and threads are set up by a map of a few pixels.
    contender([tuple(x[..., :8, :8] for x in distinct[0])])
    return peak_memory(lambda: contender(distinct[i % DISTINCT_MAPS] for i in range(maps)), device=device)


CONTENDERS = {
    "`SurfaceNormalMetrics`": ours,
    "`cosine_similarity`, `acos`, numpy": field,
    "scalar product, `acos`, numpy": lean_field,
}


def check_equal(figures: Figures, peer: Figures) -> None:
    """Refuse to compare the speed of different answers."""
    for name, value in figures.items():
        # Arc cosines in float32 are themselves off by up to 0.02 degrees near 0; so are counts near a threshold.
        tolerance = MEDIAN_BOUND if name == "median" else 0.005
        if not abs(value - peer[name]) <= tolerance:
            raise SystemExit(f"{name}: {value} against {peer[name]}; the figures differ, so no speed is compared")


def main() -> None:
    """Measure and print a table."""
    parser = argument_parser(__doc__, repeats=3)
    parser.add_argument("--maps", type=int, default=654, help="maps in the data set")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"), help="of a map")
    args = parser.parse_args()
    print_header(f"{args.maps} maps of {args.size[0]} x {args.size[1]}", args, ["torchmetrics", "numpy"])
    distinct = make_maps(*args.size, args.device)
    maps = [distinct[i % DISTINCT_MAPS] for i in range(args.maps)]

    figures: dict[str, Figures] = {}

    def run(name: str) -> None:
        figures[name] = CONTENDERS[name](maps)

    runs = {name: functools.partial(run, name) for name in CONTENDERS}
    own, *peers = CONTENDERS
    taken = seconds(runs, repeats=args.repeats, device=args.device)
    for peer in peers:
        check_equal(figures[own], figures[peer])
    rows = timing_rows({name: [s / args.maps for s in each] for name, each in taken.items()}, own=own)
    for row, name in zip(rows, CONTENDERS, strict=True):
        memory = peak_megabytes(peak_memory_of, name, args.maps, args.size, args.device, args.threads)
        row += [digits(memory), f"{figures[name]['mean']:.4f}", f"{figures[name]['median']:.4f}"]
    print_table(("", ">ms a map", ">least - most", ">ours is", ">peak MB", ">mean", ">median"), rows)


if __name__ == "__main__":
    main()
