"""Running an example script in this process, as Python itself would."""

import importlib.util
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest


def run_example(path, *words):
    """The exit code of a script."""
    argv = sys.argv
    sys.argv = [str(path), *map(str, words)]
    try:
        with _folder_of(path), pytest.raises(SystemExit) as stop:
            runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv = argv
    return stop.value.code


@contextmanager
def loaded_example(path) -> Iterator[ModuleType]:
    """The module of a script that is not run."""
    name = f"example_{Path(path).parent.name}_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    with _folder_of(path):
        # Annotations are looked up in the module of their class.
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
            yield module
        finally:
            del sys.modules[name]


@contextmanager
def _folder_of(path) -> Iterator[None]:
    """Modules come from the script's own folder first, and are forgotten again."""
    folder = Path(path).parent
    folders, before = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(folder)]
    try:
        yield
    finally:
        sys.path[:] = folders
        for neighbour in folder.glob("*.py"):
            if neighbour.stem not in before:
                sys.modules.pop(neighbour.stem, None)
