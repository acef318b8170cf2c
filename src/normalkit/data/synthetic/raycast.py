"""Which part each ray meets first: for a camera's pixels by drawing part by part, for any rays by testing pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normalkit.data.synthetic.scene import Scene
from normalkit.data.synthetic.shapes import NEAREST, Parts, Shape, crossings, first_hit

__all__ = ["Camera", "cast", "trace", "unit_rays"]

Array = NDArray[Any]

CORNERS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
EDGES = np.array([[i, i | bit] for bit in (1, 2, 4) for i in range(8) if not i & bit])
CHUNK = 256
"""Rays compared with parts at once: the table stays in cache, and below the size at which BLAS starts threads."""

NEAR_PLANE = 0.02
"""Metres before the camera at which outlines of parts are cut."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        position: (3,) in the world, metres.
        rotation: (3, 3): world to camera; rows are its right, down and forward axes in the world.
        intrinsics: (3, 3) in pixels, pixel centres at integers.
        size: Height and width in pixels.
    """

    position: Array
    rotation: Array
    intrinsics: Array
    size: tuple[int, int]

    def rays(self, step: int = 1) -> Array:
        """World directions of the centres of every `step`-th pixel, of length 1 along the optical axis.

        Returns:
            (3, ceil(H / step), ceil(W / step)), float64.
        """
        height, width = self.size
        to_world = self.rotation.T @ np.linalg.inv(self.intrinsics)
        u, v = np.arange(0.0, width, step), np.arange(0.0, height, step)
        return np.asarray(
            to_world[:, 0, None, None] * u[None, None, :]
            + (to_world[:, 1, None] * v[None, :] + to_world[:, 2, None])[:, :, None]
        )


def cast(scene: Scene, camera: Camera) -> Array:
    """The index (H, W) of the part that each pixel's centre sees.

    A part is tested only at the pixels of its outline's bounding rectangle. Distances are float32 here: they only
    decide which part is in front.
    """
    parts = scene.parts
    to_unit = parts.to_unit
    # Unit-coordinate directions are linear in the pixel, so each part needs only its column and row terms.
    pixel_to_unit = (to_unit @ (camera.rotation.T @ np.linalg.inv(camera.intrinsics))).astype(np.float32)
    origin = ((to_unit * camera.position).sum(2) + parts.offset).astype(np.float32)
    taper = parts.taper.astype(np.float32)
    height, width = camera.size
    rectangles, nearest = _outlines(parts, camera)
    depth, index = _cast_shell(scene, camera.position, camera.rays())
    u, v = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    first = 1 + scene.recesses
    order = first + np.argsort(nearest[first:], kind="stable")
    boxes, openings, kinds = rectangles.tolist(), parts.openings.tolist(), [Shape(k) for k in parts.shape.tolist()]
    for part in order.tolist():
        u0, u1, v0, v1 = boxes[part]
        if u0 >= u1 or v0 >= v1:
            continue
        window = (slice(v0, v1), slice(u0, u1))
        in_front = depth[window]
        if nearest[part] > in_front.max():
            continue
        matrix = pixel_to_unit[part]
        column = matrix[:, 0, None] * u[u0:u1]
        row = matrix[:, 1, None] * v[v0:v1] + matrix[:, 2, None]
        direction = column[:, None, :] + row[:, :, None]
        start = origin[part][:, None, None]
        if openings[part]:
            met = first_hit(kinds[part], start, direction, taper[part], openings[part])
            hit = met < in_front
        else:
            met, leave = crossings(kinds[part], start, direction, taper[part])
            hit = (met <= leave) & (met > NEAREST) & (met < in_front)
        np.copyto(in_front, met, where=hit)
        np.copyto(index[window], part, where=hit)
    return index


def _cast_shell(scene: Scene, position: Array, rays: Array) -> tuple[Array, Array]:
    """Distance (float32) and part of the room's own walls, and of the recesses seen through their openings."""
    parts = scene.parts
    flat = rays.reshape(3, -1).astype(np.float32)
    start = position[:, None].astype(np.float32)
    _, depth = crossings(Shape.BOX, *unit_rays(parts, np.array(0), start, flat))
    index = np.zeros(depth.shape, dtype=np.int32)
    for recess in range(1, 1 + scene.recesses):
        enter, leave = crossings(Shape.BOX, *unit_rays(parts, np.array(recess), start, flat))
        # A recess touches the shell only with its opening: a ray from the room that meets it comes through there.
        seen = (enter <= leave) & (enter > 0)
        np.copyto(depth, leave, where=seen)
        index[seen] = recess
    return depth.reshape(rays.shape[1:]), index.reshape(rays.shape[1:])


