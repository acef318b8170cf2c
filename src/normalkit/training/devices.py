"""Where a process trains, what that can do, and moving batches there."""

from __future__ import annotations

import atexit
from typing import Any

import torch
from torch import Tensor

from normalkit.data.loader import process_rank
from normalkit.training.types import Batch

__all__ = [
    "has_bfloat16",
    "is_main_process",
    "leave_processes_at_exit",
    "sum_dtype",
    "to_device",
    "training_device",
]


def training_device() -> torch.device:
    """Where this process trains: its GPU, or the processor; for what should lie there before `fit` begins.

    Raises:
        ImportError: accelerate is not installed.
    """
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError('training needs accelerate; pip install "normalkit[train]"') from error
    device: torch.device = PartialState().device
    leave_processes_at_exit()
    return device


def leave_processes_at_exit() -> None:
    """Have this process leave those that it was launched with before the interpreter ends.

    Threads of gloo that still wait for the others then make a process abort now and then, whose work was done.
    """
    atexit.unregister(_leave_processes)
    atexit.register(_leave_processes)


def _leave_processes() -> None:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


def has_bfloat16() -> bool:
    """Whether bfloat16 is fast here: its emulation, on a processor without it, is slower than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Before torch 2.10 a processor does not say what it has; float32 is then the safe answer.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def is_main_process() -> bool:
    """Whether this is the first of the processes that `accelerate launch` started, the one to write files."""
    return process_rank()[0] == 0


def sum_dtype(device: torch.device) -> torch.dtype:
    """For sums over a data set; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def to_device(batch: Batch, device: torch.device, layout: torch.memory_format) -> dict[str, Any]:
    """A batch on a device, its images in a memory layout.

    Args:
        batch: Tensors by name; other entries stay as they are.
        device: Where to.
        layout: Of `image`; labels keep theirs, since losses reduce over their components.
    """
    moved = {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
    if isinstance(moved.get("image"), Tensor):
        moved["image"] = moved["image"].contiguous(memory_format=layout)
    return moved
