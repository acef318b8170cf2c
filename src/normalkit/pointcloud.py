"""Point clouds as PLY files, which every viewer of them opens."""

from __future__ import annotations

import os

import numpy as np
from torch import Tensor
from torch.nn import functional

from normalkit.files import atomic_file
from normalkit.geometry import normalize
from normalkit.integrate import normals_to_depth, points_from_depth

__all__ = ["MAX_POINTS", "photo_points", "write_ply"]

MAX_POINTS = 500_000
"""More make a file that viewers turn slowly, and add little to a surface without a measured depth."""

_VERTEX = np.dtype(
    [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")] + [(c, "u1") for c in ("red", "green", "blue")]
)


def photo_points(
    image: Tensor, normals: Tensor, intrinsics: Tensor, *, max_points: int = MAX_POINTS
) -> tuple[Tensor, Tensor, Tensor]:
    """The surface that a photo's normals describe, as coloured points: `normals_to_depth`, so up to scale.

    Args:
        image: (3, H, W) uint8.
        normals: (3, H, W), `Convention.OPENCV`.
        intrinsics: (3, 3), of this photo, pixel centres at integers.
        max_points: A photo with more pixels is averaged over squares of them first.

    Returns:
        Points (N, 3) and their normals (N, 3), float32, OPENCV axes, the median depth at 1; colours (N, 3) uint8.

    Raises:
        ValueError: Shapes differ, the intrinsics are those of another picture, or no two neighbours face the
            camera.
    """
    if image.shape != normals.shape:
        raise ValueError(f"image has shape {tuple(image.shape)}, normals {tuple(normals.shape)}; wanted the same")
    square = 1
    while image[0].numel() > max_points * square**2:
        square += 1
    intrinsics = intrinsics.clone()
    if square > 1:
        image, normals = (_averaged(x, square) for x in (image, normals))
        intrinsics[:2] /= square
        # The middle of a square lies half its side, less half a pixel, from its first pixel's.
        intrinsics[:2, 2] += 0.5 / square - 0.5
    depth, mask = normals_to_depth(normals, intrinsics)
    if not bool(mask.any()):
        _, height, width = normals.shape
        raise ValueError(
            f"of {width} x {height} pixels no two neighbours face the camera, so there is no surface; is this the "
            "right field of view?"
        )
    points = points_from_depth(depth, intrinsics)
    return points[:, mask].T, normalize(normals, dim=0)[:, mask].T, image[:, mask].T


def write_ply(path: str | os.PathLike[str], points: Tensor, normals: Tensor, colours: Tensor) -> None:
    """Write coloured points with normals to a binary PLY file; whole or not at all.

    Args:
        path: The file to write or replace; its folder must exist.
        points: (N, 3), OPENCV axes, which a comment in the file says.
        normals: (N, 3).
        colours: (N, 3) uint8.

    Raises:
        OSError: The folder is missing or cannot be written, or the disk is full.
        ValueError: The shapes differ.
    """
    if not points.shape == normals.shape == colours.shape == (len(points), 3):
        shapes = [tuple(x.shape) for x in (points, normals, colours)]
        raise ValueError(f"points, normals and colours have shapes {shapes}; wanted (N, 3) each")
    vertices = np.empty(len(points), _VERTEX)
    columns = [*points.T, *normals.T, *colours.T]
    for name, column in zip(_VERTEX.names or (), columns, strict=True):
        vertices[name] = column.numpy()
    kinds = {"f": "float", "u": "uchar"}
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        "comment normalkit:convention OPENCV (x right, y down, z forward); depth is up to scale",
        f"element vertex {len(vertices)}",
        *(f"property {kinds[_VERTEX[name].kind]} {name}" for name in _VERTEX.names or ()),
        "end_header\n",
    ]
    with atomic_file(os.fspath(path)) as temporary:
        temporary.write_bytes("\n".join(lines).encode("ascii") + vertices.tobytes())


def _averaged(picture: Tensor, square: int) -> Tensor:
    """Means of squares of pixels; rows and columns that make no whole square are left out."""
    mean = functional.avg_pool2d(picture[None].float(), square)[0]
    return mean if picture.is_floating_point() else mean.round().to(picture.dtype)
