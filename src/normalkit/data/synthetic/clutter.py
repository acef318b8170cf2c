"""Small things that lie about: cups, bottles, books, papers, balls, boxes, plants, screens."""

from __future__ import annotations

import math
from collections.abc import Callable

from normalkit.data.synthetic.dice import Dice
from normalkit.data.synthetic.item import FOOT, TOP, Item, Lamp, Place
from normalkit.data.synthetic.shapes import Shape
from normalkit.data.synthetic.style import Style

__all__ = ["ON_FLOORS", "ON_TABLES", "book_row", "plant", "scatter", "table_lamp"]

Maker = Callable[[Dice, Style], Item]

LIFT = 0.002
"""Metres between a thin foot and what it stands on, so that the two do not share a plane."""


def scatter(item: Item, dice: Dice, style: Style, *, count: int, makers: tuple[Maker, ...] | None = None) -> None:
    """Put small things on an item's places, apart from each other.

    Args:
        item: Gets the things.
        dice: Decides which and where.
        style: Makes their materials.
        count: How many to try for.
        makers: What there is to choose from; `ON_TABLES` where not given.
    """
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(count if item.places else 0):
        place = dice.pick(item.places)
        thing = dice.pick(makers or ON_TABLES)(dice, style)
        radius = max(math.hypot(p.x, p.y) + min(max(p.half_x, p.half_y), 0.2) for p in thing.parts)
        height = max(p.z + p.half_z for p in thing.parts)
        inset = 0.7 * radius
        if height > place.clearance or min(place.x1 - place.x0, place.y1 - place.y0) < 2 * inset:
            continue
        x = dice.uniform(place.x0 + inset, place.x1 - inset)
        y = dice.uniform(place.y0 + inset, place.y1 - inset)
        if any(place.z == z and math.hypot(x - u, y - v) < 0.8 * (radius + r) for u, v, z, r in taken):
            continue
        taken.append((x, y, place.z, radius))
        item.put(thing, x, y, place.z, dice.around(0.0, 0.5) if dice.chance(0.7) else dice.turn())


def cup(dice: Dice, style: Style) -> Item:
    """A mug or glass, open at the top, sometimes with a handle."""
    thing, material = Item(), dice.pick(style.plastics)
    radius, height = dice.uniform(0.03, 0.05), dice.uniform(0.06, 0.13)
    thing.post(material, 0, 0, (LIFT, height), radius, taper=-dice.uniform(0, 0.35), openings=TOP)
    if dice.chance(0.6):
        for z in (0.3, 0.7):
            thing.box(
                material, (radius * 0.9, radius + 0.025), (-0.005, 0.005), (z * height - 0.006, z * height + 0.006)
            )
        thing.box(material, (radius + 0.018, radius + 0.028), (-0.005, 0.005), (0.3 * height, 0.7 * height))
    return thing


def bottle(dice: Dice, style: Style) -> Item:
    """A body, a shoulder, a neck and a cap."""
    thing, material = Item(), style.lacquer()
    radius, body = dice.uniform(0.025, 0.05), dice.uniform(0.1, 0.2)
    shoulder, neck = body + radius, body + radius + dice.uniform(0.02, 0.07)
    thing.post(material, 0, 0, (0, body), radius)
    thing.post(material, 0, 0, (body, shoulder), radius, taper=0.65)
    thing.post(material, 0, 0, (shoulder, neck), 0.35 * radius)
    thing.post(dice.pick(style.plastics), 0, 0, (neck, neck + 0.015), 0.4 * radius)
    if dice.chance(0.6):
        thing.post(dice.pick(style.papers), 0, 0, (0.25 * body, 0.8 * body), 1.02 * radius)
    return thing


def bowl(dice: Dice, style: Style) -> Item:
    """A bowl, sometimes of fruit."""
    thing, radius, height = Item(), dice.uniform(0.07, 0.15), dice.uniform(0.04, 0.09)
    thing.post(dice.pick(style.plastics), 0, 0, (LIFT, height), radius, taper=-0.5, openings=TOP)
    if dice.chance(0.6):
        fruit, size = style.lacquer(), dice.uniform(0.03, 0.045)
        for k in range(dice.integer(2, 5)):
            around = 2.0 * k + dice.uniform()
            place = (
                0.45 * radius * math.cos(around),
                0.45 * radius * math.sin(around),
                0.6 * height + size * (0.5 + 0.2 * k),
            )
            thing.solid(Shape.ELLIPSOID, fruit, place, (size, size * 0.95, size * 0.9))
    return thing


