"""What surfaces look like: colours, patterns and gloss, evaluated at points of a part.

A pattern is a function of two coordinates in metres on the surface. It fades to its mean where it is finer than a
pixel, so that it does not flicker.
"""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Material", "Pattern", "Spots", "colour", "noise"]

Array = NDArray[Any]
Colour = tuple[float, float, float]

NOISE_SIZE = 256


class Pattern(enum.IntEnum):
    """How a material mixes its colours; `scale` is the size in metres of one repeat."""

    PLAIN = 0
    MOTTLED = 1
    WOOD = 2
    PARQUET = 3
    TILES = 4
    CHECKER = 5
    STRIPES = 6
    BRICKS = 7
    PLAID = 8
    MARBLE = 9
    SPECKLED = 10
    DOTS = 11
    RUG = 12
    PICTURE = 13
    PRINT = 14
    SCREEN = 15
    OUTDOORS = 16


class Material(NamedTuple):
    """One material; colours are linear reflectances in [0, 1].

    Attributes:
        pattern: How the colours mix.
        first: The main colour.
        second: The other colour.
        third: Of joints and borders.
        scale: Metres of one repeat.
        gloss: Strength of the highlight, 0 to 1.
        sharpness: Exponent of the highlight.
        grain: Relative strength of the fine noise laid over every pattern.
        glow: Light it gives off itself, times its colour; 0 for all but lamps and screens.
    """

    pattern: Pattern
    first: Colour
    second: Colour = (0.5, 0.5, 0.5)
    third: Colour = (0.5, 0.5, 0.5)
    scale: float = 0.1
    gloss: float = 0.0
    sharpness: float = 20.0
    grain: float = 0.05
    glow: float = 0.0


@dataclass(frozen=True)
class Spots:
    """Points on surfaces that share one pattern; arrays of N points.

    Attributes:
        u: Metres along the surface, across the grain.
        v: Metres along the surface and along the grain.
        a: The same place, -1 to 1 over the face.
        b: The same place, -1 to 1 over the face.
        footprint: Metres that one pixel covers.
        first: (3, N), and so on for the other fields of `Material`.
        second: (3, N).
        third: (3, N).
        scale: (N,).
        phase: (N,) a number in [0, 1) of the part, so that equal materials do not repeat from part to part.
    """

    u: Array
    v: Array
    a: Array
    b: Array
    footprint: Array
    first: Array
    second: Array
    third: Array
    scale: Array
    phase: Array


