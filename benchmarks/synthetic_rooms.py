"""How many generated rooms a core makes a second.

    python benchmarks/synthetic_rooms.py --images 30

There is no peer to measure beside it: no installable package generates indoor pictures with exact normals; the
renderers that published data sets come from are programs of their own.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

import numpy as np
import torch
from measurement import processor

from normalkit.data.synthetic import SyntheticRooms

SIZES = ((128, 128), (192, 256))


def rates(size: tuple[int, int], *, images: int, repeats: int) -> tuple[list[float], list[float]]:
    """Images a second in each repeat, by the clock and by the processor time used; the first image is not timed."""
    rooms = SyntheticRooms(images + 1, size=size)
    rooms[images]
    by_clock, by_processor = [], []
    for _ in range(repeats):
        clock, used = time.perf_counter(), time.process_time()
        for index in range(images):
            rooms[index]
        by_clock.append(images / (time.perf_counter() - clock))
        by_processor.append(images / (time.process_time() - used))
    return by_clock, by_processor


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=30, help="rooms in each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}; Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}")
    print(f"1 thread, load {os.getloadavg()[0]:.1f}; {arguments.repeats} repeats of {arguments.images} rooms\n")
    print("| size | images/s (median) | least - most | images/s of processor time (median) |")
    print("|---|---|---|---|")
    for size in SIZES:
        clock, used = rates(size, images=arguments.images, repeats=arguments.repeats)
        spread = f"{min(clock):.1f} - {max(clock):.1f}"
        print(f"| {size[0]} x {size[1]} | {statistics.median(clock):.1f} | {spread} | {statistics.median(used):.1f} |")


if __name__ == "__main__":
    main()
