"""Convex shapes, and where rays meet them.

A part of a scene is one of three unit shapes, scaled, turned and moved. A ray is taken to the part's own
coordinates, where the shape is fixed, by an affine map; the map keeps the ray's parameter, so that a distance found
there holds in the world.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEAREST", "Parts", "Shape", "crossings", "faces", "first_hit", "gradients"]

Array = NDArray[Any]

NEAREST = 1e-4
"""Least ray parameter of a hit: a ray does not meet the surface it starts from."""

TINY = 1e-12
"""Stands for a zero that would be divided by; representable in float32."""


class Shape(enum.IntEnum):
    """The unit shapes; each fits the cube [-1, 1]^3 and is convex, so that a line is inside it over one interval.

    Attributes:
        BOX: The cube itself.
        ELLIPSOID: The unit ball.
        FRUSTUM: A cylinder along z whose radius is 1 - |taper| (1 + sign(taper) z) / 2: with a taper of 0 a
            cylinder, of 1 a cone with its tip up, of -0.3 a cup that narrows to 0.7 at its foot.
    """

    BOX = 0
    ELLIPSOID = 1
    FRUSTUM = 2


def crossings(shape: Shape, origin: Array, direction: Array, taper: Array | float = 0.0) -> tuple[Array, Array]:
    """Where the lines `origin + t direction` enter and leave a unit shape.

    Args:
        shape: Which one.
        origin: (3, ...) in unit coordinates.
        direction: (3, ...), of any length, broadcast with `origin`.
        taper: Of a frustum; broadcast with the trailing axes.

    Returns:
        The parameters of entry and exit, each (...); entry is above exit where the line misses.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if shape == Shape.BOX:
            inverse = 1 / direction
            low, high = (-1 - origin) * inverse, (1 - origin) * inverse
            return np.minimum(low, high).max(0), np.maximum(low, high).min(0)
        if shape == Shape.ELLIPSOID:
            return _quadratic(
                direction[0] * direction[0] + direction[1] * direction[1] + direction[2] * direction[2],
                origin[0] * direction[0] + origin[1] * direction[1] + origin[2] * direction[2],
                origin[0] * origin[0] + origin[1] * origin[1] + origin[2] * origin[2] - 1,
            )
        return _frustum(origin, direction, taper)


