"""Ctrl-C, SIGTERM and a closed terminal, which end a run where its state is whole."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

__all__ = ["Interrupted", "Signals"]


class Interrupted(RuntimeError):
    """The run was asked to stop, and has saved its state. No error, so its name does not end in one.

    Attributes:
        exit_code: What a program should exit with: 128 plus the signal's number.
    """

    def __init__(self, signum: int, folder: Path) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name}; {folder / 'last'} is saved: go on from it with --resume, in a "
            "study by starting it again"
        )
        self.exit_code = 128 + signum


class Signals:
    """Notes the first signal to stop, for the run to do so where its state is whole; a second stops at once.

    Attributes:
        caught: The first signal's number, or None.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._now = False
        self._process = os.getpid()

    def hear(self, signum: int, frame: FrameType | None) -> None:
        """What `normalkit.signals.on_stop_signals` is to call.

        Args:
            signum: The signal.
            frame: Where it came.
        """
        if os.getpid() != self._process:  # A loader's worker, which the run itself ends.
            return
        if self.caught is not None:
            raise KeyboardInterrupt
        self.caught = signum
        if self._now:
            raise KeyboardInterrupt
        with suppress(OSError):  # Of a terminal that is gone.
            # Not `print`, which must not be entered twice.
            os.write(2, b"\nstopping after this step; again to stop at once\n")

    @contextmanager
    def at_once(self, now: bool) -> Iterator[None]:
        """Whether the first signal, too, raises KeyboardInterrupt within the block."""
        self._now = now
        try:
            if now and self.caught is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self._now = False