def plate(dice: Dice, style: Style) -> Item:
    """A flat dish."""
    thing, radius = Item(), dice.uniform(0.08, 0.14)
    thing.post(dice.pick([style.white, *style.plastics]), 0, 0, (LIFT, 0.022), radius, taper=-0.35, openings=TOP)
    return thing


def ball(dice: Dice, style: Style) -> Item:
    """A sphere, of any size up to a football."""
    thing, radius = Item(), dice.pick([0.03, 0.035, 0.06, 0.11])
    thing.solid(
        Shape.ELLIPSOID, dice.pick([*style.plastics, style.upholstery[0]]), (0, 0, radius), (radius, radius, radius)
    )
    return thing


def block(dice: Dice, style: Style) -> Item:
    """A packet or tin."""
    thing, height = Item(), dice.uniform(0.03, 0.25)
    material = dice.pick([*style.papers, *style.plastics])
    if dice.chance(0.3):
        thing.post(material, 0, 0, (0, height), dice.uniform(0.03, 0.07))
    else:
        wide, deep = dice.uniform(0.03, 0.12), dice.uniform(0.02, 0.08)
        thing.box(material, (-wide, wide), (-deep, deep), (0, height))
    return thing


def papers(dice: Dice, style: Style) -> Item:
    """Sheets or magazines spread over each other."""
    thing = Item()
    for k in range(dice.integer(1, 4)):
        thick = dice.pick([0.001, 0.003, 0.006])
        place = (dice.around(0, 0.05), dice.around(0, 0.05), LIFT + 0.006 * k + 0.5 * thick)
        thing.solid(
            Shape.BOX,
            dice.pick(style.papers),
            place,
            (0.105, 0.148, thick),
            turn=(dice.around(0.0, 0.5), dice.around(0, 0.01), 0),
        )
    return thing


def book_pile(dice: Dice, style: Style) -> Item:
    """Books lying on each other."""
    thing, z = Item(), 0.0
    for _ in range(dice.integer(1, 6)):
        thick, wide, deep = dice.uniform(0.008, 0.03), dice.uniform(0.06, 0.13), dice.uniform(0.09, 0.16)
        turn = (dice.around(0.0, 0.25), 0.0, 0.0)
        thing.solid(Shape.BOX, dice.pick(style.papers), (0, 0, z + thick), (wide, deep, thick), turn=turn)
        z += 2 * thick
    return thing


def book_row(dice: Dice, style: Style, *, width: float, height: float, depth: float) -> Item:
    """Books standing side by side from the left, backs to the front, the last one leaning now and then."""
    thing, x = Item(), 0.0
    end = width * dice.uniform(0.4, 1.0)
    materials = [*style.papers, *style.plastics]
    while x < end - 0.06:
        thick = dice.uniform(0.015, 0.05)
        tall, deep = height * dice.uniform(0.6, 0.92), depth * dice.uniform(0.6, 0.9)
        thing.box(dice.pick(materials), (x, x + thick), (0.01, deep), (0, tall))
        x += thick + (0.002 if dice.chance(0.9) else dice.uniform(0, 0.08))
    if dice.chance(0.5) and x + 0.45 * height < width:
        lean = dice.uniform(0.1, 0.35)
        tall = 0.35 * height
        place = (x + tall * math.sin(lean) + 0.03, 0.4 * depth, tall * math.cos(lean) + 0.015 * math.sin(lean))
        thing.solid(Shape.BOX, dice.pick(materials), place, (0.015, 0.38 * depth, tall), turn=(0.0, -lean, 0.0))
    return thing


def stand(dice: Dice, style: Style) -> Item:
    """A picture frame, calendar or card leaning back on its foot."""
    thing, wide, tall, lean = Item(), dice.uniform(0.05, 0.16), dice.uniform(0.06, 0.2), dice.uniform(0.1, 0.5)
    z = tall * math.cos(lean) + 0.012 * math.sin(lean)
    thing.solid(Shape.BOX, style.wood(), (0, 0, z), (wide, 0.01, tall), turn=(0, 0, lean))
    shift = (0.0, 0.0075 * math.cos(lean), z + 0.0075 * math.sin(lean))
    thing.solid(Shape.BOX, style.picture(), shift, (0.88 * wide, 0.005, 0.88 * tall), turn=(0, 0, lean))
    return thing