def _quadratic(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """The roots of a t^2 + 2 b t + c, smaller first where a > 0; (inf, -inf) where there are none."""
    discriminant = b * b - a * c
    root = np.sqrt(np.maximum(discriminant, 0))
    misses = discriminant < 0
    return np.where(misses, np.inf, (-b - root) / a), np.where(misses, -np.inf, (root - b) / a)


def _radius(z: Array, taper: Array | float) -> Array:
    """The radius of a frustum at some height."""
    return np.asarray(1 - 0.5 * np.abs(taper) - 0.5 * taper * z)


def _frustum(origin: Array, direction: Array, taper: Array | float) -> tuple[Array, Array]:
    inverse = 1 / direction[2]
    low, high = (-1 - origin[2]) * inverse, (1 - origin[2]) * inverse
    # The radius along the ray is linear in its parameter.
    slope = -0.5 * taper * direction[2]
    radius = _radius(origin[2], taper)
    a = direction[0] * direction[0] + direction[1] * direction[1] - slope * slope
    a = np.where(np.abs(a) < TINY, TINY, a)
    enter, leave = _quadratic(
        a,
        origin[0] * direction[0] + origin[1] * direction[1] - radius * slope,
        origin[0] * origin[0] + origin[1] * origin[1] - radius * radius,
    )
    # A ray steeper than the side meets it once: the other root lies on the mirror cone beyond the tip.
    steep = a < 0
    enter = np.where(steep & (slope <= 0) & (enter < np.inf), -np.inf, enter)
    leave = np.where(steep & (slope > 0) & (leave > -np.inf), np.inf, leave)
    return np.maximum(enter, np.minimum(low, high)), np.minimum(leave, np.maximum(low, high))


def faces(shape: Shape, points: Array, taper: Array | float = 0.0) -> Array:
    """Which face each surface point (3, ...) in unit coordinates lies on.

    Args:
        shape: Which one.
        points: On its surface, up to rounding.
        taper: Of a frustum.

    Returns:
        0 to 5 for -x, +x, -y, +y, -z, +z. A curved side is 0; it is never open.
    """
    if shape == Shape.BOX:
        axis = np.abs(points).argmax(0)
        return np.asarray(2 * axis + (np.take_along_axis(points, axis[None], 0)[0] > 0))
    if shape == Shape.ELLIPSOID:
        return np.zeros(points.shape[1:], dtype=np.intp)
    # Rounding leaves a point a little off both; it belongs to the cap or the side that is nearer.
    from_cap = np.abs(np.abs(points[2]) - 1)
    from_side = np.abs(np.hypot(points[0], points[1]) - _radius(points[2], taper))
    return np.where(from_cap <= from_side, 4 + (points[2] > 0), 0)


def gradients(shape: Shape, points: Array, taper: Array | float = 0.0) -> Array:
    """Outward normals of surface points (3, ...), in unit coordinates and of any length; the same shape."""
    if shape == Shape.ELLIPSOID:
        return points
    code = faces(shape, points, taper)
    flat = np.zeros_like(points)
    np.put_along_axis(flat, (code // 2)[None], np.where(code % 2 == 1, 1.0, -1.0)[None], 0)
    if shape == Shape.BOX:
        return flat
    side = np.stack([points[0], points[1], 0.5 * taper * _radius(points[2], taper)])
    return np.where(code >= 4, flat, side)


def first_hit(
    shape: Shape, origin: Array, direction: Array, taper: Array | float = 0.0, openings: Array | int = 0
) -> Array:
    """The parameter of the first surface that each ray meets, infinite where it meets none.

    A closed shape is met where the ray enters it, or from inside where it leaves. An open face is no surface: a ray
    that enters a cup through its mouth meets the inner wall.

    Args:
        shape: Which one.
        origin: (3, ...) in unit coordinates.
        direction: (3, ...).
        taper: Of a frustum.
        openings: Bit f set where face f (see `faces`) is open; an int for all rays, or (...).

    Returns:
        (...), above `NEAREST`.
    """
    enter, leave = crossings(shape, origin, direction, taper)
    met = np.where(enter > NEAREST, enter, leave)
    hit = np.where((enter <= leave) & (met > NEAREST), met, np.inf)
    if isinstance(openings, int) and openings == 0:
        return hit
    with np.errstate(invalid="ignore", over="ignore"):
        for crossing, following in ((enter, leave), (leave, None)):
            through = (hit == crossing) & (hit < np.inf)
            points = origin + np.where(through, crossing, 0) * direction
            is_open = through & ((openings >> faces(shape, points, taper)) & 1 == 1)
            hit = np.where(is_open, np.inf if following is None else following, hit)
    return hit


@dataclass(frozen=True)
class Parts:
    """The solid parts of a scene, one entry of each array a part.

    Attributes:
        shape: (M,) values of `Shape`.
        center: (M, 3) in the world, metres.
        half: (M, 3) half sizes along the part's own axes, metres.
        rotation: (M, 3, 3); columns are the part's axes in the world.
        taper: (M,) of frustums.
        openings: (M,) bits of the open faces.
        material: (M,) indices into the scene's materials.
    """

    shape: Array
    center: Array
    half: Array
    rotation: Array
    taper: Array
    openings: Array
    material: Array

    @cached_property
    def to_unit(self) -> Array:
        """(M, 3, 3): world directions to the part's unit coordinates."""
        return np.asarray(self.rotation.transpose(0, 2, 1) / self.half[:, :, None])

    @cached_property
    def offset(self) -> Array:
        """(M, 3): the world's origin in unit coordinates."""
        return np.asarray(-(self.to_unit * self.center[:, None, :]).sum(2))

    def affine(self, dtype: np.dtype[Any]) -> Array:
        """(12, M): `to_unit` by columns, then `offset`: where a point of the world lies in unit coordinates."""
        if dtype == np.float32:
            return self._affine_single
        return self._affine

    @cached_property
    def _affine(self) -> Array:
        rows = self.to_unit.transpose(2, 1, 0).reshape(9, -1)
        return np.concatenate([rows, self.offset.T])

    @cached_property
    def _affine_single(self) -> Array:
        return self._affine.astype(np.float32)

    @cached_property
    def radius(self) -> Array:
        """(M,): of the ball about the centre that holds the part."""
        flat = np.hypot(self.half[:, 0], self.half[:, 1])
        return np.where(
            self.shape == Shape.BOX,
            np.hypot(flat, self.half[:, 2]),
            np.where(
                self.shape == Shape.ELLIPSOID, self.half.max(1), np.hypot(self.half[:, :2].max(1), self.half[:, 2])
            ),
        )

    def __len__(self) -> int:
        """The number of parts."""
        return len(self.shape)
