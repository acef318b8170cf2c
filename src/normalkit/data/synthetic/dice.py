"""Random choices for building scenes, drawn in blocks because thousands of single draws would be slow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

__all__ = ["Dice"]

T = TypeVar("T")


class Dice:
    """A stream of random choices that depends on its seed alone.

    Args:
        generator: Where the numbers come from.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self._numbers = self._stream(generator)

    @staticmethod
    def _stream(generator: np.random.Generator) -> Iterator[float]:
        while True:
            yield from generator.random(1024).tolist()

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * next(self._numbers)

    def around(self, mean: float, deviation: float) -> float:
        """A number about `mean`, nearly normal and never farther than 3.5 deviations."""
        total = next(self._numbers) + next(self._numbers) + next(self._numbers) + next(self._numbers) - 2.0
        return mean + deviation * total * math.sqrt(3.0)

    def chance(self, probability: float) -> bool:
        """True with some probability."""
        return next(self._numbers) < probability

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int((high - low + 1) * next(self._numbers))

    def pick(self, choices: Sequence[T]) -> T:
        """One of several."""
        return choices[int(len(choices) * next(self._numbers))]

    def turn(self) -> float:
        """An angle in radians, anywhere on the circle."""
        return self.uniform(-math.pi, math.pi)
