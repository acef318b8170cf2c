"""A model whose answer is known, for the demo page: it takes the colours of a picture for its normals."""

import io
import socket
import threading
from contextlib import closing

import torch
from PIL import Image
from torch import nn

from normalkit.codec import normals_to_rgb


class Itself(nn.Module):
    """Takes the colours of a picture for its normals; waits where it is told to."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def forward(self, images):
        assert self.go.wait(200)
        return nn.functional.normalize(images * 2 - 1, dim=1)


def coloured(height=48, width=64):
    """uint8 (H, W, 3): a picture of normals that change slowly."""
    y, x = torch.meshgrid(torch.linspace(-0.8, 0.8, height), torch.linspace(-0.5, 0.5, width), indexing="ij")
    normals = torch.stack([x, y, -(1 - x.square() - y.square()).clamp_min(0.05).sqrt()])
    return normals_to_rgb(normals).permute(1, 2, 0).numpy()


def photo(picture=None, kind="PNG"):
    """The bytes of a file of a picture, by default of the one above."""
    file = io.BytesIO()
    shown = picture if isinstance(picture, Image.Image) else Image.fromarray(coloured() if picture is None else picture)
    shown.save(file, kind)
    return file.getvalue()


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
