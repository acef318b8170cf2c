"""The memory that a piece of work needs at its peak."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["peak_memory"]


def peak_memory(run: Callable[[], object], *, device: torch.device | str = "cpu") -> int:
    """Bytes that a call needs at its peak, beyond what was in use before it.

    On a GPU what torch has allocated there; on a processor the growth of this process, which Linux counts. Room that
    earlier work left in the process is not seen, nor are libraries and threads that are set up before: for figures that
    compare, let a small case run first, in a process of its own.

    Args:
        run: Called once.
        device: Where it works.

    Raises:
        OSError: The system does not count; only Linux does.

    Examples:
        >>> import sys
        >>> if sys.platform == "linux":
        ...     assert peak_memory(lambda: bytearray(2**26)) > 2**25
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    # From here on Linux counts the peak anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = _process_memory("VmRSS")
    run()
    return _process_memory("VmHWM") - before


def _process_memory(what: str) -> int:
    """Bytes of this process, from Linux: VmRSS in use, VmHWM at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))
