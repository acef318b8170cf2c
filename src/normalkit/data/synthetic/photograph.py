"""From the light that reaches a camera to the picture it takes, and where the camera is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normalkit.data.synthetic.dice import Dice
from normalkit.data.synthetic.raycast import Camera, trace
from normalkit.data.synthetic.scene import Scene

__all__ = ["FIELD_OF_VIEW", "develop", "place_camera"]

Array = NDArray[Any]

FIELD_OF_VIEW = (45.0, 100.0)
"""Least and greatest horizontal angle of view, degrees."""

CLEARANCE = 0.12
"""Metres that a camera should keep from every part."""


def place_camera(scene: Scene, size: tuple[int, int], generator: np.random.Generator) -> Camera:
    """Hold a camera somewhere in the room, turned to something in it.

    Of a few free places the first is taken from which most of the picture is neither very near nor bare wall;
    failing that the best of them.

    Args:
        scene: The room.
        size: Height and width of the picture in pixels.
        generator: Decides.
    """
    dice = Dice(generator)
    height, width = size
    angle = dice.uniform(*FIELD_OF_VIEW) if dice.chance(0.6) else dice.uniform(52, 72)
    focal = 0.5 * width / math.tan(math.radians(0.5 * angle))
    center_x, center_y = 0.5 * (width - 1) * dice.around(1, 0.01), 0.5 * (height - 1) * dice.around(1, 0.01)
    intrinsics = np.array([[focal, 0.0, center_x], [0.0, focal, center_y], [0.0, 0.0, 1.0]])
    near, wanted = dice.uniform(0.4, 1.1), dice.integer(6, 12)
    roll = dice.around(0, 0.05) if dice.chance(0.85) else dice.around(0, 0.25)
    highest = -1.0
    for _ in range(6):
        position = _free_place(scene, dice)
        camera = Camera(position, _turned_to(_target(scene, dice), position, roll, dice), intrinsics, size)
        distance, variety = _outlook(scene, camera)
        if distance > near and variety >= wanted:
            return camera
        score = min(distance / near, 1) * variety
        if score > highest:
            best, highest = camera, score
    return best


def _free_place(scene: Scene, dice: Dice) -> Array:
    """A place at hand height that is in no part; in a very full room the wish for clearance is dropped by and by."""
    width, depth, height = scene.size
    clearance = CLEARANCE
    while True:
        z = min(dice.uniform(0.9, 1.75) if dice.chance(0.85) else dice.uniform(0.35, 2.2), height - 0.2)
        position = np.array([dice.uniform(0.2, width - 0.2), dice.uniform(0.2, depth - 0.2), z])
        if not _touches(scene, position, clearance):
            return position
        clearance *= 0.98


def _touches(scene: Scene, position: Array, clearance: float) -> bool:
    parts, first = scene.parts, 1 + scene.recesses
    local = np.abs(((position - parts.center)[:, :, None] * parts.rotation).sum(1))
    return bool((local < parts.half + clearance)[first:].all(1).any())


def _target(scene: Scene, dice: Dice) -> Array:
    first = 1 + scene.recesses
    if dice.chance(0.75) and len(scene.parts) > first:
        return np.asarray(scene.parts.center[dice.integer(first, len(scene.parts) - 1)])
    width, depth, _ = scene.size
    return np.array([dice.uniform(0, width), dice.uniform(0, depth), dice.uniform(0.2, 1.6)])


def _turned_to(target: Array, position: Array, roll: float, dice: Dice) -> Array:
    """World to camera: forward to about the target, the horizon turned by `roll`."""
    offset = target - position
    yaw = math.atan2(offset[1], offset[0]) + dice.around(0, 0.15)
    pitch = math.atan2(offset[2], math.hypot(offset[0], offset[1])) + dice.around(-0.05, 0.12)
    pitch = min(max(pitch, -1.0), 0.4)
    forward = np.array([math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), math.sin(pitch)])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    down = np.cross(forward, right)
    cosine, sine = math.cos(roll), math.sin(roll)
    return np.stack([cosine * right + sine * down, cosine * down - sine * right, forward])


def _outlook(scene: Scene, camera: Camera) -> tuple[float, int]:
    """The median depth along a few rays over the picture, and how many parts and walls they meet."""
    rays = camera.rays(step=max(1, min(camera.size) // 7)).reshape(3, -1)
    position = np.repeat(camera.position[:, None], rays.shape[1], 1)
    size = np.array(scene.size)[:, None]
    to_walls = np.where(rays > 0, size - position, -position) / np.where(rays == 0, 1e-9, rays)
    depth, wall = to_walls.min(0), to_walls.argmin(0)
    solid = np.arange(1 + scene.recesses, len(scene.parts))
    share, part = trace(scene.parts, solid, position.astype(np.float32), (rays * depth).astype(np.float32))
    met = np.where(part >= 0, part, -1 - 2 * wall - (rays[wall, np.arange(len(wall))] > 0))
    return float(np.median(depth * np.minimum(share, 1))), len(np.unique(met))


def develop(light: Array, part: Array, generator: np.random.Generator) -> Array:
    """Expose, blur, and read out the sensor: (3, H, W) float32 in [0, 1], gamma-encoded.

    Args:
        light: (3, H, W) linear, in any unit.
        part: (H, W): edges between parts are smoothed, as a lens and an anti-aliasing sensor do.
        generator: Decides exposure, colour balance, blur and noise.
    """
    brightness = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]
    middle = math.exp(float(np.log(brightness + 1e-4).mean()))
    exposure = 0.19 * 2 ** float(generator.normal(0, 0.45)) / middle
    balance = np.exp(generator.normal(0, 0.06, 3))
    picture = light * (exposure * balance / balance[1]).astype(np.float32)[:, None, None]
    picture = picture * _vignette(picture.shape[1:], float(generator.uniform(0, 0.35)))
    # A shoulder instead of a hard clip: lamps and windows bleach gently.
    picture = np.where(picture < 0.6, picture, 0.6 + 0.4 * np.tanh((picture - 0.6) / 0.6))
    soft = _binomial(picture)
    edge = _edges(part)
    blur = float(generator.uniform(0, 0.5) if generator.random() < 0.6 else generator.uniform(0.5, 1.0))
    picture = picture + np.maximum(0.75 * edge, blur).astype(np.float32) * (soft - picture)
    if blur > 0.85:
        picture = _binomial(picture)
    picture = _noisy(np.maximum(picture, 0), generator)
    encoded = np.maximum(picture, 0) ** np.float32(1 / 2.2)
    contrast = float(generator.uniform(-0.15, 0.35))
    encoded = np.minimum(encoded, 1)
    encoded = encoded + contrast * encoded * (1 - encoded) * (2 * encoded - 1)
    return np.clip(encoded, 0, 1).astype(np.float32)


def _vignette(shape: tuple[int, ...], strength: float) -> Array:
    y, x = np.linspace(-1, 1, shape[0], dtype=np.float32), np.linspace(-1, 1, shape[1], dtype=np.float32)
    return np.asarray(1 - strength * 0.5 * (y[:, None] ** 2 + x[None, :] ** 2))


def _binomial(picture: Array) -> Array:
    """Blur (3, H, W) with the weights 1 2 1 along both axes."""
    for axis in (1, 2):
        padding = [(0, 0), (0, 0), (0, 0)]
        padding[axis] = (1, 1)
        wide = np.pad(picture, padding, mode="edge")
        before, after = [slice(None)] * 3, [slice(None)] * 3
        before[axis], after[axis] = slice(None, -2), slice(2, None)
        picture = 0.5 * picture + 0.25 * (wide[tuple(before)] + wide[tuple(after)])
    return picture


def _edges(part: Array) -> Array:
    """1 at pixels that touch another part, else 0; (H, W)."""
    edge = np.zeros(part.shape, dtype=np.float32)
    down, right = part[1:] != part[:-1], part[:, 1:] != part[:, :-1]
    edge[1:][down], edge[:-1][down] = 1, 1
    edge[:, 1:][right], edge[:, :-1][right] = 1, 1
    return edge


def _noisy(picture: Array, generator: np.random.Generator) -> Array:
    """Shot noise that grows with the root of the light, and read noise; half of it common to the channels."""
    shot, read = float(generator.uniform(0, 0.022)), float(generator.uniform(0, 0.005))
    grains = generator.standard_normal((4, *picture.shape[1:]), dtype=np.float32)
    grain = 0.7 * grains[:3] + 0.7 * grains[3]
    return np.asarray(picture + grain * (shot * np.sqrt(picture) + read))
