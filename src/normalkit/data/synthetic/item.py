"""A thing made of parts, built in its own coordinates and put into another."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from normalkit.data.synthetic.shapes import Shape

__all__ = ["FOOT", "FRONT", "TOP", "Item", "Lamp", "Part", "Place"]

FRONT, FOOT, TOP = 1 << 3, 1 << 4, 1 << 5
"""Bits of `openings` for the faces +y, -z and +z."""


class Part(NamedTuple):
    """One shape: centre and half sizes in metres, angles in radians (turned by roll, then pitch, then yaw)."""

    shape: Shape
    x: float
    y: float
    z: float
    half_x: float
    half_y: float
    half_z: float
    yaw: float
    pitch: float
    roll: float
    taper: float
    openings: int
    material: int


class Lamp(NamedTuple):
    """A light at a place in metres; `power` is relative, `radius` softens its shadows."""

    x: float
    y: float
    z: float
    radius: float
    power: float


class Place(NamedTuple):
    """A level rectangle on which clutter may stand, with the room above it, in metres."""

    x0: float
    x1: float
    y0: float
    y1: float
    z: float
    clearance: float


@dataclass
class Item:
    """Parts in the item's own coordinates: x to the right seen from behind, y to its front, z up, metres.

    The back is at y = 0, the middle at x = 0 and the foot at z = 0.

    Attributes:
        parts: What it is made of.
        lamps: What lights it carries.
        places: Where clutter may be put.
    """

    parts: list[Part] = field(default_factory=list)
    lamps: list[Lamp] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)

    def solid(
        self,
        shape: Shape,
        material: int,
        center: tuple[float, float, float],
        half: tuple[float, float, float],
        *,
        turn: tuple[float, float, float] = (0.0, 0.0, 0.0),
        taper: float = 0.0,
        openings: int = 0,
    ) -> None:
        """Add a part by its centre, half sizes and (yaw, pitch, roll)."""
        self.parts.append(Part(shape, *center, *half, *turn, taper, openings, material))

    def box(
        self,
        material: int,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        *,
        openings: int = 0,
    ) -> None:
        """Add a box by its extent along each axis."""
        center = (0.5 * (x[0] + x[1]), 0.5 * (y[0] + y[1]), 0.5 * (z[0] + z[1]))
        half = (0.5 * (x[1] - x[0]), 0.5 * (y[1] - y[0]), 0.5 * (z[1] - z[0]))
        self.solid(Shape.BOX, material, center, half, openings=openings)

    def post(
        self,
        material: int,
        x: float,
        y: float,
        z: tuple[float, float],
        radius: float,
        *,
        taper: float = 0.0,
        openings: int = 0,
    ) -> None:
        """Add an upright cylinder, cone or cup by its axis, extent and largest radius."""
        half = (radius, radius, 0.5 * (z[1] - z[0]))
        self.solid(Shape.FRUSTUM, material, (x, y, 0.5 * (z[0] + z[1])), half, taper=taper, openings=openings)

    def put(self, other: Item, x: float, y: float, z: float, yaw: float = 0.0) -> None:
        """Take over another item's parts, lamps and places, turned about the vertical and then moved."""
        cosine, sine = math.cos(yaw), math.sin(yaw)
        for part in other.parts:
            # Spelled out: `_replace` would take a third of the time of building a room.
            shape, px, py, pz, half_x, half_y, half_z, turned, pitch, roll, taper, openings, material = part
            px, py, pz = x + cosine * px - sine * py, y + sine * px + cosine * py, z + pz
            turned += yaw
            self.parts.append(
                Part(shape, px, py, pz, half_x, half_y, half_z, turned, pitch, roll, taper, openings, material)
            )
        for lamp in other.lamps:
            moved = (x + cosine * lamp.x - sine * lamp.y, y + sine * lamp.x + cosine * lamp.y, z + lamp.z)
            self.lamps.append(Lamp(*moved, lamp.radius, lamp.power))
