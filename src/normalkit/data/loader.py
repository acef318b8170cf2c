"""Batches of samples read by worker processes, and what every loader needs: its process's share, and its seeds."""

from __future__ import annotations

import os
import signal
import threading
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

    Args:
        dataset: Of samples; random transforms draw from the global generator of torch, numpy or Python. Without
            workers that is this process's, which `fit` seeds.
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
        dataset,
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
    """Leave Ctrl-C and SIGTERM, which a terminal or a scheduler sends to all processes, to the main one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