def laptop(dice: Dice, style: Style) -> Item:
    """A keyboard half and a screen half, open by some angle."""
    thing, lean = Item(), dice.uniform(0.1, 0.6)
    body = dice.pick([style.metal, style.black])
    thing.box(body, (-0.17, 0.17), (-0.1, 0.13), (0, 0.018))
    thing.box(style.black, (-0.15, 0.15), (-0.07, 0.04), (0.016, 0.02))
    low = 0.018
    place = (0.0, -0.1 - 0.11 * math.sin(lean), low + 0.11 * math.cos(lean))
    thing.solid(Shape.BOX, body, place, (0.17, 0.004, 0.11), turn=(0, 0, lean))
    glass = (0.0, place[1] + 0.003 * math.cos(lean), place[2] + 0.003 * math.sin(lean))
    thing.solid(Shape.BOX, style.screen(), glass, (0.155, 0.0025, 0.095), turn=(0, 0, lean))
    return thing


def monitor(dice: Dice, style: Style) -> Item:
    """A display on its foot, with a keyboard before it."""
    thing, wide, tall = Item(), dice.uniform(0.2, 0.34), dice.uniform(0.14, 0.2)
    thing.box(style.black, (-wide, wide), (-0.02, 0.015), (0.1, 0.1 + 2 * tall))
    thing.box(style.screen(), (0.02 - wide, wide - 0.02), (0.01, 0.018), (0.12, 0.08 + 2 * tall))
    thing.box(style.black, (-0.03, 0.03), (-0.045, -0.02), (0, 0.3))
    thing.box(style.black, (-0.11, 0.11), (-0.1, 0.08), (0, 0.012))
    thing.box(dice.pick([style.black, style.white]), (-0.2, 0.2), (0.17, 0.29), (0, 0.02))
    return thing


def plant(dice: Dice, style: Style) -> Item:
    """A pot with leaves: long ellipsoids that lean outwards."""
    thing, green = Item(), style.leaves()
    radius, pot = dice.uniform(0.05, 0.11), dice.uniform(0.08, 0.18)
    thing.post(dice.pick([*style.plastics, style.white]), 0, 0, (0, pot), radius, taper=-0.25, openings=TOP)
    thing.post(style.wood(), 0, 0, (LIFT, 0.85 * pot), 0.75 * radius)
    long, wide = dice.uniform(0.08, 0.2), dice.uniform(0.015, 0.05)
    count = dice.integer(6, 12)
    for k in range(count):
        yaw, lean = 2.4 * k + dice.uniform(), dice.uniform(0.15, 1.3)
        size = long * dice.uniform(0.7, 1.2)
        reach = size * math.sin(lean)
        place = (reach * math.cos(yaw), reach * math.sin(yaw), pot + size * math.cos(lean))
        thing.solid(Shape.ELLIPSOID, green, place, (0.3 * wide + 0.004, wide, size), turn=(yaw, lean, 0))
    return thing


def vase(dice: Dice, style: Style) -> Item:
    """A belly, and a mouth that opens upwards."""
    thing, material, radius = Item(), style.lacquer(), dice.uniform(0.05, 0.1)
    tall = radius * dice.uniform(0.9, 1.6)
    thing.solid(Shape.ELLIPSOID, material, (0, 0, 0.92 * tall), (radius, radius, tall))
    thing.post(material, 0, 0, (1.7 * tall, 2.2 * tall), 0.6 * radius, taper=-0.35, openings=TOP)
    return thing


def table_lamp(dice: Dice, style: Style) -> Item:
    """A foot, a stem, and a shade with a light in it."""
    thing, tall, radius = Item(), dice.uniform(0.25, 0.45), dice.uniform(0.08, 0.16)
    foot = dice.pick([style.metal, style.wood(), *style.plastics])
    thing.post(foot, 0, 0, (0, 0.02), 0.6 * radius)
    if dice.chance(0.5):
        thing.solid(Shape.ELLIPSOID, foot, (0, 0, 0.4 * tall), (0.5 * radius, 0.5 * radius, 0.4 * tall))
    thing.post(foot, 0, 0, (0, tall), 0.01)
    thing.post(
        style.shade(), 0, 0, (tall - 0.02, tall + 1.2 * radius), radius, taper=dice.uniform(0, 0.5), openings=TOP | FOOT
    )
    thing.lamps.append(_lamp_in_shade(tall + 0.4 * radius, dice))
    return thing


