"""What every benchmark here does alike: options, the machine's name, timing in turn, peak memory, and the table."""

from __future__ import annotations

import argparse
import importlib.metadata
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Runs = dict[str, Callable[[], object]]


def argument_parser(doc: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """The options that all have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help="timed runs of each, after one that is not timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=default, help="of torch")
    return parser


def print_header(what: str, args: argparse.Namespace, packages: Sequence[str] = ()) -> None:
    """What is measured, where, and with which versions; sets the threads, and full float32 on GPUs."""
    torch.set_num_threads(args.threads)
    # The comparisons are of float32, which TF32 is not.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    device = getattr(args, "device", torch.device("cpu"))
    gpu = f"{torch.cuda.get_device_name(device)}; " if device.type == "cuda" else ""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", *packages))
    print(what)
    print(f"{gpu}{processor()}, {os.cpu_count()} cores, {args.threads} threads, load {os.getloadavg()[0]:.1f}")
    print(f"Python {platform.python_version()}, {versions}\n", flush=True)


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def seconds(runs: Runs, *, repeats: int, device: torch.device | None = None) -> dict[str, list[float]]:
    """Of each, in turn, so that all see the same machine; the first round is not timed."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if device is not None and device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat:
                taken[name].append(time.perf_counter() - start)
    return taken


def peak_megabytes(measure: Callable[..., int], *arguments: Any) -> float:
    """What a function of a module gives in bytes in a fresh process, in MB; NaN where nothing counts them."""
    try:
        return in_fresh_process(measure, *arguments) / 2**20
    except OSError:
        return float("nan")


def in_fresh_process(measure: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module where memory can be measured."""
    # glibc then gives every freed tensor back at once, so that no room left by earlier work is used unseen.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(measure, arguments)
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def spread(values: Iterable[float], scale: float = 1e3) -> str:
    """Least and most, in milliseconds if they are seconds."""
    numbers = [scale * value for value in values]
    return f"{digits(min(numbers))} - {digits(max(numbers))}"


def digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def timing_rows(taken: dict[str, list[float]], *, own: str, first: Sequence[str] = ()) -> list[list[str]]:
    """Rows for `print_table`: cells that come first, name, median ms, least and most, and how much faster ours is."""
    reference = statistics.median(taken[own])
    rows = []
    for name, each in taken.items():
        middle = statistics.median(each)
        ratio = "" if name == own else f"{middle / reference:.2f}x"
        rows.append([*first, f"**{name}**" if name == own else name, digits(1e3 * middle), spread(each), ratio])
    return rows


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table, for `docs/results/performance.md`; columns whose name starts with `>` go to the right."""
    print("| " + " | ".join(name.lstrip(">") for name in columns) + " |")
    print("|" + "|".join("---:" if name.startswith(">") else "---" for name in columns) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print(flush=True)
