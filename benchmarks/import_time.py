"""Seconds that `import normalkit` takes, and its names when they are first used, beside `import torch`.

Each is timed in a fresh interpreter, in turn, from its start to its end; an interpreter that does nothing is taken off.

    python benchmarks/import_time.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from measurement import print_header, print_table, seconds, timing_rows

STATEMENTS = (
    "import torch",
    "import normalkit",
    "import torch, normalkit",
    "import normalkit; normalkit.AngularLoss",
    "import normalkit; normalkit.depth_to_normals",
    "import normalkit; normalkit.AngularMetrics",
    "import torchmetrics",
    "import normalkit; normalkit.UNetNormals",
    "import timm",
)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each, after one that is not timed")
    args = parser.parse_args()
    args.threads = 1
    print_header("Imports in fresh interpreters", args, ["torchmetrics", "timm", "torchvision"])

    def run(statement: str) -> None:
        subprocess.run([sys.executable, "-c", statement], check=True)

    runs = {f"`{statement}`": (lambda statement=statement: run(statement)) for statement in ("pass", *STATEMENTS)}
    taken = seconds(runs, repeats=args.repeats)
    nothing = min(taken.pop("`pass`"))
    taken = {name: [max(second - nothing, 0) for second in each] for name, each in taken.items()}
    rows = timing_rows(taken, own="`import torch`")
    print_table(("", ">ms", ">least - most", ">times `import torch`"), rows)


if __name__ == "__main__":
    main()
