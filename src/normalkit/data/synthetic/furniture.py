"""Furniture: tables, seats, beds, shelves, cupboards, kitchens, lamps and what hangs on walls.

To add a piece, write a function (dice, style) -> Item and name it in one of the tuples at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from normalkit.data.synthetic.clutter import LIFT, book_row, plant, scatter
from normalkit.data.synthetic.dice import Dice
from normalkit.data.synthetic.item import FOOT, FRONT, TOP, Item, Lamp, Place
from normalkit.data.synthetic.shapes import Shape
from normalkit.data.synthetic.style import Style

__all__ = ["AGAINST_WALLS", "IN_THE_ROOM", "ON_CEILINGS", "ON_WALLS"]


def _legs(
    item: Item, material: int, x: float, y: tuple[float, float], top: float, thick: float, *, turned: bool
) -> None:
    """Four legs at (+-x, y0 or y1), square or turned on a lathe."""
    for side in (-1, 1):
        for depth in y:
            if turned:
                item.post(material, side * x, depth, (0, top), thick, taper=-0.4)
            else:
                item.box(material, (side * x - thick, side * x + thick), (depth - thick, depth + thick), (0, top))


def table(dice: Dice, style: Style) -> Item:
    """A dining or coffee table, square or round, with things on it and chairs about it."""
    item, wood, low = Item(), style.wood(), dice.chance(0.3)
    height = dice.uniform(0.35, 0.5) if low else dice.uniform(0.68, 0.8)
    thick = dice.uniform(0.015, 0.04)
    if dice.chance(0.25):
        radius = dice.uniform(0.3, 0.6)
        item.post(wood, 0, radius, (height - thick, height), radius)
        item.post(wood, 0, radius, (0, height - thick), 0.05)
        item.post(wood, 0, radius, (0, 0.04), 0.5 * radius, taper=0.4)
        wide, deep, inset = radius, 2 * radius, 0.3 * radius
    else:
        wide, deep, inset = dice.uniform(0.35, 0.95), dice.uniform(0.55, 1.0), 0.02
        leg = dice.uniform(0.02, 0.05)
        item.box(wood, (-wide, wide), (0, deep), (height - thick, height))
        _legs(item, wood, wide - 1.5 * leg, (1.5 * leg, deep - 1.5 * leg), height - thick, leg, turned=dice.chance(0.3))
        if dice.chance(0.6):
            item.box(
                wood, (3 * leg - wide, wide - 3 * leg), (0.05, deep - 0.05), (height - thick - 0.08, height - thick)
            )
    item.places.append(Place(inset - wide, wide - inset, inset, deep - inset, height, 0.6))
    scatter(item, dice, style, count=dice.integer(1, 9))
    if not low:
        _seat_around(item, dice, style, wide, deep)
    return item


def _seat_around(item: Item, dice: Dice, style: Style, wide: float, deep: float) -> None:
    """Equal chairs on some sides, pulled out by different amounts."""
    seat = chair(dice, style)
    sides = [
        (0.0, deep + 0.35, math.pi),
        (0.0, -0.35, 0.0),
        (wide + 0.35, 0.5 * deep, 0.5 * math.pi),
        (-wide - 0.35, 0.5 * deep, -0.5 * math.pi),
    ]
    for x, y, yaw in sides:
        if dice.chance(0.55):
            # The chair's origin is its back: it stands behind the seat, turned to the table.
            item.put(seat, x + dice.around(0, 0.08), y + dice.around(0, 0.05), 0, yaw + dice.around(0, 0.2))


def chair(dice: Dice, style: Style) -> Item:
    """A seat on four legs and a back of slats, bars or one board."""
    item, wood = Item(), dice.pick([*style.woods, style.metal, style.black])
    seat = dice.pick([wood, *style.upholstery])
    wide, deep, height = dice.uniform(0.19, 0.24), dice.uniform(0.38, 0.45), dice.uniform(0.42, 0.48)
    leg, top = dice.uniform(0.012, 0.022), height + dice.uniform(0.35, 0.55)
    item.box(seat, (-wide, wide), (0, deep), (height - 0.04, height))
    _legs(item, wood, wide - leg, (leg, deep - leg), height - 0.04, leg, turned=dice.chance(0.4))
    lean = dice.uniform(0.03, 0.2)
    kind = dice.integer(0, 2)
    half, middle = 0.5 * (top - height), 0.5 * (top + height)

    def back(x: float, z: float, size: tuple[float, float, float], material: int) -> None:
        y = 0.015 - (z - height) * math.tan(lean)
        item.solid(Shape.BOX, material, (x, y, z), size, turn=(0, 0, lean))

    if kind == 0:
        back(0, middle + 0.05, (wide, 0.012, half - 0.02), seat)
    else:
        for side in (-1, 1):
            back(side * (wide - leg), middle, (leg, leg, half), wood)
        back(0, top - 0.04, (wide, 0.012, 0.04), wood)
        for k in range(3):
            if kind == 1:
                back(0, height + 0.1 + 0.25 * k * half * 2, (wide, 0.008, 0.02), wood)
            else:
                back(0.45 * (k - 1) * wide, middle, (0.02, 0.008, half), wood)
    return item


def stool(dice: Dice, style: Style) -> Item:
    """A round seat on a column or splayed legs."""
    item, height, radius = Item(), dice.uniform(0.4, 0.75), dice.uniform(0.14, 0.2)
    item.post(dice.pick([style.wood(), *style.upholstery]), 0, radius, (height - 0.05, height), radius)
    if dice.chance(0.5):
        item.post(style.metal, 0, radius, (0, height - 0.05), 0.025)
        item.post(style.metal, 0, radius, (0, 0.03), radius, taper=0.3)
        return item
    wood = style.wood()
    for k in range(4):
        yaw = math.pi * (0.25 + 0.5 * k)
        place = (0.75 * radius * math.cos(yaw), radius + 0.75 * radius * math.sin(yaw), 0.5 * height - 0.03)
        item.solid(Shape.FRUSTUM, wood, place, (0.015, 0.015, 0.5 * height - 0.02), turn=(yaw, -0.12, 0))
    return item


def sofa(dice: Dice, style: Style) -> Item:
    """A sofa or armchair: base, back, arms, cushions."""
    item, cloth, seats = Item(), dice.pick(style.upholstery), dice.pick([1, 2, 2, 3])
    wide, deep = 0.34 * seats + 0.02, dice.uniform(0.75, 0.95)
    height, arm, tall = dice.uniform(0.3, 0.36), dice.uniform(0.08, 0.18), dice.uniform(0.7, 0.95)
    item.box(cloth, (-wide, wide), (0.05, deep - 0.02), (0.08, height))
    item.solid(Shape.BOX, cloth, (0, 0.16, 0.5 * (0.08 + tall)), (wide, 0.1, 0.5 * (tall - 0.08)), turn=(0, 0, 0.1))
    for side in (-1, 1):
        x = (side * wide, side * (wide + arm)) if side > 0 else (-wide - arm, -wide)
        item.box(cloth, x, (0.03, deep), (0.08, height + 0.22))
        if dice.chance(0.5):
            place = (0.5 * (x[0] + x[1]), 0.5 * deep, height + 0.22)
            item.solid(Shape.FRUSTUM, cloth, place, (0.62 * arm, 0.62 * arm, 0.5 * deep), turn=(0, 0, 0.5 * math.pi))
    for k in range(seats):
        x0 = -wide + 2 * wide * k / seats
        item.box(cloth, (x0 + 0.008, x0 + 2 * wide / seats - 0.008), (0.26, deep), (height, height + 0.13))
        middle = x0 + wide / seats
        if dice.chance(0.5):
            place = (middle + dice.around(0, 0.08), 0.38, height + 0.32)
            item.solid(
                Shape.ELLIPSOID,
                style.fabric(),
                place,
                (0.22, 0.09, 0.21),
                turn=(dice.around(0, 0.3), dice.around(0, 0.3), 0.35),
            )
    _legs(item, style.wood(), wide - 0.04, (0.1, deep - 0.08), 0.08, 0.025, turned=True)
    item.places.append(Place(-wide, wide, 0.35, deep, height + 0.13, 0.6))
    scatter(item, dice, style, count=dice.integer(0, 1))
    return item


def bed(dice: Dice, style: Style) -> Item:
    """Frame, headboard, mattress, blanket and pillows; its head at the wall."""
    item, wood, wide = Item(), style.wood(), dice.pick([0.45, 0.6, 0.8])
    height = dice.uniform(0.25, 0.4)
    item.box(wood, (-wide - 0.03, wide + 0.03), (0, 0.05), (0, dice.uniform(0.7, 1.2)))
    item.box(wood, (-wide - 0.03, wide + 0.03), (0.05, 2.05), (0.12, height))
    _legs(item, wood, wide - 0.02, (0.1, 2.0), 0.12, 0.03, turned=False)
    item.box(style.white, (-wide, wide), (0.06, 2.02), (height, height + 0.18))
    end = dice.uniform(0.45, 0.9)
    item.box(style.fabric(), (-wide - 0.015, wide + 0.015), (end, 2.035), (height - 0.08, height + 0.2))
    pillows = 1 if wide < 0.6 else 2
    for k in range(pillows):
        x = wide * (2 * k + 1 - pillows) / pillows
        place = (x, 0.28, height + 0.25)
        item.solid(
            Shape.ELLIPSOID,
            dice.pick([style.white, style.fabric()]),
            place,
            (0.33, 0.2, 0.1),
            turn=(dice.around(0, 0.15), 0, 0.2),
        )
    item.places.append(Place(-wide, wide, end, 2.0, height + 0.2, 0.8))
    scatter(item, dice, style, count=dice.integer(0, 3))
    return item


def bookcase(dice: Dice, style: Style) -> Item:
    """Sides, boards and a back, with rows of books and things between."""
    item, wood = Item(), dice.pick([style.wood(), style.white, style.fronts])
    wide, deep, tall = dice.uniform(0.3, 0.7), dice.uniform(0.22, 0.36), dice.uniform(0.8, 2.1)
    item.box(wood, (-wide, wide), (0, 0.012), (0.05, tall))
    for side in (-1, 1):
        item.box(wood, (side * wide - 0.012, side * wide + 0.012), (0, deep), (0, tall))
    shelves = max(2, round(tall / dice.uniform(0.3, 0.45)))
    step = (tall - 0.06) / shelves
    for k in range(shelves + 1):
        z = 0.06 + k * step
        item.box(wood, (-wide, wide), (0, deep - 0.005), (z - 0.02, z))
        if k == shelves:
            item.places.append(Place(-wide, wide, 0.02, deep, z, 0.5))
        elif dice.chance(0.7):
            row = book_row(dice, style, width=2 * wide - 0.06, height=min(step - 0.04, 0.32), depth=deep)
            item.put(row, 0.02 - wide, 0.012, z)
        else:
            item.places.append(Place(-wide, wide, 0.02, deep, z, step - 0.03))
    scatter(item, dice, style, count=dice.integer(1, 8))
    return item


def cupboard(dice: Dice, style: Style) -> Item:
    """A wardrobe, sideboard or chest: a body with doors or drawers and their handles."""
    item, material = Item(), dice.pick([style.fronts, style.wood()])
    wide, deep = dice.uniform(0.3, 0.8), dice.uniform(0.35, 0.6)
    tall = dice.pick([dice.uniform(0.5, 0.95), dice.uniform(1.6, 2.2)])
    item.box(material, (-wide, wide), (0, deep), (0.06, tall))
    item.box(style.black, (0.02 - wide, wide - 0.02), (0, deep - 0.04), (0, 0.06))
    item.box(material, (-wide - 0.01, wide + 0.01), (0, deep + 0.015), (tall, tall + 0.02))
    _fronts(item, dice, style, material, (-wide, wide), deep, (0.07, tall - 0.01))
    item.places.append(Place(-wide, wide, 0.02, deep, tall + 0.02, 0.5))
    scatter(item, dice, style, count=dice.integer(0, 5))
    return item


def _fronts(
    item: Item, dice: Dice, style: Style, material: int, x: tuple[float, float], deep: float, z: tuple[float, float]
) -> None:
    """Doors side by side or drawers above each other, each with a bar, knob or no handle."""
    columns = max(1, round((x[1] - x[0]) / dice.uniform(0.4, 0.6)))
    rows = dice.integer(2, 4) if z[1] - z[0] < 1.2 and dice.chance(0.5) else 1
    handle, metal = dice.pick(["bar", "bar", "knob", "none"]), dice.pick([style.metal, style.black])
    width, height = (x[1] - x[0]) / columns, (z[1] - z[0]) / rows
    for i in range(columns):
        for j in range(rows):
            x0, z0 = x[0] + i * width, z[0] + j * height
            item.box(
                material, (x0 + 0.004, x0 + width - 0.004), (deep, deep + 0.018), (z0 + 0.004, z0 + height - 0.004)
            )
            hinge = x0 + (0.88 if i % 2 == 0 else 0.12) * width
            if handle == "none":
                continue
            if handle == "knob":
                place = (x0 + 0.5 * width if rows > 1 else hinge, deep + 0.035, z0 + 0.55 * height)
                item.solid(Shape.ELLIPSOID, metal, place, (0.014, 0.018, 0.014))
            elif rows > 1:
                item.box(
                    metal,
                    (x0 + 0.3 * width, x0 + 0.7 * width),
                    (deep + 0.035, deep + 0.045),
                    (z0 + 0.75 * height, z0 + 0.75 * height + 0.01),
                )
            else:
                item.box(
                    metal,
                    (hinge - 0.006, hinge + 0.006),
                    (deep + 0.035, deep + 0.045),
                    (z0 + 0.4 * height, z0 + 0.6 * height + 0.05),
                )


def kitchen(dice: Dice, style: Style) -> Item:
    """A worktop over cupboards, with a sink, a hob, perhaps wall cupboards and a tall fridge."""
    item, front, top = Item(), style.fronts, style.worktop()
    wide, deep, height = dice.uniform(0.8, 1.6), dice.uniform(0.55, 0.65), dice.uniform(0.84, 0.92)
    item.box(front, (-wide, wide), (0, deep - 0.02), (0.1, height - 0.03))
    item.box(style.black, (-wide, wide), (0, deep - 0.07), (0, 0.1))
    item.box(top, (-wide - 0.01, wide + 0.01), (0, deep + 0.03), (height - 0.03, height))
    _fronts(item, dice, style, front, (-wide, wide), deep - 0.02, (0.11, height - 0.04))
    sink = dice.uniform(0.3 - wide, wide - 0.3)
    item.box(style.metal, (sink - 0.25, sink + 0.25), (0.1, deep - 0.08), (height, height + 0.006))
    item.box(style.black, (sink - 0.2, sink + 0.2), (0.15, deep - 0.13), (height + 0.005, height + 0.008))
    item.post(style.metal, sink, 0.08, (height, height + 0.25), 0.012)
    item.solid(Shape.FRUSTUM, style.metal, (sink, 0.17, height + 0.25), (0.01, 0.01, 0.1), turn=(0, 0, 0.5 * math.pi))
    if dice.chance(0.5):
        hob = dice.uniform(0.3 - wide, wide - 0.3)
        item.box(style.black, (hob - 0.27, hob + 0.27), (0.06, deep - 0.06), (height, height + 0.01))
        if dice.chance(0.6):
            item.post(style.metal, hob - 0.1, 0.2, (height + 0.012, height + 0.16), 0.1, openings=TOP)
    if dice.chance(0.6):
        low, high, shift = height + dice.uniform(0.45, 0.6), height + dice.uniform(1.0, 1.3), dice.uniform(0, 0.4)
        item.box(front, (shift - wide, wide), (0, 0.32), (low, high))
        _fronts(item, dice, style, front, (shift - wide, wide), 0.32, (low, high))
    if dice.chance(0.4):
        fridge, tall = dice.pick([style.white, style.metal, style.black]), dice.uniform(1.5, 2.0)
        item.box(fridge, (wide + 0.02, wide + 0.62), (0, deep), (0.02, tall))
        _fronts(item, dice, style, fridge, (wide + 0.02, wide + 0.62), deep, (0.04, tall - 0.01))
    item.places.extend([Place(-wide, wide, 0.03, deep, height, 0.42)] * 2)
    scatter(item, dice, style, count=dice.integer(4, 14))
    return item


def desk(dice: Dice, style: Style) -> Item:
    """A worktop with drawers on one side, a monitor or laptop among the things on it, and a chair."""
    item, wood = Item(), dice.pick([style.wood(), style.white])
    wide, deep, height = dice.uniform(0.5, 0.85), dice.uniform(0.55, 0.8), dice.uniform(0.7, 0.76)
    item.box(wood, (-wide, wide), (0, deep), (height - 0.03, height))
    body = dice.pick([style.fronts, wood])
    item.box(body, (wide - 0.42, wide - 0.02), (0.02, deep - 0.04), (0.03, height - 0.03))
    _fronts(item, dice, style, body, (wide - 0.42, wide - 0.02), deep - 0.04, (0.04, height - 0.04))
    item.box(wood, (-wide, 0.04 - wide), (0.02, deep - 0.02), (0, height - 0.03))
    item.places.append(Place(-wide, wide, 0.05, deep - 0.05, height, 0.7))
    scatter(item, dice, style, count=dice.integer(3, 10))
    if dice.chance(0.7):
        item.put(chair(dice, style), -0.2 + dice.around(0, 0.1), deep + 0.4, 0, math.pi + dice.around(0, 0.4))
    return item


def television(dice: Dice, style: Style) -> Item:
    """A low sideboard with a screen on it."""
    item, wide, height = Item(), dice.uniform(0.5, 0.9), dice.uniform(0.35, 0.55)
    body = dice.pick([style.fronts, style.wood()])
    item.box(body, (-wide, wide), (0, 0.4), (0.08, height))
    _fronts(item, dice, style, body, (-wide, wide), 0.4, (0.09, height - 0.01))
    _legs(item, style.black, wide - 0.05, (0.05, 0.35), 0.08, 0.02, turned=False)
    half = dice.uniform(0.35, 0.65)
    tall = 0.58 * half
    item.box(style.black, (-half, half), (0.16, 0.2), (height + 0.06, height + 0.08 + 2 * tall))
    item.box(style.screen(), (0.02 - half, half - 0.02), (0.19, 0.203), (height + 0.08, height + 0.06 + 2 * tall))
    item.box(style.black, (-0.2, 0.2), (0.08, 0.28), (height, height + 0.02))
    item.box(style.black, (-0.04, 0.04), (0.15, 0.17), (height, height + 0.1))
    return item


def floor_lamp(dice: Dice, style: Style) -> Item:
    """A pole with a shade, a ball or a tilted bowl."""
    item, tall, radius = Item(), dice.uniform(1.3, 1.75), dice.uniform(0.12, 0.24)
    item.post(style.metal, 0, 0.2, (0, 0.025), 0.14)
    item.post(style.metal, 0, 0.2, (0, tall), 0.012)
    if dice.chance(0.6):
        item.post(
            style.shade(),
            0,
            0.2,
            (tall - 0.05, tall + 1.3 * radius),
            radius,
            taper=dice.uniform(0, 0.5),
            openings=TOP | FOOT,
        )
    else:
        item.solid(Shape.ELLIPSOID, style.shade(), (0, 0.2, tall + 0.6 * radius), (0.7 * radius,) * 3)
    item.lamps.append(Lamp(0, 0.2, tall + 0.5 * radius, 0.1, dice.uniform(0.3, 1.2)))
    return item


def radiator(dice: Dice, style: Style) -> Item:
    """Ribs between two pipes."""
    item, ribs, tall = Item(), dice.integer(6, 12), dice.uniform(0.45, 0.7)
    for k in range(ribs):
        x = 0.07 * (k - 0.5 * (ribs - 1))
        item.box(style.white, (x - 0.027, x + 0.027), (0.04, 0.11), (0.12, 0.12 + tall))
    half = 0.035 * ribs + 0.05
    for z in (0.18, 0.06 + tall):
        item.solid(Shape.FRUSTUM, style.white, (0, 0.07, z), (0.02, 0.02, half), turn=(0, 0.5 * math.pi, 0))
    return item


def big_plant(dice: Dice, style: Style) -> Item:
    """A plant that stands on the floor: a small one, grown."""
    item, small = Item(), plant(dice, style)
    factor = dice.uniform(1.8, 3.2)
    for part in small.parts:
        grown = {name: factor * getattr(part, name) for name in ("x", "y", "z", "half_x", "half_y", "half_z")}
        item.parts.append(part._replace(**grown))
    moved = Item()
    moved.put(item, 0, 0.35, 0)
    return moved


def rack(dice: Dice, style: Style) -> Item:
    """Open metal or wooden shelving with boxes and other things."""
    item, frame = Item(), dice.pick([style.metal, style.wood(), style.black])
    wide, deep, tall = dice.uniform(0.35, 0.6), dice.uniform(0.3, 0.45), dice.uniform(1.0, 2.0)
    _legs(item, frame, wide, (0.015, deep - 0.015), tall, 0.013, turned=False)
    for k in range(4):
        z = 0.12 + k * (tall - 0.14) / 3
        item.box(frame, (-wide, wide), (0, deep), (z - 0.02, z))
        item.places.append(Place(-wide, wide, 0.02, deep, z, 0.28 if k < 3 else 0.6))
    scatter(item, dice, style, count=dice.integer(4, 12))
    return item


def fireplace(dice: Dice, style: Style) -> Item:
    """A hearth: a chimney breast with a dark opening and a mantel."""
    item, stone = Item(), style.wall()
    wide, deep = dice.uniform(0.55, 0.8), dice.uniform(0.25, 0.45)
    for side in (-1, 1):
        item.box(stone, (min(side * wide, side * 0.35), max(side * wide, side * 0.35)), (0, deep), (0, 1.0))
    item.box(stone, (-0.35, 0.35), (0, deep), (0.7, 1.0))
    item.box(style.black, (-0.36, 0.36), (LIFT, deep - 0.01), (LIFT, 0.72), openings=FRONT)
    item.box(style.wood(), (-wide - 0.06, wide + 0.06), (0, deep + 0.06), (1.0, 1.06))
    item.box(stone, (0.1 - wide, wide - 0.1), (0, 0.7 * deep), (1.06, 3.2))
    item.places.append(Place(-wide, wide, 0.7 * deep, deep + 0.05, 1.06, 0.5))
    scatter(item, dice, style, count=3)
    return item


def picture(dice: Dice, style: Style) -> Item:
    """A framed picture, poster or mirror on the wall; its middle is the origin."""
    item, wide, tall = Item(), dice.uniform(0.12, 0.5), dice.uniform(0.12, 0.45)
    if dice.chance(0.7):
        frame = dice.pick([style.wood(), style.black, style.white, style.metal])
        item.box(frame, (-wide - 0.025, wide + 0.025), (0, 0.02), (-tall - 0.025, tall + 0.025))
        item.box(style.picture(), (-wide, wide), (0.01, 0.022), (-tall, tall))
    else:
        item.box(style.picture(), (-wide, wide), (0, 0.004), (-tall, tall))
    return item


def wall_shelf(dice: Dice, style: Style) -> Item:
    """One or two boards on brackets, with books and things."""
    item, wood = Item(), dice.pick([style.wood(), style.white])
    wide, deep = dice.uniform(0.3, 0.75), dice.uniform(0.16, 0.28)
    for k in range(dice.integer(1, 2)):
        z = 0.35 * k
        item.box(wood, (-wide, wide), (0, deep), (z - 0.025, z))
        for side in (-0.8, 0.8):
            item.solid(
                Shape.BOX,
                style.metal,
                (side * wide, 0.4 * deep, z - 0.09),
                (0.01, 0.006, 0.5 * deep),
                turn=(0, 0, -0.8),
            )
        if dice.chance(0.5):
            item.put(book_row(dice, style, width=1.2 * wide, height=0.28, depth=deep), -wide, 0.01, z)
        else:
            item.places.append(Place(-wide, wide, 0.01, deep, z, 0.3))
    scatter(item, dice, style, count=dice.integer(2, 6))
    return item


def notices(dice: Dice, style: Style) -> Item:
    """Leaflets pinned to the wall, or a board of them."""
    item = Item()
    if dice.chance(0.3):
        item.box(style.cardboard(), (-0.5, 0.5), (0, 0.015), (-0.32, 0.32))
    for k in range(dice.integer(2, 7)):
        place = (0.17 * (k - 3) + dice.around(0, 0.02), 0.018, dice.around(0, 0.1))
        half = (dice.uniform(0.05, 0.09), 0.003, dice.uniform(0.07, 0.12))
        item.solid(Shape.BOX, dice.pick(style.papers), place, half, turn=(0, dice.around(0, 0.08), 0))
    return item


def clock(dice: Dice, style: Style) -> Item:
    """A round dial with two hands."""
    item, radius = Item(), dice.uniform(0.1, 0.18)
    item.solid(Shape.FRUSTUM, style.black, (0, 0.015, 0), (radius, radius, 0.015), turn=(0, 0, 0.5 * math.pi))
    item.solid(
        Shape.FRUSTUM, style.white, (0, 0.02, 0), (0.9 * radius, 0.9 * radius, 0.015), turn=(0, 0, 0.5 * math.pi)
    )
    for long in (0.4, 0.65):
        angle = dice.turn()
        place = (0.5 * long * radius * math.sin(angle), 0.037, 0.5 * long * radius * math.cos(angle))
        item.solid(Shape.BOX, style.black, place, (0.007, 0.002, 0.5 * long * radius), turn=(0, angle, 0))
    return item


def pendant(dice: Dice, style: Style) -> Item:
    """A lamp that hangs from the ceiling, at z = 0, by a cable."""
    item, drop, radius = Item(), dice.uniform(0.15, 0.7), dice.uniform(0.1, 0.25)
    item.post(style.black, 0, 0, (-drop, 0), 0.006)
    if dice.chance(0.5):
        item.solid(
            Shape.ELLIPSOID,
            style.shade(),
            (0, 0, -drop - 0.8 * radius),
            (radius, radius, radius * dice.uniform(0.6, 1)),
        )
    else:
        item.post(style.lacquer(), 0, 0, (-drop - radius, -drop), radius, taper=dice.uniform(0.3, 0.9), openings=FOOT)
        item.solid(Shape.ELLIPSOID, style.bulb(), (0, 0, -drop - 0.8 * radius), (0.04, 0.04, 0.05))
    item.lamps.append(Lamp(0, 0, -drop - 1.1 * radius, 0.12, dice.uniform(0.6, 1.6)))
    return item


def panel_light(dice: Dice, style: Style) -> Item:
    """Flat lights or tubes on the ceiling."""
    item = Item()
    if dice.chance(0.5):
        item.box(style.white, (-0.31, 0.31), (-0.31, 0.31), (-0.03, 0))
        item.box(style.bulb(), (-0.28, 0.28), (-0.28, 0.28), (-0.035, -0.02))
    else:
        item.box(style.white, (-0.08, 0.08), (-0.62, 0.62), (-0.05, 0))
        item.solid(Shape.FRUSTUM, style.bulb(), (0, 0, -0.06), (0.02, 0.02, 0.58), turn=(0, 0, 0.5 * math.pi))
    item.lamps.append(Lamp(0, 0, -0.12, 0.3, dice.uniform(0.8, 1.6)))
    return item


def spots(dice: Dice, style: Style) -> Item:
    """A rail with small lights."""
    item, count = Item(), dice.integer(2, 4)
    item.box(style.metal, (-0.5, 0.5), (-0.015, 0.015), (-0.03, 0))
    for k in range(count):
        x = -0.45 + 0.9 * k / (count - 1)
        tilt = dice.around(0, 0.4)
        item.solid(
            Shape.FRUSTUM,
            style.metal,
            (x, 0, -0.1),
            (0.045, 0.045, 0.05),
            taper=0.4,
            openings=FOOT,
            turn=(0, tilt, dice.around(0, 0.4)),
        )
        item.solid(Shape.ELLIPSOID, style.bulb(), (x, 0, -0.11), (0.025, 0.025, 0.025))
    item.lamps.append(Lamp(0, 0, -0.2, 0.25, dice.uniform(0.6, 1.3)))
    return item


Maker = Callable[[Dice, Style], Item]

AGAINST_WALLS: tuple[Maker, ...] = (
    bookcase, bookcase, cupboard, cupboard, kitchen, kitchen, desk, desk, sofa, bed, television, radiator, rack,
    floor_lamp, big_plant, fireplace, chair, table,
)  # fmt: skip
"""What stands with its back to a wall; those named twice are common."""

IN_THE_ROOM: tuple[Maker, ...] = (table, table, table, chair, chair, stool, sofa, floor_lamp, big_plant)
"""What stands anywhere on the floor."""

ON_WALLS: tuple[Maker, ...] = (picture, picture, picture, wall_shelf, wall_shelf, notices, clock)
"""What hangs; its origin is on the wall."""

ON_CEILINGS: tuple[Maker, ...] = (pendant, pendant, panel_light, spots)
"""Lamps; their origin is on the ceiling."""