def _outlines(parts: Parts, camera: Camera) -> tuple[Array, Array]:
    """Pixel rectangles (M, 4) as u0, u1, v0, v1 (ends excluded) that hold each part, and its least depth (M,)."""
    axes = (camera.rotation @ parts.rotation) * parts.half[:, None, :]
    middle = (parts.center - camera.position) @ camera.rotation.T
    corners = middle[:, None, :] + CORNERS @ axes.transpose(0, 2, 1)
    depth = corners[:, :, 2]
    # Where an edge passes the near plane; elsewhere the share is clipped and gives one of its ends.
    start, end = corners[:, EDGES[:, 0]], corners[:, EDGES[:, 1]]
    run = end[:, :, 2] - start[:, :, 2]
    share = np.clip((NEAR_PLANE - start[:, :, 2]) / np.where(run == 0, 1, run), 0, 1)
    points = np.concatenate([corners, start + share[:, :, None] * (end - start)], 1)
    visible = points[:, :, 2] >= NEAR_PLANE * 0.999
    pixels = points / np.where(visible, points[:, :, 2], 1)[:, :, None] @ camera.intrinsics.T
    lowest = np.where(visible[:, :, None], pixels, np.inf).min(1)
    highest = np.where(visible[:, :, None], pixels, -np.inf).max(1)
    height, width = camera.size
    # One pixel of margin covers the rounding.
    bounds = np.stack([lowest[:, 0] - 1, highest[:, 0] + 2, lowest[:, 1] - 1, highest[:, 1] + 2], 1)
    rectangles = np.clip(bounds, 0, np.array([width, width, height, height])).astype(np.intp)
    return rectangles, depth.min(1)


def unit_rays(parts: Parts, part: Array, origin: Array, direction: Array) -> tuple[Array, Array]:
    """Rays in the unit coordinates of one part each.

    Args:
        parts: All parts.
        part: (N,) indices, or () a single one.
        origin: (3, N), or (3, 1) for all rays, in the world.
        direction: (3, N) in the world.

    Returns:
        Origins and directions (3, N), in the dtype of `direction`.
    """
    rows = parts.affine(direction.dtype).take(np.atleast_1d(part), 1)
    # Sums of products written out: the same bits whatever the threads of a linear algebra library do.
    start = rows[0:3] * origin[0] + rows[3:6] * origin[1] + rows[6:9] * origin[2] + rows[9:12]
    along = rows[0:3] * direction[0] + rows[3:6] * direction[1] + rows[6:9] * direction[2]
    return start, along


