"""Light on what the camera sees: lamps, windows and the sun with soft shadows, and light from other surfaces.

Shadows and nearby surfaces are found with one ray for each light at every second pixel. The rays of a 4 x 4 block
go to 16 different points of the light; averaging over such blocks, within one surface, turns that into soft edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from normalkit.data.synthetic.raycast import trace, unit_rays
from normalkit.data.synthetic.scene import Light, Scene
from normalkit.data.synthetic.shapes import NEAREST, Shape, crossings, faces
from normalkit.data.synthetic.surface import Appearance, Surface

__all__ = ["illuminate"]

Array = NDArray[Any]

LEAST_SHADE = 0.012
"""Metres: parts smaller than this cast no shadow."""

FLUSH = 0.03
"""Metres: what rises less than this from a wall or the floor casts no shadow."""

BOUNCE = 0.55
"""Share of the ambient light that a nearby surface passes on, times its colour."""


def illuminate(scene: Scene, seen: Surface, looks: Appearance, generator: np.random.Generator) -> Array:
    """The light (3, H, W), linear float32, that reaches the camera from each pixel."""
    points, normals = seen.points.astype(np.float32), seen.normals.astype(np.float32)
    coarse = (slice(None), slice(None, None, 2), slice(None, None, 2))
    sparse_points, sparse_normals = points[coarse], normals[coarse]
    casters = _casters(scene)
    samples = _samples(sparse_points.shape[1:], generator)
    layers = [_shadow(scene, casters, light, sparse_points, sparse_normals, samples) for light in scene.lights]
    reach = float(generator.uniform(0.5, 1.3))
    layers += list(_surroundings(scene, casters, looks, seen, sparse_points, sparse_normals, samples, reach))
    maps = _enlarge(_spread(np.stack(layers), sparse_points, sparse_normals), points, normals)

    towards = -(seen.rays / np.sqrt((seen.rays * seen.rays).sum(0))).astype(np.float32)
    diffuse = np.zeros_like(points)
    shine = np.zeros_like(points)
    for light, visible in zip(scene.lights, maps, strict=False):
        to_light, strength = _arrival(scene, light, points)
        lit = visible * strength * np.maximum((normals * to_light).sum(0), 0)
        tint = light.colour.astype(np.float32)[:, None, None]
        diffuse += tint * lit
        middle = to_light + towards
        middle /= np.sqrt((middle * middle).sum(0)) + 1e-6
        lobe = np.maximum((normals * middle).sum(0), 0) ** looks.sharpness * (0.15 * looks.sharpness + 1)
        shine += tint * (lit * lobe)
    open_share, bounced = maps[len(scene.lights)], maps[len(scene.lights) + 1 :]
    ambient = _ambient(scene, normals, generator)
    total = looks.albedo * (diffuse + ambient * open_share + bounced * ambient.mean((1, 2), keepdims=True))
    # Glossy surfaces also mirror the room, more so at grazing angles.
    grazing = (1 - np.abs((normals * towards).sum(0))) ** 4
    total += looks.gloss * (0.04 * shine + (0.02 + 0.3 * grazing) * ambient * open_share)
    return np.asarray(total + looks.albedo * looks.glow)


def _casters(scene: Scene) -> Array:
    """Parts that cast shadows: neither the shell nor lamps nor crumbs nor what lies flat on a wall or the floor."""
    parts = scene.parts
    glows = np.array([m.glow > 0 for m in scene.materials])[parts.material]
    solid = np.arange(len(parts)) > scene.recesses
    extent = (np.abs(parts.rotation) * parts.half[:, None, :]).sum(2)
    size = np.array(scene.size)
    inside = ((parts.center > 0) & (parts.center < size)).all(1)
    rise = np.minimum(parts.center + extent, size - parts.center + extent).min(1)
    return np.flatnonzero(solid & ~glows & (parts.radius > LEAST_SHADE) & ~(inside & (rise < FLUSH)))


def _samples(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Whole numbers 0 to 15 for each point, all different within any aligned 4 x 4 block."""
    tile = generator.permutation(16).reshape(4, 4)
    return np.tile(tile, (shape[0] // 4 + 1, shape[1] // 4 + 1))[: shape[0], : shape[1]]


def _by_tiles(shape: tuple[int, ...]) -> Array:
    """The flat indices of a map tile by tile, so that rays traced together are near each other."""
    rows, columns = np.arange(shape[0]) // 16, np.arange(shape[1]) // 16
    return np.argsort((rows[:, None] * shape[1] + columns).ravel(), kind="stable")


def _arrival(scene: Scene, light: Light, points: Array) -> tuple[Array, Array]:
    """The unit direction to a light (3, H, W), and its strength there (H, W) before the surface's own tilt."""
    position = light.position.astype(np.float32)[:, None, None]
    if light.window >= 0:
        return np.broadcast_to(position, points.shape), np.full(points.shape[1:], 6.0, dtype=np.float32)
    offset = position - points
    squared = (offset * offset).sum(0)
    to_light = offset / np.sqrt(squared + 1e-6)
    extent = float((light.across**2).sum() + (light.upward**2).sum())
    strength = 1 / (squared + extent + 0.05)
    if light.facing.any():
        strength = strength * np.maximum(-(to_light * light.facing.astype(np.float32)[:, None, None]).sum(0), 0)
    return to_light, strength.astype(np.float32)


def _shadow(scene: Scene, casters: Array, light: Light, points: Array, normals: Array, samples: Array) -> Array:
    """1 where a sample of the light is seen, 0 where not."""
    across = (samples % 4 + 0.5) / 2 - 1
    upward = (samples // 4 + 0.5) / 2 - 1
    target = (
        light.position[:, None, None] + across * light.across[:, None, None] + upward * light.upward[:, None, None]
    ).astype(np.float32)
    reach = float(sum(scene.size))
    direction = (target * reach if light.window >= 0 else target - points).reshape(3, -1)
    start = (points + np.float32(0.004) * normals).reshape(3, -1)
    lit = (direction * normals.reshape(3, -1)).sum(0) > 0
    if light.window >= 0:
        lit &= _through(scene, light.window, start, direction)
    order = _by_tiles(samples.shape)
    rays = order[lit[order]]
    # The last centimetres are the lamp's own.
    _, blocker = trace(scene.parts, casters, start.take(rays, 1), np.float32(0.97) * direction.take(rays, 1))
    visible = np.zeros(start.shape[1], dtype=np.float32)
    visible[rays] = blocker < 0
    return visible.reshape(samples.shape)


def _through(scene: Scene, window: int, points: Array, direction: Array) -> Array:
    """Whether rays leave the room through a window's opening and its back."""
    start, along = unit_rays(scene.parts, np.array(window), points, direction)
    enter, leave = crossings(Shape.BOX, start, along)
    with np.errstate(invalid="ignore"):
        entry, leaving = faces(Shape.BOX, start + enter * along), faces(Shape.BOX, start + leave * along)
    return np.asarray((enter <= leave) & (leave > NEAREST) & ((entry == 3) | (enter < 0)) & (leaving == 2))


def _surroundings(
    scene: Scene,
    casters: Array,
    looks: Appearance,
    seen: Surface,
    points: Array,
    normals: Array,
    samples: Array,
    reach: float,
) -> Array:
    """How open each point is (first layer, 0 to 1), and the colour its neighbours lend it (three layers)."""
    golden = np.pi * (3 - np.sqrt(5))
    height = 1 - (2 * samples + 1) / 16
    ball = np.stack(
        [np.sqrt(1 - height**2) * np.cos(golden * samples), np.sqrt(1 - height**2) * np.sin(golden * samples), height]
    )
    # A normal plus a point of the unit sphere is distributed as the cosine to the normal.
    direction = (normals + 0.999 * ball).astype(np.float32)
    direction *= np.float32(reach) / np.sqrt((direction * direction).sum(0))
    direction = direction.reshape(3, -1)
    start = (points + np.float32(0.004) * normals).reshape(3, -1)
    order = _by_tiles(samples.shape)
    share, part = np.empty(len(order), dtype=np.float32), np.empty(len(order), dtype=np.intp)
    share[order], part[order] = trace(scene.parts, casters, start.take(order, 1), direction.take(order, 1))
    origin, along = unit_rays(scene.parts, np.array(0), start, direction)
    _, leave = crossings(Shape.BOX, origin, along)
    with np.errstate(invalid="ignore"):
        wall = faces(Shape.BOX, origin + leave * along)
    # From a recess the shell lies behind.
    walls_off = (leave > share) | (leave <= 0)
    colours = np.array([m.first for m in scene.materials], dtype=np.float32).T
    lender = np.where(walls_off, scene.parts.material[part], scene.shell[wall])
    share = np.where(walls_off, share, leave)
    covered = np.clip(1.05 - share, 0, 1).astype(np.float32)
    layers = np.concatenate([(1 - covered)[None], np.float32(BOUNCE) * covered * colours[:, lender]])
    return layers.reshape(4, *samples.shape)


def _spread(layers: Array, points: Array, normals: Array) -> Array:
    """Average layers (L, h, w) over windows of 4 x 4 points of one surface: along rows, then along columns."""
    for axis in (2, 1):
        size = layers.shape[axis]
        padding = [(0, 0), (0, 0), (0, 0)]
        padding[axis] = (2, 2)
        padded = np.pad(np.concatenate([layers, points, normals]), padding, mode="edge")
        count = len(layers)
        total, weight = layers.copy(), np.ones(layers.shape[1:], dtype=np.float32)
        for step in (0, 1, 3, 4):
            near = padded[:, :, step : step + size] if axis == 2 else padded[:, step : step + size]
            same = _same_surface(near[count:], points, normals)
            # Half weights at both ends make the window exactly four points wide.
            if step in (0, 4):
                same *= np.float32(0.5)
            total += near[:count] * same
            weight += same
        layers = total / weight
    return np.asarray(layers)


def _same_surface(near: Array, points: Array, normals: Array) -> Array:
    """1 where a near point and its normal (6, h, w) lie on the surface through a point: in its plane, turned alike."""
    alike = (near[3:] * normals).sum(0) > 0.85
    level = np.abs(((near[:3] - points) * normals).sum(0)) < 0.02
    return np.asarray(alike & level, dtype=np.float32)


def _enlarge(smooth: Array, points: Array, normals: Array) -> Array:
    """Bring layers (L, h, w) of every second pixel to every pixel, from neighbours on the same surface.

    Where there is none on it, all neighbours count.

    Args:
        smooth: The layers.
        points: (3, H, W).
        normals: (3, H, W).
    """
    height, width = points.shape[1:]
    count = len(smooth)
    sparse = np.concatenate([smooth, points[:, ::2, ::2], normals[:, ::2, ::2]])
    padded = np.pad(sparse, ((0, 0), (0, 1), (0, 1)), mode="edge")
    result = np.empty((count, height, width), dtype=np.float32)
    result[:, ::2, ::2] = smooth
    for odd_y, odd_x in ((0, 1), (1, 0), (1, 1)):
        own = (slice(None), slice(odd_y, None, 2), slice(odd_x, None, 2))
        rows, columns = points[own].shape[1:]
        total, weight = np.zeros((count, rows, columns), dtype=np.float32), np.zeros((rows, columns), dtype=np.float32)
        for dy in range(1 + odd_y):
            for dx in range(1 + odd_x):
                near = padded[:, dy : dy + rows, dx : dx + columns]
                same = _same_surface(near[count:], points[own], normals[own]) + np.float32(1e-3)
                total += near[:count] * same
                weight += same
        result[own] = total / weight
    return result


def _ambient(scene: Scene, normals: Array, generator: np.random.Generator) -> Array:
    """Light from all round (3, H, W): what the ceiling, the walls and the floor reflect, by where a surface faces."""
    colours = np.array([m.first for m in scene.materials], dtype=np.float32)[scene.shell]
    floor, ceiling, wall = colours[4], colours[5], colours[:4].mean(0)
    light = np.sum([light.colour for light in scene.lights], 0).astype(np.float32)
    # Brighter rooms are a little less even.
    level = generator.uniform(0.04, 0.14) * light * light.mean() ** -0.2
    up = normals[2]
    mixed = wall[:, None, None] * (1 - 0.5 * np.abs(up)) + 0.5 * (
        ceiling[:, None, None] * np.maximum(up, 0) + 0.6 * floor[:, None, None] * np.maximum(-up, 0)
    )
    # The farther side of a room is a little darker; the direction is the first light's.
    side = (normals * _towards(scene, scene.lights[0])[:, None, None]).sum(0)
    return np.asarray((0.3 + mixed) * (1 + 0.2 * side) * level[:, None, None], dtype=np.float32)


def _towards(scene: Scene, light: Light) -> Array:
    """The direction from the middle of the room to a light."""
    offset = light.position - (0 if light.window >= 0 else 0.5 * np.array(scene.size))
    return np.asarray(offset / (np.linalg.norm(offset) + 1e-6), dtype=np.float32)
