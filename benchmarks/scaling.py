"""How time and memory grow: with the image, the batch, the skips, the data set, and the number of processes.

Of `UNetNormals` on ResNet-18 a training step (forward, `AngularLoss`, backward) and inference with `optimized()`; of
`SurfaceNormalMetrics` over maps of 480 x 640; of `RGBDNormals` over ever more files; and of `fit` and `evaluate` in one
process and in two, which share the threads and must give the same figures. What each curve needs more of is printed,
and written with `--out` as `scaling.csv` and `scaling.png`.

    python benchmarks/scaling.py --threads 2 --out docs/results/performance
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from frames import write_rooms
from measurement import argument_parser, digits, in_fresh_process, print_header, print_table, seconds
from torch import Tensor

from normalkit import AngularLoss, RGBDNormals, SurfaceNormalMetrics, UNetNormals
from normalkit.data import evaluation_loader, training_loader
from normalkit.files import atomic_file
from normalkit.profiling import peak_memory
from normalkit.training import TrainingSettings, evaluate, fit, normals_loss, training_device
from normalkit.visualize import save_figure
from normalkit.visualize.figure import titled_figure

STEP, INFERENCE = "training step", "inference"
SKIPS = ((), (4,), (3, 4), (2, 3, 4), (1, 2, 3, 4))
Point = dict[str, Any]


def network_cases(args: argparse.Namespace) -> Iterator[tuple[str, float, tuple[int, int], tuple[int, ...]]]:
    """Curve, place on it, batch and side of the images, and skips."""
    for side in args.sides:
        yield "image side", side, (1, side), SKIPS[-1]
    for batch in args.batches:
        yield "images a batch", batch, (batch, 128), SKIPS[-1]
    for skips in SKIPS:
        yield "skips", len(skips), (2, 128), skips


def network_runs(
    size: tuple[int, int], skips: tuple[int, ...], device: torch.device
) -> dict[str, Callable[[], object]]:
    """A training step and an inference."""
    torch.manual_seed(0)
    model = UNetNormals("resnet18", pretrained=False, skips=skips).to(device).to(memory_format=torch.channels_last)
    fast, criterion = model.eval().optimized(), AngularLoss()
    images = torch.rand(size[0], 3, size[1], size[1], device=device)
    target = torch.nn.functional.normalize(images - 0.5, dim=1)
    parameters = list(model.train().parameters())

    def infer() -> Tensor:
        with torch.inference_mode():
            return fast(images)

    return {STEP: lambda: torch.autograd.grad(criterion(model(images), target), parameters), INFERENCE: infer}


def metric_run(maps: int, device: torch.device) -> Callable[[], object]:
    """A metric over so many maps, eight of them over and over."""
    draw = torch.Generator().manual_seed(0)
    pairs = [[torch.randn(1, 3, 480, 640, generator=draw).to(device) for _ in "ab"] for _ in range(8)]

    def run() -> object:
        metric = SurfaceNormalMetrics().to(device)
        for number in range(maps):
            metric.update(*pairs[number % 8])
        return metric.compute()

    return run


def files_run(folder: Path) -> Callable[[], object]:
    """Open a data set and read a sample from its middle."""

    def run() -> object:
        frames = RGBDNormals(folder, cache=folder.parent / "cache")
        return frames[len(frames) // 2]

    return run


def memory_of_all(folder: Path, args: argparse.Namespace) -> list[float]:
    """MB of every point, in order; for a process of its own. NaN where nothing counts them."""
    torch.set_num_threads(args.threads)
    found = []
    for run in runs_of_all(folder, args):
        run()
        try:
            found.append(peak_memory(run, device=args.device) / 2**20)
        except OSError:
            found.append(math.nan)
    return found


def runs_of_all(folder: Path, args: argparse.Namespace) -> Iterator[Callable[[], object]]:
    """What each point runs."""
    for _, _, size, skips in network_cases(args):
        yield from network_runs(size, skips, args.device).values()
    yield from (metric_run(maps, args.device) for maps in args.maps)
    yield from (files_run(folder / str(files)) for files in args.files)


def names_of_all(args: argparse.Namespace) -> Iterator[tuple[str, float, str]]:
    """Curve, place on it, and what is run, of each point."""
    for curve, place, _, _ in network_cases(args):
        yield from ((curve, place, kind) for kind in (STEP, INFERENCE))
    yield from (("maps", maps, "`SurfaceNormalMetrics`") for maps in args.maps)
    yield from (("files", files, "`RGBDNormals`, opened, one read") for files in args.files)


def write_files(folder: Path, numbers: Sequence[int]) -> None:
    """Folders of ever more frames: one room, linked again and again."""
    write_rooms(folder / "room", 1)
    for files in numbers:
        (folder / str(files)).mkdir()
        os.link(folder / "room" / "camera-intrinsics.txt", folder / str(files) / "camera-intrinsics.txt")
        for number in range(files):
            for kind in ("color.jpg", "depth.png"):
                name = folder / str(files) / f"frame-{number:06}.{kind}"
                os.link(folder / "room" / f"frame-000000.{kind}", name)


def measure(args: argparse.Namespace) -> list[Point]:
    """Every point of every curve but those of processes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_files(folder, args.files)
        memory = in_fresh_process(memory_of_all, folder, args)
        points = []
        for (curve, place, kind), run, megabytes in zip(
            names_of_all(args), runs_of_all(folder, args), memory, strict=True
        ):
            taken = seconds({"": run}, repeats=args.repeats, device=args.device)[""]
            points.append(
                {"curve": curve, "place": place, "of": kind, "ms": 1e3 * statistics.median(taken), "MB": megabytes}
            )
    return points


