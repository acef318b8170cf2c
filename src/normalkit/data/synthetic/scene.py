"""A room: its shell with doors, windows and alcoves, the furniture placed in it, and its lights.

World axes are x along the room's width, y along its depth, z up, in metres, the origin in one lower corner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from normalkit.data.synthetic import clutter, furniture
from normalkit.data.synthetic.dice import Dice
from normalkit.data.synthetic.item import FRONT, Item, Lamp, Part
from normalkit.data.synthetic.materials import Material
from normalkit.data.synthetic.shapes import Parts, Shape
from normalkit.data.synthetic.style import Style

__all__ = ["Light", "Scene", "build_scene"]

Array = NDArray[Any]
Rectangle = tuple[float, float, float, float]

MAX_LIGHTS = 4
"""Each light costs shadow rays; those beyond are dropped, weakest first."""


@dataclass(frozen=True)
class Light:
    """A flat source of light.

    Attributes:
        position: (3,) its middle; for the sun the direction towards it.
        across: (3,) from the middle to its edge.
        upward: (3,) from the middle to its other edge.
        facing: (3,) unit, the side that shines; zero for a lamp that shines all round.
        colour: (3,) times power.
        window: For the sun the part whose opening it must shine through, else -1.
    """

    position: Array
    across: Array
    upward: Array
    facing: Array
    colour: Array
    window: int = -1


@dataclass(frozen=True)
class Scene:
    """All that is drawn.

    Attributes:
        parts: The room's shell first, then its recesses, then everything else.
        recesses: How many parts after the shell are recesses: hollows outside the shell, entered by their face +y.
        backs: (recesses,) the material of each recess's back.
        sky: (recesses,) true where that back is the view from a window and so no surface.
        shell: (6,) materials of the shell's faces, as `faces` counts them.
        materials: What `Parts.material` refers to.
        lights: At least one, at most `MAX_LIGHTS`.
        size: Width, depth and height of the room.
    """

    parts: Parts
    recesses: int
    backs: Array
    sky: Array
    shell: Array
    materials: list[Material]
    lights: list[Light]
    size: tuple[float, float, float]


class Opening(NamedTuple):
    """A recess in wall 0 to 3, from `s0` to `s1` along it, `z0` to `z1` up, `depth` deep."""

    wall: int
    s0: float
    s1: float
    z0: float
    z1: float
    depth: float
    window: bool
    inside: int
    back: int


def build_scene(generator: np.random.Generator) -> Scene:
    """Furnish a random room."""
    builder = _RoomBuilder(Dice(generator))
    builder.open_walls()
    builder.shape_room()
    builder.trim()
    builder.furnish()
    return builder.scene()


class _RoomBuilder:
    """Collects a room's parts step by step and remembers which floor and wall is taken."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.style = Style(dice)
        small = dice.chance(0.35)
        self.width = dice.uniform(2.2, 3.6) if small else dice.uniform(3.0, 6.5)
        self.depth = dice.uniform(2.4, 3.8) if small else dice.uniform(3.0, 7.0)
        self.height = dice.uniform(2.25, 3.1)
        self.room = Item()
        self.openings: list[Opening] = []
        self.floor_taken: list[Rectangle] = []
        self.wall_taken: list[tuple[int, float, float, float, float]] = []
        main = self.style.wall()
        accent = self.style.wall() if dice.chance(0.4) else main
        walls = [main] * 4
        walls[dice.integer(0, 3)] = accent
        self.walls = walls
        # faces() counts -x, +x, -y, +y; the walls are counted from y = 0 counter-clockwise.
        self.shell = [walls[3], walls[1], walls[0], walls[2], self.style.floor(), self.style.ceiling()]

    def length(self, wall: int) -> float:
        return self.width if wall % 2 == 0 else self.depth

    def at_wall(self, wall: int, s: float) -> tuple[float, float, float]:
        """The point at `s` along a wall, and the yaw that turns +y into the room."""
        places = ((s, 0.0), (self.width, s), (s, self.depth), (0.0, s))
        return (*places[wall], (0.0, 0.5 * math.pi, math.pi, -0.5 * math.pi)[wall])

    def open_walls(self) -> None:
        """Cut windows, doors and alcoves."""
        dice, style = self.dice, self.style
        for kind in ["door"] + ["window"] * dice.integer(0, 3) + ["alcove"] * dice.integer(0, 1):
            wall = dice.integer(0, 3)
            wide = dice.uniform(0.75, 0.95) if kind == "door" else dice.uniform(0.6, 2.0)
            s = dice.uniform(0.15, max(0.16, self.length(wall) - wide - 0.15))
            low = dice.uniform(0.7, 1.1) if kind == "window" else 0.0
            high = min(self.height - 0.12, dice.uniform(1.95, 2.3))
            if s + wide > self.length(wall) - 0.1 or not self._wall_free(wall, s - 0.1, s + wide + 0.1, low, high):
                continue
            inside, back, depth = self.walls[wall], self.walls[wall], dice.uniform(0.25, 0.7)
            if kind == "window":
                inside, back, depth = style.white, style.outdoors(dice.uniform(0.6, 3.0)), dice.uniform(0.08, 0.3)
            elif kind == "door":
                is_open = dice.chance(0.3)
                inside, depth = (
                    dice.pick([style.white, style.wood()]),
                    dice.uniform(1.0, 2.0) if is_open else dice.uniform(0.04, 0.15),
                )
                back = self.walls[wall] if is_open else dice.pick([style.white, style.wood(), style.lacquer()])
            self.openings.append(Opening(wall, s, s + wide, low, high, depth, kind == "window", inside, back))
            self.wall_taken.append((wall, s - 0.05, s + wide + 0.05, low, high))
            if kind == "door":
                self._take_floor(wall, s, s + wide, 0.9)

    def shape_room(self) -> None:
        """Break the box: a filled corner, a pillar, a slanted ceiling, beams."""
        dice, room = self.dice, self.room
        if dice.chance(0.3) and min(self.width, self.depth) > 3.2:
            wide, deep = dice.uniform(0.4, 1.5), dice.uniform(0.4, 1.5)
            x, y = dice.pick([0.0, self.width - wide]), dice.pick([0.0, self.depth - deep])
            self._block(x, y, wide, deep)
        if dice.chance(0.2) and min(self.width, self.depth) > 3.5:
            size = dice.uniform(0.2, 0.5)
            self._block(dice.uniform(0.8, self.width - 1.3), dice.uniform(0.8, self.depth - 1.3), size, size)
        if dice.chance(0.18):
            wall, low, reach = dice.integer(0, 3), dice.uniform(0.9, 1.7), dice.uniform(0.8, 1.8)
            self._slant(wall, low, min(reach, 0.45 * self.length(wall + 1)))
        if dice.chance(0.15):
            wood, count = self.style.wood(), dice.integer(2, 5)
            for k in range(count):
                y = self.depth * (k + 0.5) / count
                room.box(wood, (0, self.width), (y - 0.07, y + 0.07), (self.height - 0.16, self.height))

    def _block(self, x: float, y: float, wide: float, deep: float) -> None:
        """A solid piece of wall from floor to ceiling, where nothing is yet."""
        rectangle = (x - 0.1, y - 0.1, x + wide + 0.1, y + deep + 0.1)
        crosses = any(_overlap(rectangle, self._strip(o.wall, o.s0, o.s1, 0.5)) for o in self.openings)
        if crosses or any(_overlap(rectangle, other) for other in self.floor_taken):
            return
        self.room.box(
            self.walls[0], (x - 0.01, x + wide + 0.01), (y - 0.01, y + deep + 0.01), (-0.01, self.height + 0.01)
        )
        self.floor_taken.append(rectangle)
        for wall in range(4):
            strip = self._strip(wall, 0.0, self.length(wall), 0.05)
            if _overlap(rectangle, strip):
                s = (x, x + wide) if wall % 2 == 0 else (y, y + deep)
                self.wall_taken.append((wall, *s, 0.0, self.height))

    def _slant(self, wall: int, low: float, reach: float) -> None:
        """An attic's ceiling: from `low` at a wall up to the ceiling at `reach` from it."""
        if any(o.wall == wall and o.z1 > low for o in self.openings):
            return
        rise, thick = self.height - low, 0.8
        along, slope = math.hypot(rise, reach), math.atan2(rise, reach)
        piece = Item()
        middle = (0.0, 0.5 * reach - thick * math.sin(slope), 0.5 * (low + self.height) + thick * math.cos(slope))
        half = (0.5 * self.length(wall) + 0.1, 0.5 * along + 1.0, thick)
        piece.solid(Shape.BOX, self.dice.pick([self.shell[5], self.walls[wall]]), middle, half, turn=(0, 0, slope))
        x, y, yaw = self.at_wall(wall, 0.5 * self.length(wall))
        self.room.put(piece, x, y, 0, yaw)
        self.wall_taken.append((wall, 0.0, self.length(wall), low - 0.5, self.height))

    def trim(self) -> None:
        """Baseboards, panelling, window frames, sills and curtains, door frames and handles."""
        dice, style = self.dice, self.style
        if dice.chance(0.85):
            self._panel(dice.pick([style.white, style.wood()]), dice.uniform(0.05, 0.15), 0.015)
        if dice.chance(0.2):
            self._panel(dice.pick([style.wall(), style.white, style.wood()]), dice.uniform(0.7, 1.2), 0.008)
        if dice.chance(0.3):
            for wall in range(4):
                self._along(wall, 0, self.length(wall), style.white, (self.height - 0.08, self.height), 0.06)
        for opening in self.openings:
            piece = self._window(opening) if opening.window else self._door(opening)
            x, y, yaw = self.at_wall(opening.wall, 0.5 * (opening.s0 + opening.s1))
            self.room.put(piece, x, y, 0, yaw)

    def _panel(self, material: int, height: float, thick: float) -> None:
        """Boards along the foot of every wall, interrupted by what reaches so low."""
        for wall in range(4):
            cuts = sorted((o.s0 - 0.06, o.s1 + 0.06) for o in self.openings if o.wall == wall and o.z0 < height)
            start = 0.0
            for low, high in [*cuts, (self.length(wall), 0.0)]:
                if low > start:
                    self._along(wall, start, low, material, (0.0, height), thick)
                start = max(start, high)

    def _along(self, wall: int, s0: float, s1: float, material: int, z: tuple[float, float], thick: float) -> None:
        piece, half = Item(), 0.5 * (s1 - s0)
        piece.box(material, (-half, half), (-0.01, thick), z)
        x, y, yaw = self.at_wall(wall, 0.5 * (s0 + s1))
        self.room.put(piece, x, y, 0, yaw)

    def _window(self, opening: Opening) -> Item:
        dice, piece, half = self.dice, Item(), 0.5 * (opening.s1 - opening.s0)
        frame, y = dice.pick([self.style.white, self.style.white, self.style.wood()]), -0.7 * opening.depth
        z0, z1 = opening.z0, opening.z1
        bars = [(-half, -half + 0.05), (half - 0.05, half)]
        bars += [
            (x - 0.02, x + 0.02) for x in ([0.0] if half > 0.45 else []) + ([-half / 2, half / 2] if half > 0.8 else [])
        ]
        for x in bars:
            piece.box(frame, x, (y - 0.02, y + 0.02), (z0, z1))
        rows = [(z0, z0 + 0.05), (z1 - 0.05, z1)] + (
            [(0.4 * z0 + 0.6 * z1, 0.4 * z0 + 0.6 * z1 + 0.03)] if dice.chance(0.4) else []
        )
        for z in rows:
            piece.box(frame, (-half, half), (y - 0.02, y + 0.02), z)
        piece.box(frame, (-half - 0.05, half + 0.05), (-opening.depth, 0.06), (z0 - 0.03, z0 + 0.002))
        covering = dice.uniform()
        if covering < 0.3:
            cloth = self.style.fabric()
            self._rod(piece, half, z1 + 0.08)
            for side in (-1, 1):
                for k in range(dice.integer(3, 6)):
                    piece.post(cloth, side * (half + 0.12 - 0.07 * k), 0.09 + 0.02 * (k % 2), (0.15, z1 + 0.08), 0.042)
        elif covering < 0.45:
            slats, tilt = self.style.white, dice.uniform(0.2, 1.2)
            for k in range(round((z1 - z0) * dice.uniform(0.3, 1.0) / 0.06)):
                place = (0.0, 0.3 * y, z1 - 0.03 - 0.06 * k)
                piece.solid(Shape.BOX, slats, place, (half - 0.01, 0.022, 0.001), turn=(0, 0, tilt))
        return piece

    def _rod(self, piece: Item, half: float, z: float) -> None:
        turn = (0.0, 0.5 * math.pi, 0.0)
        piece.solid(Shape.FRUSTUM, self.style.metal, (0, 0.09, z), (0.015, 0.015, half + 0.25), turn=turn)

    def _door(self, opening: Opening) -> Item:
        """The casing round a door, and on a shut leaf its panels and handle; nothing round an alcove."""
        dice, piece, half, depth = self.dice, Item(), 0.5 * (opening.s1 - opening.s0), opening.depth
        if opening.inside == self.walls[opening.wall]:
            return piece
        for side in (-1, 1):
            x = side * (half + 0.03)
            piece.box(opening.inside, (x - 0.035, x + 0.035), (-0.01, 0.02), (0, opening.z1 + 0.06))
        piece.box(opening.inside, (-half - 0.06, half + 0.06), (-0.01, 0.02), (opening.z1, opening.z1 + 0.06))
        if depth > 0.5:
            swing, wide = dice.uniform(0.3, 1.5), half
            place = (-half + wide * math.cos(swing), wide * math.sin(swing), 0.5 * opening.z1)
            piece.solid(Shape.BOX, opening.inside, place, (wide, 0.02, 0.495 * opening.z1), turn=(swing, 0, 0))
            return piece
        for low, high in ((0.1, 0.45), (0.53, 0.93)) if dice.chance(0.5) else ():
            piece.box(
                opening.back, (0.15 - half, half - 0.15), (-depth, 0.012 - depth), (low * opening.z1, high * opening.z1)
            )
        handle = half - 0.08
        piece.box(self.style.metal, (handle - 0.02, handle + 0.02), (-depth, 0.008 - depth), (0.92, 1.12))
        piece.box(self.style.metal, (handle - 0.12, handle + 0.01), (0.04 - depth, 0.055 - depth), (1.03, 1.05))
        return piece

    def furnish(self) -> None:
        """Lamps, furniture along the walls and in the middle, what hangs, rugs, and clutter on the floor."""
        dice, area = self.dice, self.width * self.depth
        for _ in range(dice.integer(1, 2 if area < 16 else 3)):
            x, y = dice.uniform(0.25, 0.75) * self.width, dice.uniform(0.25, 0.75) * self.depth
            self.room.put(
                dice.pick(furniture.ON_CEILINGS)(dice, self.style), x, y, self.height, dice.pick([0.0, 0.5 * math.pi])
            )
        for _ in range(min(14, int(3.5 + 0.45 * area * dice.uniform(0.5, 1.1)))):
            self._stand_at_wall(dice.pick(furniture.AGAINST_WALLS)(dice, self.style))
        for _ in range(dice.integer(1, 1 + int(area / 9))):
            self._stand_free(dice.pick(furniture.IN_THE_ROOM)(dice, self.style), tries=4)
        for _ in range(dice.integer(3, 9)):
            self._hang(dice.pick(furniture.ON_WALLS)(dice, self.style))
        if dice.chance(0.45):
            rug, wide, deep = Item(), dice.uniform(0.5, 1.3), dice.uniform(0.4, 1.0)
            if dice.chance(0.8):
                rug.box(self.style.rug(), (-wide, wide), (-deep, deep), (0, 0.008))
            else:
                rug.post(self.style.rug(), 0, 0, (0, 0.008), deep)
            self.room.put(
                rug, self.width * dice.uniform(0.3, 0.7), self.depth * dice.uniform(0.3, 0.7), 0, dice.around(0, 0.3)
            )
        for _ in range(dice.integer(2, 9)):
            self._stand_free(dice.pick(clutter.ON_FLOORS)(dice, self.style), tries=2)

    def _stand_at_wall(self, item: Item) -> None:
        x0, y0, x1, y1, top = _extent(item)
        for _ in range(7):
            wall = self.dice.integer(0, 3)
            free = self.length(wall) - (x1 - x0)
            if free < 0.02 or y1 > 0.75 * self.length(wall + 1):
                continue
            # Corners are where furniture often ends up.
            share = self.dice.pick([0.0, 1.0, self.dice.uniform(), self.dice.uniform()])
            s = 0.01 + (free - 0.02) * share
            x, y, yaw = self.at_wall(wall, s - x0 if wall in (0, 1) else s + x1)
            gap = 0.02 + max(0.0, -y0) + (self.dice.uniform(0, 0.08) if self.dice.chance(0.4) else 0.0)
            strip = self._strip(wall, s, s + x1 - x0, y1 + gap)
            if any(_overlap(strip, other) for other in self.floor_taken) or not self._wall_free(
                wall, s, s + x1 - x0, 0.05, min(top, 1.0)
            ):
                continue
            self.room.put(item, x - gap * math.sin(yaw), y + gap * math.cos(yaw), 0, yaw)
            self.floor_taken.append(strip)
            self.wall_taken.append((wall, s, s + x1 - x0, 0.0, top))
            return

    def _stand_free(self, item: Item, *, tries: int) -> None:
        x0, y0, x1, y1, _ = _extent(item)
        radius_x, radius_y = 0.5 * (x1 - x0), 0.5 * (y1 - y0)
        for _ in range(tries):
            yaw = self.dice.pick([0.0, 0.5 * math.pi, math.pi, self.dice.turn()])
            cosine, sine = math.cos(yaw), math.sin(yaw)
            wide, deep = abs(cosine) * radius_x + abs(sine) * radius_y, abs(sine) * radius_x + abs(cosine) * radius_y
            if self.width < 2 * wide + 0.1 or self.depth < 2 * deep + 0.1:
                continue
            x = self.dice.uniform(wide + 0.05, self.width - wide - 0.05)
            y = self.dice.uniform(deep + 0.05, self.depth - deep - 0.05)
            rectangle = (x - wide, y - deep, x + wide, y + deep)
            if any(_overlap(rectangle, other) for other in self.floor_taken):
                continue
            mx, my = 0.5 * (x0 + x1), 0.5 * (y0 + y1)
            self.room.put(item, x - cosine * mx + sine * my, y - sine * mx - cosine * my, 0, yaw)
            self.floor_taken.append(rectangle)
            return

    def _hang(self, item: Item) -> None:
        x0, _, x1, _, top = _extent(item)
        wall, z = self.dice.integer(0, 3), self.dice.uniform(1.25, 1.75)
        half = max(-x0, x1)
        if self.length(wall) < 2 * half + 0.2:
            return
        s = self.dice.uniform(half + 0.1, self.length(wall) - half - 0.1)
        if self._wall_free(wall, s - half, s + half, z - 0.2, z + top) and z + top < self.height:
            x, y, yaw = self.at_wall(wall, s)
            self.room.put(item, x, y, z, yaw)
            self.wall_taken.append((wall, s - half, s + half, z - 0.2, z + top))

    def _wall_free(self, wall: int, s0: float, s1: float, z0: float, z1: float) -> bool:
        return not any(w == wall and _overlap((s0, z0, s1, z1), (a, c, b, d)) for w, a, b, c, d in self.wall_taken)

    def _take_floor(self, wall: int, s0: float, s1: float, reach: float) -> None:
        self.floor_taken.append(self._strip(wall, s0, s1, reach))

    def _strip(self, wall: int, s0: float, s1: float, reach: float) -> Rectangle:
        """The floor within `reach` of a stretch of wall."""
        return (
            (s0, 0.0, s1, reach),
            (self.width - reach, s0, self.width, s1),
            (s0, self.depth - reach, s1, self.depth),
            (0.0, s0, reach, s1),
        )[wall]

    def scene(self) -> Scene:
        """Turn the collected parts and lamps into arrays."""
        size = (self.width, self.depth, self.height)
        shell = Item()
        shell.box(self.shell[0], (0, self.width), (0, self.depth), (0, self.height))
        hollows = Item()
        for o in self.openings:
            piece = Item()
            piece.box(
                o.inside, (0.5 * (o.s0 - o.s1), 0.5 * (o.s1 - o.s0)), (-o.depth, 0.0), (o.z0, o.z1), openings=FRONT
            )
            x, y, yaw = self.at_wall(o.wall, 0.5 * (o.s0 + o.s1))
            hollows.put(piece, x, y, 0, yaw)
        return Scene(
            parts=_arrays([*shell.parts, *hollows.parts, *self.room.parts]),
            recesses=len(self.openings),
            backs=np.array([o.back for o in self.openings], dtype=np.intp),
            sky=np.array([o.window for o in self.openings], dtype=bool),
            shell=np.array(self.shell),
            materials=self.style.materials,
            lights=self._lights(),
            size=size,
        )

    def _lights(self) -> list[Light]:
        dice, lights = self.dice, []
        daylight = dice.uniform(0.0, 2.5) if dice.chance(0.75) else 0.0
        lamps = dice.uniform(0.3, 1.0) if daylight < 0.8 or dice.chance(0.6) else 0.0
        windows = [(k, o) for k, o in enumerate(self.openings) if o.window]
        if not windows:
            lamps = 1.0
        warm = np.array([1.0, dice.uniform(0.75, 0.95), dice.uniform(0.5, 0.9)])
        cool = np.array([dice.uniform(0.75, 1.0), 0.95, dice.uniform(0.95, 1.15)])
        if lamps:
            lights += [_lamp_light(lamp, lamps * lamp.power * warm) for lamp in self.room.lamps]
        if daylight:
            lights += [self._window_light(o, daylight * cool) for _, o in windows]
        lights.sort(key=lambda light: -float(light.colour.sum()))
        lights = lights[: MAX_LIGHTS - 1]
        if windows and daylight > 0.6 and dice.chance(0.5):
            lights.append(self._sun(*dice.pick(windows), daylight))
        return lights

    def _window_light(self, opening: Opening, colour: Array) -> Light:
        x, y, yaw = self.at_wall(opening.wall, 0.5 * (opening.s0 + opening.s1))
        half, tall = 0.5 * (opening.s1 - opening.s0), 0.5 * (opening.z1 - opening.z0)
        facing = np.array([-math.sin(yaw), math.cos(yaw), 0.0])
        return Light(
            # A little inside, so that frame, sill and blind shade no more than they would.
            position=np.array([x, y, 0.5 * (opening.z0 + opening.z1)]) + 0.05 * facing,
            across=half * np.array([math.cos(yaw), math.sin(yaw), 0.0]),
            upward=np.array([0.0, 0.0, tall]),
            facing=facing,
            colour=2.0 * colour * half * tall,
        )

    def _sun(self, recess: int, opening: Opening, daylight: float) -> Light:
        _, _, yaw = self.at_wall(opening.wall, 0.0)
        azimuth, height = yaw - 0.5 * math.pi + self.dice.uniform(-0.9, 0.9), self.dice.uniform(0.25, 0.9)
        towards = np.array(
            [math.cos(azimuth) * math.cos(height), math.sin(azimuth) * math.cos(height), math.sin(height)]
        )
        colour = daylight * self.dice.uniform(0.4, 1.5) * np.array([1.0, 0.92, 0.8])
        spread = np.full(3, 0.01)
        return Light(towards, spread, np.array([0.01, -0.01, 0.0]), np.zeros(3), colour, window=1 + recess)


