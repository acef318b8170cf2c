"""Depth from normals, up to scale: the surface that faces as they say."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from normalkit.geometry import normalize, valid_normals

__all__ = ["fov_intrinsics", "normals_to_depth", "points_from_depth"]

GRAZING = 0.01
"""Cosine between a normal and the line of sight, below which the surface is seen too nearly from the side."""

DAMPING, OVERCORRECTION = 0.7, 1.8
"""Of Jacobi's method, and of what a coarser map corrects: blocks of equal values are stiffer than a smooth map."""

TOLERANCE, MAX_STEPS = 1e-6, 200
"""Of the conjugate gradients: the residual, as a share of the right side, and how many steps at most; ten are usual."""


def normals_to_depth(normals: Tensor, intrinsics: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The depth of a surface with these normals, up to one factor that no normal can tell.

    Two neighbouring pixels that look along r and s see points z r and z' s, whose chord is taken to be at right
    angles to m, the mean of their normals: log z' - log z = log (m . r / m . s). That is exact for points of one
    plane, and for those of one sphere. The logarithms that fit all pairs best, by least squares, are a sparse linear
    system; a pair weighs as much as both its pixels face the camera, since where a surface is seen from the side a
    small error of the normal is a large one of the depth.

    Normals do not show that one thing stands before another: at such an edge the two are joined as if one went over
    into the other. Parts of the picture that do not touch have each a factor of their own.

    Args:
        normals: (3, H, W), `Convention.OPENCV`, any length above 0.5.
        intrinsics: (3, 3), pixel centres at integers.
        mask: (H, W) bool, the pixels that count; None for all.

    Returns:
        Depth (1, H, W), float32, z with its median at 1, 0 where there is none; and where there is one, (H, W) bool:
        the normal is valid, faces the camera, and has a neighbour of which that is true as well.

    Raises:
        ValueError: A shape is wrong, or the intrinsics are those of another picture.
        TypeError: A dtype is wrong.

    Examples:
        >>> wall = torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1).expand(3, 4, 6)
        >>> depth, mask = normals_to_depth(wall, fov_intrinsics(60.0, 4, 6))
        >>> bool(mask.all()), depth.unique().tolist()
        (True, [1.0])
    """
    if normals.ndim != 3 or normals.shape[0] != 3 or normals.numel() == 0:
        raise ValueError(f"normals has shape {tuple(normals.shape)}; wanted (3, H, W): one picture, not a batch")
    valid = valid_normals(normals, mask, dim=0)
    rays = _rays(intrinsics, normals.shape[1], normals.shape[2])
    unit = normalize(torch.where(valid, normals, 0).double(), dim=0)
    facing = -(unit * normalize(rays, dim=0)).sum(0)
    facing = torch.where(facing > GRAZING, facing, 0)
    (right, right_weight), (down, down_weight) = (_steps(unit, rays, facing, dim) for dim in (2, 1))
    pairs = _Pairs(right_weight, down_weight)
    logarithm = _least_squares(pairs, right, down)
    known = pairs.inverse > 0
    if bool(known.any()):
        logarithm = logarithm - logarithm[known].median()
    return torch.where(known, logarithm.exp(), 0).float()[None], known


def points_from_depth(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """The points that pixels see.

    Args:
        depth: (1, H, W), z in any unit.
        intrinsics: (3, 3), pixel centres at integers.

    Returns:
        (3, H, W), in the unit of the depth, OPENCV axes, in the dtype of the depth.

    Raises:
        ValueError: The intrinsics are those of another picture.
    """
    return (depth.double() * _rays(intrinsics, depth.shape[1], depth.shape[2])).to(depth.dtype)


def fov_intrinsics(fov: float, height: int, width: int) -> Tensor:
    """The matrix of a camera without distortion whose principal point is the middle of the picture.

    Args:
        fov: Degrees from edge to edge of the longer side, as upright and lying pictures of one camera have in common.
        height: Of the picture, pixels.
        width: The same.

    Returns:
        (3, 3) float32, pixel centres at integers.

    Raises:
        ValueError: `fov` is not between 1 and 175.

    Examples:
        >>> fov_intrinsics(90.0, 480, 640)
        tensor([[320.0000,   0.0000, 319.5000],
                [  0.0000, 320.0000, 239.5000],
                [  0.0000,   0.0000,   1.0000]])
    """
    if not 1 <= fov <= 175:
        raise ValueError(f"fov={fov}: wanted degrees between 1 and 175; a phone's main camera has 65 to 75")
    focal = max(height, width) / 2 / math.tan(math.radians(fov) / 2)
    return torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def _rays(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """(3, H, W) float64: what each pixel sees at depth 1."""
    if intrinsics.shape != (3, 3) or not bool(intrinsics.isfinite().all()):
        raise ValueError(f"intrinsics={intrinsics.tolist()}: wanted [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels")
    middle = intrinsics[:2, 2].tolist()
    if not (intrinsics.diagonal()[:2] > 0).all() or not (-0.5 <= middle[0] < width and -0.5 <= middle[1] < height):
        raise ValueError(
            f"intrinsics have fx, fy = {intrinsics.diagonal()[:2].tolist()} and cx, cy = {middle}, which is outside "
            f"this picture of {width} x {height}; wanted those of this picture, in its pixels"
        )
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).double()
    return torch.einsum("ij,jhw->ihw", intrinsics.double().inverse(), pixels)


def _steps(unit: Tensor, rays: Tensor, facing: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Of each pixel and the next along `dim`: how much the logarithm of the depth grows, and the weight of that."""
    length = unit.shape[dim] - 1
    here, there = (unit.narrow(dim, i, length) for i in (0, 1))
    mean = here + there
    first, second = (-(mean * rays.narrow(dim, i, length)).sum(0) for i in (0, 1))
    weight = facing.narrow(dim - 1, 0, length) * facing.narrow(dim - 1, 1, length)
    weight = torch.where((first > 0) & (second > 0), weight, 0)
    step = torch.where(weight > 0, first, 1).log() - torch.where(weight > 0, second, 1).log()
    return step, weight


