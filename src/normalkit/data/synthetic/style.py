"""The materials of one room, chosen to go together."""

from __future__ import annotations

import colorsys

from normalkit.data.synthetic.dice import Dice
from normalkit.data.synthetic.materials import Material, Pattern

__all__ = ["Style"]

Colour = tuple[float, float, float]

WOODS = ((0.075, 0.45, 0.62), (0.08, 0.5, 0.42), (0.06, 0.6, 0.28), (0.085, 0.35, 0.75), (0.05, 0.65, 0.4))
"""Hue, saturation and value of oak, walnut, wenge, birch and cherry."""


class Style:
    """Makes the materials of a room and keeps them.

    Args:
        dice: Decides the room's woods, metals and main colours.

    Attributes:
        materials: Every material made so far; the methods return indices into it.
    """

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.materials: list[Material] = []
        self.hue = dice.uniform()
        self.woods = [self._wood(), self._wood()]
        self.metal = self.add(Pattern.PLAIN, self._grey(0.25, 0.75), gloss=0.9, sharpness=dice.uniform(20, 90))
        self.white = self.add(Pattern.PLAIN, self._grey(0.7, 0.92), gloss=0.2, sharpness=30)
        self.black = self.add(Pattern.PLAIN, self._grey(0.02, 0.15), gloss=0.5, sharpness=40)
        self.fronts = dice.pick([self.woods[0], self.white, self.lacquer(), self.lacquer()])
        self.upholstery = [self.fabric(), self.fabric()]
        self.papers = [self.paper() for _ in range(6)]
        self.plastics = [self.lacquer() for _ in range(6)]

    def add(
        self,
        pattern: Pattern,
        first: Colour,
        second: Colour | None = None,
        third: Colour | None = None,
        *,
        scale: float = 0.1,
        gloss: float = 0.0,
        sharpness: float = 20.0,
        grain: float = 0.05,
        glow: float = 0.0,
    ) -> int:
        """Keep a material and return its index."""
        second = second or first
        self.materials.append(Material(pattern, first, second, third or second, scale, gloss, sharpness, grain, glow))
        return len(self.materials) - 1

    def wood(self) -> int:
        """One of the room's two woods."""
        return self.dice.pick(self.woods)

    def lacquer(self) -> int:
        """A smooth, coloured, shiny surface: paint, plastic or ceramic."""
        return self.add(
            Pattern.PLAIN, self._any(), gloss=self.dice.uniform(0.1, 0.8), sharpness=self.dice.uniform(15, 80)
        )

    def paper(self) -> int:
        """A printed cover or page."""
        pale = self.dice.chance(0.4)
        first = self._grey(0.75, 0.95) if pale else self._any()
        return self.add(
            Pattern.PRINT, first, self._grey(0.02, 0.2) if pale else self._any(), self._any(), scale=0.2, gloss=0.15
        )

    def fabric(self) -> int:
        """Cloth, leather or a rough weave."""
        pattern = self.dice.pick(
            [Pattern.MOTTLED, Pattern.MOTTLED, Pattern.PLAIN, Pattern.STRIPES, Pattern.PLAID, Pattern.DOTS]
        )
        leather = pattern == Pattern.PLAIN and self.dice.chance(0.5)
        return self.add(
            pattern,
            self._any(),
            self._any(),
            self._any(),
            scale=self.dice.uniform(0.04, 0.2),
            gloss=0.3 if leather else 0.0,
            grain=self.dice.uniform(0.05, 0.25),
        )

    def worktop(self) -> int:
        """Stone or wood to cook on."""
        if self.dice.chance(0.35):
            return self.wood()
        pattern = self.dice.pick([Pattern.SPECKLED, Pattern.SPECKLED, Pattern.MARBLE, Pattern.PLAIN])
        return self.add(pattern, self._grey(0.03, 0.8), self._grey(0.03, 0.8), scale=0.04, gloss=0.6, sharpness=50)

    def wall(self) -> int:
        """Paint or plaster, now and then paper, brick, tiles or panelling."""
        dice = self.dice
        kind = dice.uniform()
        if kind < 0.62:
            base = self._tint(0.35 if dice.chance(0.3) else 0.1, 0.5, 0.95)
            darker = tuple(0.9 * x for x in base)
            return self.add(Pattern.MOTTLED, base, (darker[0], darker[1], darker[2]), scale=2.0, grain=0.03)
        if kind < 0.72:
            base = (0.045 + dice.uniform(-0.02, 0.04), dice.uniform(0.3, 0.6), dice.uniform(0.35, 0.65))
            return self.add(
                Pattern.BRICKS,
                self._hsv(*base),
                self._hsv(base[0], base[1], 0.7 * base[2]),
                self._grey(0.4, 0.7),
                scale=0.24,
                grain=0.15,
            )
        if kind < 0.82:
            base = self._tint(0.3, 0.5, 0.95)
            return self.add(
                Pattern.TILES,
                base,
                self._near(base),
                self._grey(0.3, 0.9),
                scale=dice.uniform(0.06, 0.3),
                gloss=0.6,
                sharpness=60,
            )
        if kind < 0.88:
            return self._wood(Pattern.PARQUET, scale=dice.uniform(0.08, 0.2))
        base = self._tint(0.4, 0.5, 0.95)
        pattern = dice.pick([Pattern.STRIPES, Pattern.DOTS, Pattern.PLAID])
        return self.add(pattern, base, self._near(base), self._near(base), scale=dice.uniform(0.1, 0.35))

    def floor(self) -> int:
        """Boards, tiles, stone or carpet."""
        dice = self.dice
        kind = dice.uniform()
        if kind < 0.45:
            return self._wood(Pattern.PARQUET, scale=dice.uniform(0.06, 0.2))
        if kind < 0.65:
            base = self._tint(0.2, 0.15, 0.85)
            return self.add(
                Pattern.TILES,
                base,
                self._near(base),
                self._grey(0.2, 0.8),
                scale=dice.uniform(0.2, 0.6),
                gloss=dice.uniform(0, 0.7),
                sharpness=50,
            )
        if kind < 0.72:
            return self.add(
                Pattern.CHECKER, self._grey(0.5, 0.9), self._any(), scale=dice.uniform(0.15, 0.45), gloss=0.4
            )
        pattern = dice.pick([Pattern.MOTTLED, Pattern.SPECKLED, Pattern.STRIPES, Pattern.MARBLE])
        base = self._tint(0.4, 0.15, 0.75)
        return self.add(pattern, base, self._near(base), self._near(base), scale=dice.uniform(0.05, 0.3), grain=0.2)

    def ceiling(self) -> int:
        """White paint, panels or boards."""
        kind = self.dice.uniform()
        if kind < 0.75:
            base = self._grey(0.75, 0.95)
            return self.add(
                Pattern.MOTTLED, base, (0.93 * base[0], 0.93 * base[1], 0.93 * base[2]), scale=3.0, grain=0.015
            )
        if kind < 0.9:
            return self.add(
                Pattern.TILES, self._grey(0.75, 0.9), self._grey(0.75, 0.9), self._grey(0.5, 0.65), scale=0.6
            )
        return self._wood(Pattern.PARQUET, scale=0.12)

    def rug(self) -> int:
        """A carpet with a border."""
        pattern = self.dice.pick([Pattern.RUG, Pattern.RUG, Pattern.STRIPES, Pattern.MOTTLED, Pattern.PLAID])
        return self.add(pattern, self._any(), self._any(), self._any(), scale=self.dice.uniform(0.08, 0.25), grain=0.3)

    def picture(self) -> int:
        """A painting or poster."""
        pattern = self.dice.pick([Pattern.PICTURE, Pattern.PICTURE, Pattern.PRINT])
        return self.add(
            pattern, self._any(), self._any(), self._any(), scale=0.5, gloss=self.dice.uniform(0, 0.5), sharpness=80
        )

    def screen(self) -> int:
        """A display, on or off."""
        if self.dice.chance(0.5):
            return self.add(Pattern.PLAIN, (0.01, 0.01, 0.012), gloss=0.9, sharpness=100, grain=0)
        return self.add(Pattern.SCREEN, self._any(), self._any(), self._grey(0.6, 0.95), scale=0.5, grain=0, glow=1.2)

    def shade(self) -> int:
        """A lampshade, lit from within."""
        return self.add(
            Pattern.PLAIN, self._hsv(0.1, self.dice.uniform(0.1, 0.5), 0.9), glow=self.dice.uniform(0.8, 2.5)
        )

    def bulb(self) -> int:
        """The light itself."""
        return self.add(Pattern.PLAIN, (1.0, 0.92, 0.8), glow=8.0, grain=0)

    def outdoors(self, brightness: float) -> int:
        """What is seen through a window."""
        sky = self._hsv(0.58, self.dice.uniform(0, 0.5), 1.0)
        ground = self._hsv(self.dice.uniform(0.05, 0.4), self.dice.uniform(0.1, 0.6), self.dice.uniform(0.2, 0.6))
        return self.add(Pattern.OUTDOORS, sky, ground, (1.0, 1.0, 1.0), grain=0, glow=brightness)

    def leaves(self) -> int:
        """A plant."""
        hue = self.dice.uniform(0.2, 0.4)
        return self.add(
            Pattern.MOTTLED,
            self._hsv(hue, 0.7, 0.4),
            self._hsv(hue, 0.6, self.dice.uniform(0.3, 0.8)),
            scale=0.08,
            gloss=0.2,
            grain=0.3,
        )

    def cardboard(self) -> int:
        """A brown box."""
        return self.add(Pattern.PLAIN, self._hsv(0.08, 0.45, self.dice.uniform(0.5, 0.75)), grain=0.1)

    def _wood(self, pattern: Pattern = Pattern.WOOD, *, scale: float | None = None) -> int:
        dice = self.dice
        hue, saturation, value = dice.pick(WOODS)
        saturation, value = saturation * dice.uniform(0.6, 1.15), min(0.95, value * dice.uniform(0.7, 1.3))
        light, dark = self._hsv(hue, saturation, value), self._hsv(hue - 0.01, min(1, 1.1 * saturation), 0.66 * value)
        scale = scale or dice.uniform(0.1, 0.3)
        return self.add(pattern, light, dark, scale=scale, gloss=dice.uniform(0.05, 0.5), sharpness=30, grain=0.06)

    def _hsv(self, hue: float, saturation: float, value: float) -> Colour:
        """Hue, saturation and value as they look, so squared to be linear."""
        red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
        return (red**2.2, green**2.2, blue**2.2)

    def _grey(self, low: float, high: float) -> Colour:
        return self._hsv(self.dice.uniform(0.05, 0.15), self.dice.uniform(0, 0.08), self.dice.uniform(low, high))

    def _tint(self, saturation: float, low: float, high: float) -> Colour:
        hue = self.dice.around(self.hue, 0.15) if self.dice.chance(0.5) else self.dice.uniform(0.05, 0.2)
        return self._hsv(hue, self.dice.uniform(0, saturation), self.dice.uniform(low, high))

    def _near(self, base: Colour) -> Colour:
        factor = self.dice.uniform(0.6, 1.25)
        return (min(0.9, base[0] * factor), min(0.9, base[1] * factor), min(0.9, base[2] * factor))

    def _any(self) -> Colour:
        if self.dice.chance(0.3):
            return self._grey(0.1, 0.95)
        saturation = 0.1 + 0.85 * self.dice.uniform() ** 1.4
        return self._hsv(self.dice.uniform(), saturation, self.dice.uniform(0.2, 0.95))
