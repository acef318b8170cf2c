"""Small videos for the tests."""

import cv2
import numpy as np
import torch


def make_frames(count, height, width):
    """Smooth colours, each frame another, which lossy compression keeps."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    shades = [np.stack([x, y, np.full_like(x, i / count)]) for i in range(count)]
    return [torch.from_numpy((255 * shade).astype(np.uint8)) for shade in shades]


def lossless(path, frames, rate=12.5):
    """By OpenCV itself."""
    _, height, width = frames[0].shape
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), rate, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame.permute(1, 2, 0).numpy()[..., ::-1]))
    writer.release()
