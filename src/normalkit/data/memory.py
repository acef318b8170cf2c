"""A data set read once and kept in memory, so that training never waits for it."""

from __future__ import annotations

import copy
from typing import Any

from torch.utils.data import DataLoader, Dataset

from normalkit.data.sample import Sample, Transform, transform_sample

__all__ = ["InMemory"]


class InMemory(Dataset[Sample]):
    """Every sample of a data set, read or drawn once; random transforms still draw anew each time.

    Args:
        dataset: Of sample dicts, see `normalkit.data.sample`; without random transforms of its own, which would be
            drawn once for all.
        transform: As in `normalkit.data.sample.transform_sample`; called with a copy of each sample.
        workers: Processes that read the data set here; 0 reads it in this one.
        progress: Whether to show a progress bar.
    """

    def __init__(
        self, dataset: Dataset[Any], *, transform: Transform | None = None, workers: int = 0, progress: bool = True
    ) -> None:
        from tqdm import tqdm

        loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, num_workers=workers)
        # Copied, since tensors from a worker process each hold a file open.
        self.samples: list[Sample] = [
            copy.deepcopy(sample) for sample in tqdm(loader, desc="reading samples", leave=False, disable=not progress)
        ]
        self.transform = transform

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """A copy of a sample, transformed."""
        # Deep, so that what changes a tensor in place changes no later epoch.
        sample = copy.deepcopy(self.samples[index])
        return sample if self.transform is None else transform_sample(sample, self.transform)
