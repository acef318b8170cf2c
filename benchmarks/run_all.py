"""Run every benchmark of this folder, one after another: `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run each script in a process of its own, so that none warms up or slows down another."""
    every = sorted(path for path in Path(__file__).parent.glob("*.py") if path.name != Path(__file__).name)
    # The others are what they share.
    scripts = [path for path in every if "__main__" in path.read_text()]
    failed = []
    for script in scripts:
        print(f"== {script.name}", flush=True)
        if subprocess.run([sys.executable, str(script)], check=False).returncode:
            failed.append(script.name)
        print(flush=True)
    print(f"{len(scripts) - len(failed)} of {len(scripts)} benchmarks ran" + (f"; failed: {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
