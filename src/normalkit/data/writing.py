"""Samples as files: what took long to draw or compute is done once, and read by anyone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from normalkit.codec import write_normals
from normalkit.files import atomic_file, check_writable
from normalkit.images import to_pillow

__all__ = ["write_samples"]

FACTS = "data.json"
"""What the files of a folder were written from."""


def write_samples(
    dataset: Dataset[Any],
    folder: str | os.PathLike[str],
    *,
    facts: Mapping[str, Any],
    bits: int = 8,
    workers: int = 0,
    progress: bool = True,
) -> None:
    """Write the samples of a data set to a folder that `NormalFolder` reads with its own patterns.

    Sample 12 is `000012_img.png`, `000012_normal.png`, which states its convention, and, where the camera is known,
    `000012_intrins.npy`. A folder whose writing was stopped is gone on with: what is there is not drawn again.

    Args:
        dataset: Of sample dicts, see `normalkit.data.sample`; without random transforms.
        folder: Made if missing.
        facts: What makes these samples and no others, such as a seed and a size, as JSON has it; kept in `data.json`.
        bits: 8 or 16 bits a channel of the normals, which keeps directions to 0.39 or 0.0016 degrees.
        workers: Processes that read the data set; 0 reads it in this one.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: The folder holds samples of other facts, or `bits` is neither.
        OSError: The folder cannot be written.
    """
    folder = Path(folder)
    if bits not in (8, 16):
        raise ValueError(f"bits={bits}: wanted 8 or 16")
    check_writable(folder)
    _check_facts(folder, {**facts, "bits": bits})
    count = len(dataset)  # type: ignore[arg-type]
    # The normals are the last of a sample's files.
    missing = [index for index in range(count) if not (folder / f"{index:06}_normal.png").exists()]
    loader: DataLoader[Any] = DataLoader(
        _Writing(dataset, folder, bits), batch_size=None, sampler=missing, num_workers=workers
    )
    from tqdm import tqdm

    done = count - len(missing)
    for _ in tqdm(loader, desc=f"writing {folder.name}", initial=done, total=count, disable=not progress):
        pass


class _Writing(Dataset[int]):
    """Writes a sample where it is read, which may be a worker process."""

    def __init__(self, dataset: Dataset[Any], folder: Path, bits: int) -> None:
        self.dataset, self.folder, self.bits = dataset, folder, bits

    def __getitem__(self, index: int) -> int:
        sample = self.dataset[index]
        stem = self.folder / f"{index:06}"
        with atomic_file(f"{stem}_img.png") as path:
            to_pillow(sample["image"]).save(path, compress_level=1)
        if bool(sample["intrinsics"].isfinite().all()):
            with atomic_file(f"{stem}_intrins.npy") as path:
                np.save(path, sample["intrinsics"].numpy())
        write_normals(f"{stem}_normal.png", sample["normals"], sample["mask"], bits=self.bits)
        return index


def _check_facts(folder: Path, facts: dict[str, Any]) -> None:
    path = folder / FACTS
    text = json.dumps(facts, indent=2, sort_keys=True)
    if path.exists():
        found = path.read_text(encoding="utf-8", errors="replace")
        if found.strip() != text:
            raise ValueError(
                f"{path}: the samples here were written from {' '.join(found.split())}, not from "
                f"{json.dumps(facts, sort_keys=True)}; choose another folder, or remove this one"
            )
        return
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