def _lamp_light(lamp: Lamp, colour: Array) -> Light:
    return Light(
        position=np.array([lamp.x, lamp.y, lamp.z]),
        across=np.array([lamp.radius, 0.0, 0.0]),
        upward=np.array([0.0, lamp.radius, 0.0]),
        facing=np.zeros(3),
        colour=colour,
    )


def _extent(item: Item) -> tuple[float, float, float, float, float]:
    """The rectangle an item covers seen from above (x0, y0, x1, y1), and its top."""
    x0 = y0 = math.inf
    x1 = y1 = top = -math.inf
    for part in item.parts:
        wide, deep, tall = part.half_x, part.half_y, part.half_z
        if part.yaw or part.pitch or part.roll:
            cosine, sine = abs(math.cos(part.yaw)), abs(math.sin(part.yaw))
            reach = max(wide, deep, tall)
            wide, deep = cosine * wide + sine * deep, sine * wide + cosine * deep
            if part.pitch:
                wide, tall = max(wide, reach), reach
            if part.roll:
                deep, tall = max(deep, 0.6 * reach), reach
        x0, x1 = min(x0, part.x - wide), max(x1, part.x + wide)
        y0, y1 = min(y0, part.y - deep), max(y1, part.y + deep)
        top = max(top, part.z + tall)
    return x0, y0, x1, y1, top


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _arrays(parts: list[Part]) -> Parts:
    table = np.array(parts, dtype=np.float64)
    (ca, cb, cc), (sa, sb, sc) = np.cos(table[:, 7:10].T), np.sin(table[:, 7:10].T)
    rotation = np.stack(
        [
            np.stack([ca * cb, ca * sb * sc - sa * cc, ca * sb * cc + sa * sc], 1),
            np.stack([sa * cb, sa * sb * sc + ca * cc, sa * sb * cc - ca * sc], 1),
            np.stack([-sb, cb * sc, cb * cc], 1),
        ],
        1,
    )
    return Parts(
        shape=table[:, 0].astype(np.intp),
        center=table[:, 1:4],
        half=table[:, 4:7],
        rotation=rotation,
        taper=table[:, 10],
        openings=table[:, 11].astype(np.intp),
        material=table[:, 12].astype(np.intp),
    )
