"""Batches of samples in shards, each shard read from front to back by one process, or by the two that share it.

Every process works out from the manifest alone which samples are its own, so that none is read twice or left out,
however many shards, processes and workers there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from normalkit.data.loader import (
    check_batch_size,
    collate,
    leave_signals,
    loader_workers,
    mix_seeds,
    process_rank,
    seeded,
)
from normalkit.data.sample import Sample
from normalkit.data.shards import ShardedNormals

__all__ = ["ShardLoader", "Share", "shard_evaluation_loader", "shard_training_loader"]


class ShardLoader:
    """Batches of samples that are read as they lie in the shards; made by the functions below.

    Iterating begins at the first batch each time.

    Args:
        dataset: The shards.
        shares: The samples of each worker; worker w has the batches w, w + workers and so on.
        batch_size: Samples a batch; the last one may have fewer.
        workers: Loader processes; 0 reads in this one.
        seed: For random transforms, each sample's drawn from it and the sample's number.
        begin: Batches that are left out.
    """

    def __init__(
        self,
        dataset: ShardedNormals,
        shares: list[Share],
        *,
        batch_size: int,
        workers: int,
        seed: int,
        begin: int = 0,
    ) -> None:
        self.dataset, self.shares, self.batch_size = dataset, shares, batch_size
        self.workers, self.seed, self.begin = workers, seed, begin

    def __len__(self) -> int:
        """The number of batches, those left out included."""
        return sum(-(-len(share) // self.batch_size) for share in self.shares)

    def __iter__(self) -> Iterator[Any]:
        """The batches from `begin` on."""
        return iter(
            DataLoader(
                _Stream(self.dataset, self._left(), self.batch_size, self.seed),
                batch_size=None,
                num_workers=self.workers,
                worker_init_fn=leave_signals,
                # Of its own, so that the global one is not drawn from.
                generator=torch.Generator().manual_seed(0),
                pin_memory=torch.cuda.is_available(),
            )
        )

    def after(self, batches: int) -> ShardLoader:
        """The rest of the batches, for going on within an epoch; what is passed over is not read.

        Args:
            batches: How many were done.

        Raises:
            ValueError: There are not so many.
        """
        if not 0 <= batches <= len(self):
            raise ValueError(f"batches={batches}: wanted 0 to {len(self)}")
        kept = (self.dataset, self.shares)
        return ShardLoader(*kept, batch_size=self.batch_size, workers=self.workers, seed=self.seed, begin=batches)

    def _left(self) -> list[Share]:
        """Shares without the batches left out, turned so that the first worker has the next batch."""
        count = len(self.shares)
        done = [len(range(w, self.begin, count)) * self.batch_size for w in range(count)]
        left = [share.after(skipped) for share, skipped in zip(self.shares, done, strict=True)]
        turn = self.begin % count
        return left[turn:] + left[:turn]


class Share:
    """A worker's part of an epoch's samples.

    Args:
        wanted: (N,) int64; their numbers, in the order of the batches.
        places: (N,) int64; where they lie in the epoch's order of shards, which is the order that they are read in.
    """

    def __init__(self, wanted: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        self.wanted, self.places = wanted, places

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.wanted)

    def after(self, count: int) -> Share:
        """Without the first ones."""
        return Share(self.wanted[count:], self.places[count:])

    def as_they_lie(self) -> NDArray[np.int64]:
        """The samples' numbers in the order that they are read in."""
        return self.wanted[np.argsort(self.places)]


class _Stream(IterableDataset[Any]):
    """A worker's batches."""

    def __init__(self, dataset: ShardedNormals, shares: list[Share], batch_size: int, seed: int) -> None:
        self.dataset, self.shares, self.batch_size, self.seed = dataset, shares, batch_size, seed

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        batch = []
        for sample in self._samples(self.shares[0 if worker is None else worker.id]):
            batch.append(sample)
            if len(batch) == self.batch_size:
                yield collate(batch)
                batch = []
        if batch:
            yield collate(batch)

    def _samples(self, share: Share) -> Iterator[Sample]:
        lying = share.as_they_lie()
        records = zip(lying.tolist(), self.dataset.records(lying), strict=True)
        # As they are in the files, which is smaller than decoded.
        held: dict[int, bytes] = {}
        for index in share.wanted.tolist():
            while index not in held:
                number, record = next(records)
                held[number] = record
            with nullcontext() if self.dataset.transform is None else seeded(mix_seeds(self.seed, index)):
                sample = self.dataset.decode(index, held.pop(index))
            yield sample


