"""What is known of the surface that each pixel sees: exact place and normal, and its colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normalkit.data.synthetic.materials import Pattern, Spots, colour, noise
from normalkit.data.synthetic.raycast import Camera, unit_rays
from normalkit.data.synthetic.scene import Scene
from normalkit.data.synthetic.shapes import Shape, faces, first_hit, gradients

__all__ = ["Appearance", "Surface", "appearance", "surface"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Surface:
    """The surface seen by each pixel; all float64 and in the world.

    Attributes:
        depth: (H, W) metres along the optical axis.
        rays: (3, H, W) directions, of length 1 along the optical axis.
        points: (3, H, W).
        normals: (3, H, W) unit, towards the camera.
        unit: (3, H, W) the points in the unit coordinates of their parts.
        face: (H, W) face of the part.
        part: (H, W).
        sky: (H, W) true where a window shows the outdoors and there is no surface.
    """

    depth: Array
    rays: Array
    points: Array
    normals: Array
    unit: Array
    face: Array
    part: Array
    sky: Array


@dataclass(frozen=True)
class Appearance:
    """How each pixel's surface answers light; float32.

    Attributes:
        albedo: (3, H, W).
        glow: (H, W) times the albedo is what it gives off.
        gloss: (H, W).
        sharpness: (H, W).
    """

    albedo: Array
    glow: Array
    gloss: Array
    sharpness: Array


def surface(scene: Scene, camera: Camera, part: Array) -> Surface:
    """Meet the part that each pixel sees again, in float64.

    Args:
        scene: The room.
        camera: The view.
        part: (H, W) from `cast`.
    """
    parts, rays, flat = scene.parts, camera.rays(), part.ravel()
    start, along = unit_rays(parts, flat, camera.position[:, None], rays.reshape(3, -1))
    depth, face = np.empty(flat.shape), np.zeros(flat.shape, dtype=np.intp)
    gradient = np.empty_like(along)
    kinds, taper, openings = parts.shape[flat], parts.taper[flat], parts.openings[flat]
    for shape in Shape:
        chosen = np.flatnonzero(kinds == shape)
        o, d, t = start.take(chosen, 1), along.take(chosen, 1), taper[chosen]
        hit = first_hit(shape, o, d, t, openings[chosen])
        # Where float32 saw the part and float64 just misses its edge, the nearest approach to its middle will do.
        hit = np.where(np.isfinite(hit), hit, -(o * d).sum(0) / (d * d).sum(0))
        met = o + hit * d
        depth[chosen], face[chosen] = hit, faces(shape, met, t)
        gradient[:, chosen] = gradients(shape, met, t)
    turn = parts.affine(along.dtype).take(flat, 1)
    # Normals go back by the transpose of what takes points to unit coordinates.
    normals = np.stack([(turn[3 * k : 3 * k + 3] * gradient).sum(0) for k in range(3)]).reshape(rays.shape)
    normals *= np.where((normals * rays).sum(0) > 0, -1, 1) / np.sqrt((normals * normals).sum(0))
    recess = np.flatnonzero((flat >= 1) & (flat <= scene.recesses))
    sky = np.zeros(flat.shape, dtype=bool)
    sky[recess] = scene.sky[flat[recess] - 1] & (face[recess] == 2)
    return Surface(
        depth=depth.reshape(part.shape),
        rays=rays,
        points=camera.position[:, None, None] + depth.reshape(part.shape) * rays,
        normals=normals,
        unit=(start + depth * along).reshape(rays.shape),
        face=face.reshape(part.shape),
        part=part,
        sky=sky.reshape(part.shape),
    )


def appearance(scene: Scene, camera: Camera, seen: Surface) -> Appearance:
    """Evaluate the material that each pixel sees."""
    index = _material_index(scene, seen).ravel()
    # Sorted by pattern, the pixels of each pattern are a slice.
    patterns = np.array([m.pattern for m in scene.materials])
    order = np.argsort(patterns[index], kind="stable")
    ends = np.searchsorted(patterns[index[order]], range(len(Pattern) + 1))
    columns = np.array(
        [(*m.first, *m.second, *m.third, m.scale, m.gloss, m.sharpness, m.grain, m.glow) for m in scene.materials]
    )
    table = columns.T.astype(np.float32).take(index[order], 1)
    cosine = np.abs((seen.normals * seen.rays).sum(0)) / np.sqrt((seen.rays * seen.rays).sum(0))
    footprint = seen.depth / camera.intrinsics[0, 0] / np.sqrt(np.maximum(cosine, 0.05))
    phase = (seen.part * 0.61803399) % 1.0
    places = np.stack([*_coordinates(scene, seen), footprint, phase]).astype(np.float32).reshape(6, -1).take(order, 1)
    albedo = np.empty((3, len(order)), dtype=np.float32)
    for pattern in Pattern:
        here = slice(ends[pattern], ends[pattern + 1])
        if here.start < here.stop:
            u, v, a, b, size, phases = places[:, here]
            first, second, third = table[0:9, here].reshape(3, 3, -1)
            albedo[:, here] = colour(pattern, Spots(u, v, a, b, size, first, second, third, table[9, here], phases))
    # Dust, wear and weave: a coarse and a fine octave over everything.
    u, v, _, _, size, phases = places
    dirt = noise(0.7 * u + phases, 0.7 * v, 0.7 * size) + noise(5 * u, 5 * v + phases, 5 * size) - 1
    albedo = np.clip(albedo * (1 + np.float32(2.5) * table[12] * dirt), 0.004, 1)
    result = np.empty((6, len(order)), dtype=np.float32)
    result[:, order] = np.concatenate([albedo, table[[10, 11, 13]]])
    result = result.reshape(6, *seen.part.shape)
    return Appearance(albedo=result[:3], gloss=result[3], sharpness=result[4], glow=result[5])


def _material_index(scene: Scene, seen: Surface) -> Array:
    """The shell has a material for each face, a recess one for its back; other parts have one."""
    material = scene.parts.material[seen.part]
    shell = seen.part == 0
    material[shell] = scene.shell[seen.face[shell]]
    recess = (seen.part >= 1) & (seen.part <= scene.recesses) & (seen.face == 2)
    material[recess] = scene.backs[seen.part[recess] - 1]
    return np.asarray(material)


def _coordinates(scene: Scene, seen: Surface) -> tuple[Array, Array, Array, Array]:
    """Surface coordinates of each pixel: metres (u across and v along the grain), and -1 to 1 (a, b)."""
    parts = scene.parts
    half = np.moveaxis(parts.half, 0, -1)[:, seen.part]
    curved = (parts.shape[seen.part] != Shape.BOX) & (seen.face < 4)
    axis = seen.face // 2
    x, y, z = seen.unit
    a, b = np.where(axis == 0, y, x), np.where(axis == 2, y, z)
    u, v = a * np.where(axis == 0, half[1], half[0]), b * np.where(axis == 2, half[1], half[2])
    angle = np.arctan2(y[curved], x[curved])
    a[curved], b[curved] = angle / np.pi, z[curved]
    u[curved], v[curved] = angle * half[0][curved], z[curved] * half[2][curved]
    # Wood grows along the longer side; bricks and tiles are laid level, which walls and floors keep.
    longer = np.where(axis == 0, half[1], half[0]) > np.where(axis == 2, half[1], half[2])
    swap = longer & (seen.part > 0) & ~curved
    level = np.array([m.pattern in _LEVEL for m in scene.materials])
    swap &= ~level[parts.material[seen.part]]
    u, v = np.where(swap, v, u), np.where(swap, u, v)
    return u, v, a, b


_LEVEL = [Pattern.BRICKS, Pattern.PICTURE, Pattern.PRINT, Pattern.SCREEN]