class Walls(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Pictures of noise with the normals of walls, in memory."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(index)
        normal = torch.nn.functional.normalize(torch.randn(3, generator=draw), dim=0)
        return {
            "image": torch.rand(3, 128, 128, generator=draw),
            "normals": normal.view(3, 1, 1).expand(3, 128, 128).clone(),
            "mask": torch.ones(128, 128, dtype=torch.bool),
        }


def work(out: Path, threads: int) -> None:
    """One of several processes: train for an epoch more than is timed, and score; the first writes what came out."""
    torch.set_num_threads(threads)
    training_device()
    torch.manual_seed(0)
    model, data = UNetNormals("resnet18", pretrained=False), Walls()
    figures = evaluate(model, evaluation_loader(data, workers=0), progress=False)
    rows = fit(
        model,
        lambda epoch: training_loader(data, batch_size=4, epoch=epoch, seed=0, workers=0),
        loss=normals_loss(AngularLoss()),
        validate=None,
        folder=out.with_suffix(".run"),
        settings=TrainingSettings(epochs=3, precision="no"),
    )
    if int(os.environ.get("RANK", 0)) == 0:
        each = (rows[-1]["seconds"] - rows[0]["seconds"]) / 2
        with atomic_file(out) as path:
            path.write_text(json.dumps({"ms": 1e3 * each / len(data), "figures": figures}))


def processes(args: argparse.Namespace) -> list[Point]:
    """Milliseconds an image of training in one process and in two, once their figures are known to be the same."""
    points, figures = [], []
    gpus = torch.cuda.device_count()
    for number in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "out.json")
            threads = max(args.threads // number, 1)
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
            words = [__file__, "--worker", str(out), "--threads", str(threads)]
            cpu = {} if gpus >= 2 else {"ACCELERATE_USE_CPU": "true"}
            environment = os.environ | cpu | {"OMP_NUM_THREADS": str(threads)}
            subprocess.run([*launch, *words], env=environment, check=True, stdout=subprocess.DEVNULL)
            found = json.loads(out.read_text())
        figures.append(found["figures"])
        points.append(
            {"curve": "processes", "place": number, "of": "`fit`, an image", "ms": found["ms"], "MB": math.nan}
        )
    different = [name for name, value in figures[0].items() if abs(value - figures[1][name]) > 1e-4]
    if different:
        raise SystemExit(f"two processes give other figures than one: {different}")
    return points


def draw(points: Sequence[Point]) -> Any:
    """The curves: time on the left axis, memory dashed on the right one."""
    curves = list(dict.fromkeys(point["curve"] for point in points))
    figure = titled_figure(11, 6.5, None)
    for number, curve in enumerate(curves, start=1):
        axes = figure.add_subplot(2, 3, number)
        kinds = list(dict.fromkeys(point["of"] for point in points if point["curve"] == curve))
        counted = any(math.isfinite(point["MB"]) for point in points if point["curve"] == curve)
        memory = axes.twinx() if counted else None
        for colour, kind in zip(("#0072B2", "#D55E00")[: len(kinds)], kinds, strict=True):
            mine = [point for point in points if (point["curve"], point["of"]) == (curve, kind)]
            places = [point["place"] for point in mine]
            axes.plot(places, [point["ms"] for point in mine], "o-", color=colour, label=kind.replace("`", ""))
            if memory is not None:
                memory.plot(places, [point["MB"] for point in mine], "s--", color=colour, alpha=0.5)
        if curve in ("skips", "processes"):
            axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        else:
            axes.set(xscale="log", yscale="log")
            axes.minorticks_off()
        if memory is not None:
            memory.set(ylabel="MB (dashed)", ylim=(0, 1.1 * memory.get_ylim()[1]))
        axes.set_xticks(places, list(map(str, places)))
        axes.set(xlabel=curve, ylabel="ms")
        axes.legend(fontsize=7)
    return figure


def main() -> None:
    """Measure, print, and write."""
    parser = argument_parser(__doc__, repeats=3)
    parser.add_argument(
        "--out", type=Path, help="folder for scaling.csv and scaling.png; by default they are not written"
    )
    for name, numbers in (
        ("sides", (128, 256, 512, 1024)),
        ("batches", (1, 2, 4, 8)),
        ("maps", (10, 40, 160, 640)),
        ("files", (100, 1000, 10000)),
    ):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=numbers, help="places on the curve")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        work(args.worker, args.threads)
        return
    print_header("UNetNormals on ResNet-18, float32, channels last", args, ["timm", "torchmetrics"])
    points = measure(args) + processes(args)
    rows = [[p["curve"], str(p["place"]), p["of"], digits(p["ms"]), digits(p["MB"])] for p in points]
    print_table(("curve", ">at", "", ">ms", ">peak MB"), rows)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        with atomic_file(args.out / "scaling.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(points[0]))
            writer.writeheader()
            writer.writerows(points)
        save_figure(draw(points), args.out / "scaling.png")


if __name__ == "__main__":
    main()
