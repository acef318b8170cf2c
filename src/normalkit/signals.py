"""What asks a program to stop, and hearing it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["STOP_SIGNALS", "on_stop_signals"]

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What asks a program to stop: Ctrl-C, a scheduler, a terminal that was closed (not on Windows)."""


@contextmanager
def on_stop_signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Within the block, `STOP_SIGNALS` call a function.

    But for one that is ignored, as in a job put in the background or under nohup, which is so on purpose. Signals are
    the main thread's: in another, as in some notebooks, they stay as they are.

    Args:
        handler: Called with the signal's number and the frame that it came in, as `signal.signal` has it.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        heard = [signum for signum in STOP_SIGNALS if signal.getsignal(signum) not in (signal.SIG_IGN, None)]
        previous = {signum: signal.signal(signum, handler) for signum in heard}
    try:
        yield
    finally:
        for signum, former in previous.items():
            signal.signal(signum, former)
