"""Batches of samples read by worker processes, and what every loader needs: its process's share, and its seeds."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

__all__ = [
    "check_batch_size",
    "collate",
    "evaluation_loader",
    "leave_signals",
    "loader_workers",
    "mix_seeds",
    "process_rank",
    "seeded",
    "training_loader",
]


def loader_workers() -> int:
    """How many loader processes pay here: two, but none where two cores or fewer do the network's work as well.

    There a worker and the network take the cores from each other, and each operation of the network waits for the
    slower of its threads: an epoch with two workers took a quarter longer than one with none.
    """
    return 2 if torch.accelerator.is_available() or (os.cpu_count() or 1) > 2 else 0


def training_loader(
    dataset: Dataset[Any], *, batch_size: int, epoch: int, seed: int, workers: int | None = None
) -> DataLoader[Any]:
    """The batches of one epoch, shuffled: the same whenever the same epoch is asked for.

    The last, smaller batch is left out. In several processes each gets every n-th batch, and all equally many.
    Random transforms draw from the global generators of torch, numpy and Python, which are seeded for each sample
    from `seed`, `epoch` and its index, and put back after it: a sample does not depend on how many workers or
    processes there are, nor on the batch that it is in.

    Args:
        dataset: Of samples; its random numbers come from those generators, on the processor.
        batch_size: Samples a batch in each process.
        epoch: From 0.
        seed: Of the run.
        workers: Loader processes; None for `loader_workers`.

    Raises:
        ValueError: The batch size exceeds the number of samples, or samples of a batch differ in size.
    """
    rank, world = process_rank()
    size = len(dataset)  # type: ignore[arg-type]
    check_batch_size(batch_size, size, world)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(mix_seeds(seed, epoch, 0))).tolist()
    every = [order[i : i + batch_size] for i in range(0, size - batch_size + 1, batch_size)]
    return DataLoader(
        _SeededSamples(dataset, seed, epoch),
        batch_sampler=every[rank : len(every) // world * world : world],
        num_workers=loader_workers() if workers is None else workers,
        collate_fn=collate,
        worker_init_fn=leave_signals,
        generator=torch.Generator().manual_seed(mix_seeds(seed, epoch, 1 + rank)),
        pin_memory=torch.cuda.is_available(),
    )


def evaluation_loader(dataset: Dataset[Any], *, batch_size: int = 8, workers: int | None = None) -> DataLoader[Any]:
    """All samples in order, none twice and none left out; in several processes each gets its share.

    Args:
        dataset: Of samples of one size, or `batch_size` 1.
        batch_size: Samples a batch.
        workers: Loader processes; None for `loader_workers`.

    Raises:
        ValueError: The batch size is below 1, or samples of a batch differ in size.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: wanted at least 1")
    rank, world = process_rank()
    mine = list(range(rank, len(dataset), world))  # type: ignore[arg-type]
    return DataLoader(
        dataset,
        batch_sampler=[mine[i : i + batch_size] for i in range(0, len(mine), batch_size)],
        num_workers=loader_workers() if workers is None else workers,
        collate_fn=collate,
        worker_init_fn=leave_signals,
        pin_memory=torch.cuda.is_available(),
    )


def check_batch_size(batch_size: int, size: int, world: int) -> None:
    """Refuse batches of which the data set has not even one for each process.

    Args:
        batch_size: Samples a batch in each process.
        size: Samples of the data set.
        world: Processes.

    Raises:
        ValueError: The batch size is below 1, or exceeds the process's share.
    """
    if not 1 <= batch_size * world <= size:
        several = f" in {world} processes" if world > 1 else ""
        raise ValueError(f"batch_size={batch_size}{several}: wanted between 1 and {size // world}, of {size} samples")


class _SeededSamples(Dataset[Any]):
    """A data set whose samples are drawn alike in whatever process and order."""

    def __init__(self, dataset: Dataset[Any], seed: int, epoch: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        """A sample, drawn with random numbers of its own."""
        # The third number is that of no process in `fit`; 1 is added since a trailing 0 would change no seed.
        with seeded(mix_seeds(self.seed, self.epoch, 0, 1 + index)):
            return self.dataset[index]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of torch (the processor's), numpy and Python seeded in the block, as before after it."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    # `torch.manual_seed` takes a millisecond more, for the stack trace that it keeps for GPUs not in use.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def collate(samples: list[Any]) -> Any:
    """A batch of samples.

    Raises:
        ValueError: They differ in size.
    """
    try:
        return default_collate(samples)
    except RuntimeError as error:
        raise ValueError(f"samples of one batch differ in size; use a batch size of 1 ({error})") from error


def leave_signals(worker: int) -> None:
    """Leave the signals that a terminal or a scheduler sends to all processes to the main one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):  # Not on Windows.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Not on macOS and Windows.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_parent_says, daemon=True).start()


def _end_when_parent_says() -> None:
    """Wait for the SIGTERM with which the main process ends a worker that is still there at its exit."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def process_rank() -> tuple[int, int]:
    """This process's number and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def mix_seeds(*numbers: int) -> int:
    """One seed from several numbers, far from the seeds of their neighbours."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
