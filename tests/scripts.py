"""Running an example script in this process, as Python itself would."""

import runpy
import sys
from pathlib import Path

import pytest


def run_example(path, *words):
    """The exit code of a script; modules that it imports from its own folder are forgotten again."""
    path = Path(path)
    argv, folders, before = sys.argv, list(sys.path), set(sys.modules)
    sys.argv, sys.path[:0] = [str(path), *map(str, words)], [str(path.parent)]
    try:
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = argv, folders
        for neighbour in path.parent.glob("*.py"):
            if neighbour.stem not in before:
                sys.modules.pop(neighbour.stem, None)
    return stop.value.code
