"""What can be checked of the benchmarks without running them, which takes many minutes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from scripts import loaded_example

from normalkit import BaseNet
from normalkit.data import LabeledImages

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_benchmark_takes_from_its_neighbours_is_there(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (FOLDER / f"{node.module}.py").is_file():
            neighbour = ast.parse((FOLDER / f"{node.module}.py").read_text())
            assert {alias.name for alias in node.names} <= names_of(neighbour)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_benchmark_takes_from_normalkit_is_public(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("normalkit"):
            module = __import__(node.module, fromlist=["*"])
            assert all(hasattr(module, alias.name) for alias in node.names), node.module


def test_the_peer_of_the_cifar_training_normalises_its_images_once() -> None:
    """In its loader, as the usual script does; the network's own normalisation would be work for nothing."""
    pixels = torch.randint(2, (8, 3, 32, 32), dtype=torch.uint8) * 255
    data = LabeledImages(pixels, torch.arange(8), tuple(map(str, range(8))))
    net, seen = BaseNet(), []
    net.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with loaded_example(FOLDER / "cifar_training.py") as script:
        script.plain(net, data, batch_size=4, workers=0, epochs=1, device=torch.device("cpu"))
    assert len(seen) == 2
    # Of black red, and of white green.
    assert torch.stack(seen).min().item() == pytest.approx(-0.4914 / 0.2470, abs=1e-4)
    assert torch.stack(seen).max().item() == pytest.approx((1 - 0.4822) / 0.2435, abs=1e-4)


def names_of(module: ast.Module) -> set[str]:
    """What a module defines or imports at its top."""
    found = set()
    for node in module.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found
