"""Coloured squares, one colour a class: images that a network tells apart at once."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 220), "green": (50, 200, 60), "red": (220, 50, 40)}


def write_squares(folder: Path) -> None:
    """Write train/CLASS/NUMBER.png, 14 of each class, and test/CLASS/NUMBER.png, 4 of each."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 14), ("test", 4)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(draw.normal(colour, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