class _Pairs:
    """Least squares of the differences between neighbours: its matrix, a Laplacian, and a multigrid cycle for it.

    Args:
        right: (H, W - 1), the weight of each pixel's difference to the next one to the right.
        down: (H - 1, W), the same downwards.
    """

    def __init__(self, right: Tensor, down: Tensor) -> None:
        self.right, self.down = right, down
        self.shape = (right.shape[0], down.shape[1])
        diagonal = torch.zeros(self.shape, dtype=right.dtype)
        for weight, parts in ((right, (diagonal[:, 1:], diagonal[:, :-1])), (down, (diagonal[1:], diagonal[:-1]))):
            for part in parts:
                part += weight
        self.inverse = torch.where(diagonal > 0, DAMPING / torch.where(diagonal > 0, diagonal, 1), 0)
        # Two by two pixels become one; what crosses from one such block to the next adds up.
        smaller = max(self.shape) > 1
        self.coarse = _Pairs(_added(right[:, 1::2], 0), _added(down[1::2], 1)) if smaller else None

    def gather(self, right: Tensor, down: Tensor) -> Tensor:
        """Weighted differences to each pixel: the transpose of taking them."""
        total = torch.zeros(self.shape, dtype=right.dtype)
        right, down = self.right * right, self.down * down
        total[:, 1:] += right
        total[:, :-1] -= right
        total[1:] += down
        total[:-1] -= down
        return total

    def product(self, field: Tensor) -> Tensor:
        """The matrix times a map (H, W)."""
        return self.gather(field.diff(dim=1), field.diff(dim=0))

    def cycle(self, residual: Tensor) -> Tensor:
        """Roughly the map whose product is `residual`: symmetric, so that conjugate gradients may use it."""
        if self.coarse is None:
            return torch.zeros_like(residual)
        found = self.inverse * residual
        found += self.inverse * (residual - self.product(found))
        left = _added(_added(residual - self.product(found), 0), 1)
        correction = OVERCORRECTION * self.coarse.cycle(left)
        for dim, length in enumerate(self.shape):
            correction = correction.repeat_interleave(2, dim).narrow(dim, 0, length)
        found += correction
        for _ in range(2):
            found += self.inverse * (residual - self.product(found))
        return found


def _added(field: Tensor, dim: int) -> Tensor:
    """Each two neighbours along `dim` as their sum; an odd last one alone."""
    if field.shape[dim] % 2:
        field = torch.cat([field, torch.zeros_like(field.narrow(dim, 0, 1))], dim)
    even, odds = (field.index_select(dim, torch.arange(first, field.shape[dim], 2)) for first in (0, 1))
    return even + odds


def _least_squares(pairs: _Pairs, right: Tensor, down: Tensor) -> Tensor:
    """(H, W) whose differences to the right (H, W - 1) and down (H - 1, W) are as given, as nearly as may be.

    Conjugate gradients; with the multigrid cycle as the preconditioner their number does not grow with the picture.
    """
    residual = pairs.gather(right, down)
    solution, direction = torch.zeros_like(residual), torch.zeros_like(residual)
    goal, before = TOLERANCE * float(residual.norm()), math.inf
    for _ in range(MAX_STEPS):
        if float(residual.norm()) <= goal:
            break
        improved = pairs.cycle(residual)
        now = float((residual * improved).sum())
        direction = improved + now / before * direction
        image = pairs.product(direction)
        size = now / float((direction * image).sum())
        solution += size * direction
        residual -= size * image
        before = now
    else:
        warnings.warn(f"the depth has not settled after {MAX_STEPS} steps, and may be bent", stacklevel=3)
    return solution