@functools.cache
def _noise_levels() -> tuple[Array, Array]:
    """Tileable fractal noise with mean 0.5, flattened at each power of two of its resolution, and their starts."""
    generator = np.random.Generator(np.random.PCG64(20250))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(NOISE_SIZE), np.fft.rfftfreq(NOISE_SIZE), indexing="ij"))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(generator.standard_normal((NOISE_SIZE, NOISE_SIZE))) / np.maximum(frequency, 0.015) ** 1.25
    spectrum[0, 0] = 0
    level = np.fft.irfft2(spectrum, s=(NOISE_SIZE, NOISE_SIZE))
    level = np.clip(0.5 + 0.2 * level / level.std(), 0, 1)
    levels = [level]
    while level.shape[0] > 1:
        level = level.reshape(level.shape[0] // 2, 2, -1, 2).mean((1, 3))
        levels.append(level)
    starts = np.cumsum([0] + [level.size for level in levels[:-1]])
    return np.concatenate([level.ravel() for level in levels]).astype(np.float32), starts


def noise(u: Array, v: Array, footprint: Array | float = 0.0) -> Array:
    """Fractal noise in [0, 1] with mean 0.5 and one repeat a unit.

    Args:
        u: (N,).
        v: (N,).
        footprint: The size of a pixel in the same unit: finer detail is averaged away.
    """
    values, starts = _noise_levels()
    level = np.clip(np.log2(np.maximum(footprint, 1e-6) * NOISE_SIZE), 0, len(starts) - 1).astype(np.intp)
    size = NOISE_SIZE >> level
    x, y = u * size, v * size
    column, row = np.floor(x), np.floor(y)
    x, y = x - column, y - row
    left, top = column.astype(np.intp) & (size - 1), row.astype(np.intp) & (size - 1)
    right = (left + 1) & (size - 1)
    start = starts[level]
    upper = start + top * size
    lower = start + ((top + 1) & (size - 1)) * size
    over = values[upper + left] * (1 - x) + values[upper + right] * x
    under = values[lower + left] * (1 - x) + values[lower + right] * x
    return np.asarray(over * (1 - y) + under * y)


def colour(pattern: Pattern, spots: Spots) -> Array:
    """The linear colour (3, N) of a pattern at some spots, before the material's grain."""
    if pattern == Pattern.PLAIN:
        return spots.first
    return _PATTERNS[pattern](spots)


def _mix(first: Array, second: Array, share: Array) -> Array:
    return np.asarray(first + (second - first) * share)


def _line(position: Array, width: Array | float, footprint: Array) -> Array:
    """How much of a pixel lies in a line of some width about the whole numbers of `position`; all in repeats."""
    distance = np.abs(position - np.round(position))
    sharp = np.clip((0.5 * width - distance) / np.maximum(footprint, 1e-3) + 0.5, 0, 1)
    return _fade(sharp, width, footprint)


def _square(position: Array, footprint: Array) -> Array:
    """A square wave of period 1, 0 or 1, softened by the pixel."""
    distance = 0.25 - np.abs(position - np.floor(position) - 0.5)
    return _fade(np.clip(distance / np.maximum(footprint, 1e-3) + 0.5, 0, 1), 0.5, footprint)


def _fade(value: Array, mean: Array | float, footprint: Array) -> Array:
    keep = np.clip(1.6 - 1.6 * footprint, 0, 1)
    return np.asarray(mean + (value - mean) * keep)


def _hash(*whole: Array) -> Array:
    """A number in [0, 1) from whole numbers."""
    mixed = np.zeros_like(whole[0], dtype=np.int64) + 40503
    for number in whole:
        mixed = (mixed ^ (number.astype(np.int64) & 0xFFFF)) * 73856093 & 0x7FFFFFFF
        mixed ^= mixed >> 13
    return (mixed & 0xFFFF) / 65536.0


def _mottled(s: Spots) -> Array:
    share = noise(s.u / s.scale + s.phase, s.v / s.scale - s.phase, s.footprint / s.scale)
    return _mix(s.first, s.second, np.clip(2 * share - 0.5, 0, 1))


def _wood(s: Spots) -> Array:
    """Noise drawn out along the grain, under broad rings."""
    u, v, footprint = s.u / s.scale + 7 * s.phase, 0.09 * s.v / s.scale + s.phase, s.footprint / s.scale
    wave = noise(u * 0.35, v, footprint * 0.35)
    rings = 0.5 + 0.5 * np.cos(40 * wave + 2 * u)
    fibre = noise(u * 3, v * 2, footprint * 3)
    return _mix(s.first, s.second, np.clip(0.55 * rings * np.clip(1.5 - 4 * footprint, 0, 1) + 0.7 * fibre - 0.1, 0, 1))


def _parquet(s: Spots) -> Array:
    """Boards of one width with staggered ends, each of its own tone."""
    board = np.floor(s.u / s.scale)
    length = 8 * s.scale
    along = s.v / length + _hash(board)
    tone = _fade(_hash(board, np.floor(along)), 0.5, s.footprint / s.scale)
    fibre = noise(s.u / s.scale * 0.7 + tone, 0.06 * s.v / s.scale + tone, 0.7 * s.footprint / s.scale)
    gap = _line(s.u / s.scale, 0.04, s.footprint / s.scale) + _line(along, 0.006, s.footprint / length)
    body = _mix(s.first, s.second, np.clip(0.55 * tone + 0.9 * fibre - 0.25, 0, 1))
    return _mix(body, 0.35 * s.first, 0.7 * np.minimum(gap, 1))


def _tiles(s: Spots) -> Array:
    u, v, footprint = s.u / s.scale, s.v / s.scale, s.footprint / s.scale
    joint = np.maximum(_line(u, 0.05, footprint), _line(v, 0.05, footprint))
    tone = _fade(_hash(np.floor(u), np.floor(v)), 0.5, footprint)
    return _mix(_mix(s.first, s.second, 0.7 * tone), s.third, joint)


def _checker(s: Spots) -> Array:
    footprint = 0.5 * s.footprint / s.scale
    u, v = _square(0.5 * s.u / s.scale, footprint), _square(0.5 * s.v / s.scale, footprint)
    return _mix(s.first, s.second, u + v - 2 * u * v)


def _stripes(s: Spots) -> Array:
    footprint = s.footprint / s.scale
    broad = _square(s.u / s.scale, footprint)
    fine = _line(s.u / s.scale * 2 + 0.5, 0.2, 2 * footprint)
    return _mix(_mix(s.first, s.second, broad), s.third, 0.6 * fine)


def _bricks(s: Spots) -> Array:
    height = s.scale / 3
    row = np.floor(s.v / height)
    along = s.u / s.scale + 0.5 * (row % 2)
    joint = np.maximum(_line(along, 0.05, s.footprint / s.scale), _line(s.v / height, 0.14, s.footprint / height))
    tone = _fade(_hash(np.floor(along), row), 0.5, s.footprint / s.scale)
    rough = noise(s.u / s.scale, s.v / s.scale, s.footprint / s.scale)
    return _mix(_mix(s.first, s.second, np.clip(0.6 * tone + 0.8 * rough - 0.2, 0, 1)), s.third, joint)


def _plaid(s: Spots) -> Array:
    footprint = s.footprint / s.scale
    u, v = _square(s.u / s.scale, footprint), _square(s.v / s.scale, footprint)
    lines = np.maximum(_line(s.u / s.scale + 0.2, 0.1, footprint), _line(s.v / s.scale + 0.2, 0.1, footprint))
    return _mix(_mix(s.first, s.second, 0.5 * (u + v)), s.third, 0.7 * lines)


def _marble(s: Spots) -> Array:
    u, v, footprint = s.u / s.scale * 0.3 + s.phase, s.v / s.scale * 0.3, 0.3 * s.footprint / s.scale
    vein = np.abs(noise(u, v, footprint) - 0.5)
    return _mix(s.second, s.first, np.clip(0.25 + 9 * vein, 0, 1))


def _speckled(s: Spots) -> Array:
    grain = noise(s.u / s.scale * 0.11, s.v / s.scale * 0.11, 0.11 * s.footprint / s.scale)
    fine = noise(s.v / s.scale * 0.5, s.u / s.scale * 0.5, 0.5 * s.footprint / s.scale)
    return _mix(s.first, s.second, np.clip(3 * (0.5 * grain + 0.5 * fine) - 1, 0, 1))


def _dots(s: Spots) -> Array:
    u, v = s.u / s.scale, s.v / s.scale
    u = u + 0.5 * (np.floor(v) % 2)
    footprint = s.footprint / s.scale
    distance = np.hypot(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5)
    return _mix(
        s.first, s.second, _fade(np.clip((0.28 - distance) / np.maximum(footprint, 1e-3), 0, 1), 0.25, footprint)
    )


def _rug(s: Spots) -> Array:
    """A border round a field of ornaments."""
    rim = np.maximum(np.abs(s.a), np.abs(s.b))
    border = _square(3.2 * rim + s.phase, 3.2 * s.footprint)
    field = _dots(s)
    weave = noise(6 * s.a + s.phase, 6 * s.b, 4 * s.footprint)
    return _mix(field, _mix(s.third, s.first, border), (rim > 0.72) * 1.0) * (0.7 + 0.6 * weave)


def _picture(s: Spots) -> Array:
    """A painting or a poster: a mount, then broad shapes in colours about the palette."""
    footprint = 0.4 * s.footprint / s.scale
    shape = noise(0.17 * s.a + s.phase, 0.17 * s.b + 3 * s.phase, footprint)
    detail = noise(0.4 * s.a - s.phase, 0.4 * s.b + s.phase, footprint)
    horizon = np.clip(4 * (s.b - 0.8 * (detail - 0.5) - (s.phase - 0.5)) + 0.5, 0, 1)
    body = _mix(s.first, s.second, horizon)
    body = _mix(body, s.third, np.clip(10 * (shape - 0.55), 0, 1))
    body = body * (0.5 + detail)
    return _mix(body, np.full_like(body, 0.8), (np.maximum(np.abs(s.a), np.abs(s.b)) > 0.86) * (s.phase > 0.4))


def _print(s: Spots) -> Array:
    """A printed page or cover: lines of text, and a block of colour."""
    row = 9 * s.b
    words = _hash(np.floor(row), np.floor(12 * s.a + 5 * s.phase))
    width, footprint = 0.5 * (words > 0.25) * (np.abs(s.a) < 0.8), 9 * s.footprint / s.scale
    text = _line(row, width, footprint) * (np.abs(s.b) < 0.85)
    block = (np.abs(s.a + 0.2 - 0.3 * s.phase) < 0.35) & (np.abs(s.b - s.phase + 0.3) < 0.35)
    return _mix(_mix(s.first, s.second, text), s.third, block * 1.0)


def _screen(s: Spots) -> Array:
    """A display: a bright picture or windows on a desktop."""
    body = _mix(s.first, s.second, noise(0.2 * s.a + s.phase, 0.2 * s.b, 0.0 * s.u))
    window = (np.abs(s.a - 0.4 * s.phase) < 0.5) & (np.abs(s.b + 0.1) < 0.6)
    lines = _line(8 * s.b, 0.4 * (_hash(np.floor(8 * s.b)) > 0.3), 8 * s.footprint / s.scale)
    return _mix(body, _mix(s.third, s.second, lines), window * 1.0)


def _outdoors(s: Spots) -> Array:
    """What a window shows: sky above, trees or houses below."""
    leaves = noise(0.5 * s.a + s.phase, 0.5 * s.b, 0.01 + 0.0 * s.u)
    skyline = np.clip(8 * (0.9 * (leaves - 0.5) + 1.2 * (s.phase - 0.5) - s.b) + 0.5, 0, 1)
    cloud = noise(0.1 * s.a - s.phase, 0.2 * s.b, 0.01 + 0.0 * s.u)
    return _mix(_mix(s.first, s.third, cloud), s.second * (0.4 + 1.2 * leaves), skyline)


_PATTERNS = {
    Pattern.MOTTLED: _mottled,
    Pattern.WOOD: _wood,
    Pattern.PARQUET: _parquet,
    Pattern.TILES: _tiles,
    Pattern.CHECKER: _checker,
    Pattern.STRIPES: _stripes,
    Pattern.BRICKS: _bricks,
    Pattern.PLAID: _plaid,
    Pattern.MARBLE: _marble,
    Pattern.SPECKLED: _speckled,
    Pattern.DOTS: _dots,
    Pattern.RUG: _rug,
    Pattern.PICTURE: _picture,
    Pattern.PRINT: _print,
    Pattern.SCREEN: _screen,
    Pattern.OUTDOORS: _outdoors,
}