def _lamp_in_shade(z: float, dice: Dice) -> Lamp:
    return Lamp(0.0, 0.0, z, 0.06, dice.uniform(0.15, 0.6))


def carton(dice: Dice, style: Style) -> Item:
    """A cardboard box or crate, open or shut, with flaps."""
    thing, material = Item(), dice.pick([style.cardboard(), *style.plastics])
    x, y, z = dice.uniform(0.1, 0.3), dice.uniform(0.1, 0.25), dice.uniform(0.12, 0.45)
    is_open = dice.chance(0.6)
    thing.box(material, (-x, x), (-y, y), (LIFT, z), openings=TOP if is_open else 0)
    if is_open:
        for side in (-1, 1):
            lean = dice.uniform(0.4, 2.0)
            place = (side * (x + 0.4 * x * math.sin(lean)), 0.0, z + 0.4 * x * math.cos(lean))
            thing.solid(Shape.BOX, material, place, (0.003, y, 0.4 * x), turn=(0, side * lean, 0))
        thing.places.append(Place(0.1 - x, x - 0.1, 0.1 - y, y - 0.1, 2 * LIFT, z + 0.1))
        scatter(thing, dice, style, count=2, makers=(ball, block))
    return thing


def bin_(dice: Dice, style: Style) -> Item:
    """A waste-paper basket or bucket."""
    thing, radius = Item(), dice.uniform(0.1, 0.2)
    thing.post(
        dice.pick([style.metal, *style.plastics]),
        0,
        0,
        (LIFT, radius * dice.uniform(1.5, 3)),
        radius,
        taper=-0.25,
        openings=TOP,
    )
    return thing


def cushion(dice: Dice, style: Style) -> Item:
    """A pillow: a flat ellipsoid, or a bag to sit on."""
    thing, size = Item(), dice.uniform(0.15, 0.35)
    thing.solid(Shape.ELLIPSOID, style.fabric(), (0, 0, 0.4 * size), (size, 0.9 * size, 0.4 * size))
    return thing


def toys(dice: Dice, style: Style) -> Item:
    """Bricks, cones and balls in a heap."""
    thing = Item()
    for k in range(dice.integer(3, 8)):
        size, material = dice.uniform(0.02, 0.06), dice.pick(style.plastics)
        shape = dice.pick([Shape.BOX, Shape.BOX, Shape.ELLIPSOID, Shape.FRUSTUM])
        place = (0.12 * math.sqrt(k) * math.cos(2.4 * k), 0.12 * math.sqrt(k) * math.sin(2.4 * k), size)
        upright = 1.0 if shape == Shape.FRUSTUM else dice.uniform(0.5, 1.0)
        turn = (dice.turn(), 0.0 if shape == Shape.FRUSTUM else dice.around(0, 0.3), 0.0)
        thing.solid(shape, material, place, (size, size * upright, size), turn=turn, taper=dice.pick([0.0, 1.0]))
    return thing


def suitcase(dice: Dice, style: Style) -> Item:
    """A bag or case standing or leaning."""
    thing, material, lean = Item(), dice.pick([*style.plastics, style.upholstery[1]]), dice.around(0, 0.12)
    thing.solid(Shape.BOX, material, (0, 0, 0.3), (0.2, 0.11, 0.28), turn=(0, 0, lean))
    thing.solid(Shape.BOX, style.black, (0, -0.28 * math.sin(lean), 0.62), (0.07, 0.01, 0.05), turn=(0, 0, lean))
    return thing


ON_TABLES: tuple[Maker, ...] = (
    cup, cup, bottle, bowl, plate, ball, block, block, papers, papers, book_pile, stand, laptop, monitor, plant, vase,
    table_lamp,
)  # fmt: skip
"""What stands on tables and shelves; those named twice are common."""

ON_FLOORS: tuple[Maker, ...] = (ball, carton, carton, bin_, cushion, toys, suitcase, book_pile, papers, block, plant)
"""What lies on floors."""