def shard_training_loader(
    dataset: ShardedNormals,
    *,
    batch_size: int,
    epoch: int,
    seed: int,
    window: int = 1000,
    workers: int | None = None,
) -> ShardLoader:
    """The batches of one epoch from shards, shuffled: the same whenever the same epoch is asked for.

    The shards come in an order drawn for the epoch, and their samples shuffled within `window` of where they lie; data
    whose neighbours are alike, such as the frames of a video, are best written in a drawn order (`shuffle` of
    `write_shards`). Each process reads one part of that order, all equally many batches, and each worker a part of
    the process's; at most the last samples that make no batch for every process are left out, others in each epoch.

    Args:
        dataset: The shards; random transforms draw the same for a sample of an epoch in whatever worker.
        batch_size: Samples a batch in each process.
        epoch: From 0.
        seed: Of the run.
        window: Over how many samples to shuffle; each worker holds about half as many in memory, as they are in the
            files. 1 leaves them in the order of the shards.
        workers: Loader processes; None for `loader_workers`. Another number gives other batches.

    Raises:
        ValueError: The batch size exceeds a process's share of the samples, or `window` is below 1; on reading, what
            `ShardedNormals` refuses, or samples of a batch differ in size.
    """
    rank, world = process_rank()
    size = len(dataset)
    check_batch_size(batch_size, size, world)
    if window < 1:
        raise ValueError(f"window={window}: wanted at least 1, the samples to shuffle over")
    workers = loader_workers() if workers is None else workers
    draw = np.random.default_rng(mix_seeds(seed, epoch, 0))
    order = draw.permutation(len(dataset.shards))
    # So that what is left out, and where processes part, moves from epoch to epoch.
    turn = int(draw.integers(size))
    batches = size // (batch_size * world)
    begin = turn + rank * batches * batch_size
    shares = []
    for worker, count in enumerate(_split(batches, max(workers, 1))):
        places = np.arange(begin, begin + count * batch_size)
        begin += count * batch_size
        noise = np.random.default_rng(mix_seeds(seed, epoch, 1, rank, worker)).uniform(0, window, len(places))
        places = places[np.argsort(np.arange(len(places)) + noise)]
        shares.append(Share(_samples_at(places % size, dataset, order), places))
    return ShardLoader(dataset, shares, batch_size=batch_size, workers=workers, seed=mix_seeds(seed, epoch, 2))


def shard_evaluation_loader(dataset: ShardedNormals, *, batch_size: int = 8, workers: int | None = None) -> ShardLoader:
    """All samples in order, none twice and none left out; in several processes each gets a part, one behind another.

    Args:
        dataset: The shards, of samples of one size, or `batch_size` 1.
        batch_size: Samples a batch.
        workers: Loader processes; None for `loader_workers`.

    Raises:
        ValueError: The batch size is below 1; on reading, what `ShardedNormals` refuses, or samples of a batch differ
            in size.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: wanted at least 1")
    rank, world = process_rank()
    size = len(dataset)
    workers = loader_workers() if workers is None else workers
    mine = np.arange(rank * size // world, (rank + 1) * size // world)
    every = [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]
    shares = []
    for worker in range(max(workers, 1)):
        samples = np.concatenate([mine[:0], *every[worker :: max(workers, 1)]])
        shares.append(Share(samples, samples))
    return ShardLoader(dataset, shares, batch_size=batch_size, workers=workers, seed=0)


def _split(count: int, parts: int) -> list[int]:
    """How many batches each worker has, where they are asked in turn."""
    return [len(range(part, count, parts)) for part in range(parts)]


def _samples_at(places: NDArray[np.int64], dataset: ShardedNormals, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The samples at some places of the shards in another order."""
    sizes = np.diff(dataset.starts)[order]
    begins = np.cumsum(np.concatenate([[0], sizes]))
    which = np.searchsorted(begins, places, side="right") - 1
    samples: NDArray[np.int64] = dataset.starts[order[which]] + places - begins[which]
    return samples
