"""Videos and webcams, frame by frame; with OpenCV, whose wheel brings FFmpeg along."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from normalkit.files import atomic_file
from normalkit.images import check_readable, check_size

__all__ = ["VIDEOS", "Frames", "open_video", "open_webcam", "write_video"]

VIDEOS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
"""Suffixes of videos."""

USUAL_RATE = 25.0
"""Frames a second where a file does not say."""

MAX_RATE = 1000.0
"""A header that claims more is broken; containers without a rate give their clock's, 90,000."""


class Frames:
    """The frames of a video or webcam, each (3, H, W) uint8 RGB; may be gone through once.

    Attributes:
        name: For messages.
        rate: Frames a second.
        count: How many the file claims to have, which is an estimate in some formats; None if it does not say.
        done: How many were given.
        live: Whether it is a webcam.
    """

    def __init__(self, capture: Any, name: str, *, live: bool = False) -> None:
        import cv2

        self.name = name
        rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.rate = rate if 0 < rate <= MAX_RATE else USUAL_RATE
        self.count = int(count) if 0 < count < math.inf and not live else None
        self.live = live
        self.done = 0
        self._capture = capture

    def __iter__(self) -> Iterator[Tensor]:
        """Decode one after another, until there is none or one cannot be decoded.

        Raises:
            ValueError: There is no frame at all.
        """
        while True:
            there, frame = self._capture.read()
            if not there:
                break
            self.done += 1
            yield _to_tensor(frame)
        if not self.done:
            raise ValueError(f"{self.name}: has no frame that can be decoded; convert it, or copy it again")

    def missing(self) -> int:
        """How many of the frames that the file claims to have were not there; one or two are an estimate's error."""
        short = 0 if self.count is None else self.count - self.done
        return short if short > 2 else 0


@contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[Frames]:
    """Open a video file; frames are upright, as the file says they are to be shown.

    Args:
        path: The file, in any format that FFmpeg knows.

    Raises:
        OSError: The file is missing or a folder, or may not be read.
        ValueError: It is empty, no video, broken, or its frames have more than `MAX_PIXELS`.
    """
    import cv2

    check_readable(path)
    with open(path, "rb"):
        pass  # The system's own error, where the file may not be read: OpenCV's does not tell.
    _be_quiet()
    # Without the choice of FFmpeg, OpenCV would take a picture for a video of one frame.
    capture = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise ValueError(f"{path}: no video, whatever its name says, or broken; convert it, or copy it again")
        width, height = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        check_size(path, width, height)
        yield Frames(capture, os.fspath(path))
    finally:
        capture.release()


@contextmanager
def open_webcam(number: int) -> Iterator[Frames]:
    """Open a camera of this machine; its frames end when it is unplugged.

    Args:
        number: 0 is the first.

    Raises:
        OSError: There is none of this number, or it is in use or not permitted.
        ValueError: The number is negative.
    """
    import cv2

    if number < 0:
        raise ValueError(f"webcam {number}: wanted 0 for the first, 1 for the second, ...")
    _be_quiet()
    capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise OSError(f"webcam {number}: cannot be opened; plug it in, close what uses it, or allow its use")
        # The newest frame, and not one from a while ago.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        yield Frames(capture, f"webcam {number}", live=True)
    finally:
        capture.release()


@contextmanager
def write_video(path: str | Path, *, rate: float) -> Iterator[Callable[[Tensor], None]]:
    """Write a video, MPEG-4 in `.mp4`, whole or not at all; lossy, and so for the eye alone.

    Args:
        path: The file to write or replace; its folder must exist.
        rate: Frames a second.

    Yields:
        A function that takes the next frame, (3, H, W) uint8 RGB, all of one size. Odd sides are made even by
        repeating the last row or column, since the format knows no others.

    Raises:
        OSError: The folder is missing or cannot be written, the disk is full, or no frame was written.
        ValueError: A frame has another size than the first.
    """
    import cv2

    _be_quiet()
    writer = cv2.VideoWriter()
    size: tuple[int, int] | None = None
    with atomic_file(path) as temporary:

        def write(frame: Tensor) -> None:
            nonlocal size
            _, height, width = frame.shape
            if size is None:
                size = (height, width)
                even = (width + width % 2, height + height % 2)
                if not writer.open(os.fspath(temporary), cv2.VideoWriter.fourcc(*"mp4v"), rate, even):
                    raise OSError(f"cannot write {path}: no encoder for a video of {width} x {height}")
            if size != (height, width):
                raise ValueError(f"a frame of {width} x {height} in a video of {size[1]} x {size[0]}; wanted one size")
            writer.write(_to_array(frame))

        try:
            yield write
        finally:
            writer.release()


def _to_tensor(frame: Any) -> Tensor:
    """BGR or grey (H, W, C) to RGB (3, H, W)."""
    if frame.ndim == 2:
        frame = frame[..., None]
    return torch.from_numpy(np.ascontiguousarray(frame[..., ::-1].transpose(2, 0, 1))).expand(3, -1, -1).contiguous()


def _to_array(frame: Tensor) -> Any:
    """RGB (3, H, W) to BGR (H, W, 3) with even sides."""
    _, height, width = frame.shape
    if height % 2 or width % 2:
        # Padding by replication is there for floating point alone.
        padded = functional.pad(frame[None].float(), (0, width % 2, 0, height % 2), mode="replicate")
        frame = padded[0].to(torch.uint8)
    return np.ascontiguousarray(frame.flip(0).permute(1, 2, 0).numpy())


def _be_quiet() -> None:
    """Errors are raised; OpenCV and FFmpeg would also print them, and FFmpeg open what a playlist names."""
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")
    # OpenCV 5 moved it; 0 is silent in both.
    set_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
    set_level(0)