def trace(parts: Parts, among: Array, origin: Array, direction: Array) -> tuple[Array, Array]:
    """The nearest of some parts along each segment from `origin` to `origin + direction`.

    Args:
        parts: All parts.
        among: (K,) indices of those that count.
        origin: (3, N) float32, in the world.
        direction: (3, N) float32, as long as the segment.

    Returns:
        The share of the segment (N,) up to the hit, infinite where there is none, and the part (N,), -1 for none.
    """
    count = origin.shape[1]
    nearest, met = np.full(count, np.inf, dtype=np.float32), np.full(count, -1, dtype=np.intp)
    # Grouped by what is to be computed: each shape with and without openings.
    kinds = 2 * parts.shape[among] + (parts.openings[among] != 0)
    order = np.argsort(kinds, kind="stable")
    among, kinds = among[order], kinds[order]
    column, ray = _near_pairs(parts, among, origin, direction)
    group = kinds[column]
    for kind in range(2 * len(Shape)):
        pairs = np.flatnonzero(group == kind)
        if len(pairs):
            _meet(parts, Shape(kind // 2), among[column[pairs]], ray[pairs], origin, direction, nearest, met)
    return nearest, met


def _meet(
    parts: Parts, shape: Shape, part: Array, ray: Array, origin: Array, direction: Array, nearest: Array, met: Array
) -> None:
    """Test pairs of one shape and keep, in `nearest` and `met`, what is nearer than what they hold."""
    start, along = unit_rays(parts, part, origin.take(ray, 1), direction.take(ray, 1))
    taper = parts.taper.astype(np.float32)[part] if shape == Shape.FRUSTUM else 0.0
    openings = parts.openings[part] if parts.openings[part[0]] else 0
    hit = first_hit(shape, start, along, taper, openings)
    blocks = np.flatnonzero(hit < 1)
    ray, part, hit = ray[blocks], part[blocks], hit[blocks]
    before = nearest[ray]
    np.minimum.at(nearest, ray, hit)
    wins = (hit == nearest[ray]) & (hit < before)
    met[ray[wins]] = part[wins]


def _near_pairs(parts: Parts, among: Array, origin: Array, direction: Array) -> tuple[Array, Array]:
    """Positions in `among` and segments (column, ray) where the segment passes the part's bounding ball.

    A few pairs more do no harm. The library that multiplies matrices may round differently with more threads. That
    cannot change a picture: a pair too many is tested exactly and misses, and the margin keeps pairs from being lost.
    """
    length = np.sqrt((direction * direction).sum(0))
    unit = direction / np.maximum(length, 1e-6)
    center, radius = parts.center[among].astype(np.float32), (1.001 * parts.radius[among] + 1e-3).astype(np.float32)
    # a = (c - o) . d, and |c - o|^2 - r^2, each as one product of a part's column and a segment's.
    ones = np.ones_like(radius)
    along_part = np.column_stack([center, ones])
    along_ray = np.stack([*unit, -(unit * origin).sum(0)])
    power_part = np.column_stack([-2 * center, ones, (center * center).sum(1) - radius * radius])
    power_ray = np.stack([*origin, (origin * origin).sum(0), np.ones_like(length)])
    columns, rays = [np.zeros(0, dtype=np.intp)], [np.zeros(0, dtype=np.intp)]
    for chunk, touched in enumerate(_near_bundles(parts, among, origin, direction)):
        here = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        near = np.flatnonzero(touched)
        along = along_part[near] @ along_ray[:, here]
        power = power_part[near] @ power_ray[:, here]
        # At t along the segment the squared distance to c is |c - o|^2 - t (2 a - t); the least is at t = a, clipped.
        best = np.minimum(along, length[here])
        np.maximum(best, 0, out=best)
        along += along
        along -= best
        along *= best
        along += np.float32(1e-4)
        # Far faster than `nonzero` of a table.
        pairs = np.flatnonzero(power <= along)
        column = pairs // along.shape[1]
        columns.append(near[column])
        rays.append(pairs - column * along.shape[1] + here.start)
    return np.concatenate(columns), np.concatenate(rays)


def _near_bundles(parts: Parts, among: Array, origin: Array, direction: Array) -> Array:
    """Whether a part's bounding ball touches the capsule that holds a chunk of segments; (chunks, K)."""
    starts = np.arange(0, origin.shape[1], CHUNK)
    if not len(starts):
        return np.zeros((0, len(among)), dtype=bool)
    sizes = np.diff(np.append(starts, origin.shape[1]))
    ends, middles, spread = (origin, origin + direction), [], np.zeros(len(starts))
    for points in ends:
        middle = np.add.reduceat(points, starts, axis=1) / sizes
        squared = ((points - np.repeat(middle, sizes, axis=1)) ** 2).sum(0)
        spread = np.maximum(spread, np.sqrt(np.maximum.reduceat(squared, starts)))
        middles.append(middle)
    axis = middles[1] - middles[0]
    offset = parts.center[among].T[:, None, :] - middles[0][:, :, None]
    share = (offset * axis[:, :, None]).sum(0) / np.maximum((axis * axis).sum(0), 1e-12)[:, None]
    offset -= np.clip(share, 0, 1) * axis[:, :, None]
    reach = parts.radius[among] + spread[:, None] + 0.01
    return np.asarray((offset * offset).sum(0) < reach * reach)
