"""Relit photos against the sRGB curve and Lambert's law, pixel by pixel in plain Python."""

import math

import numpy as np
import pytest
import torch

from normalkit.visualize import relight
from normalkit.visualize.relight import check_light

pytestmark = pytest.mark.usefixtures("one_thread")


def lit(value, normal, light, ambient, strength):
    """One channel of one pixel."""
    value /= 255
    linear = value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
    cosine = sum(a * b for a, b in zip(normal, light, strict=True)) / math.hypot(*light)
    linear = min(linear * (ambient + strength * max(cosine, 0)), 1)
    return 255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055)


def test_every_pixel_is_lambert_s_law_in_linear_light():
    draw = np.random.default_rng(0)
    # More rows than are worked on at a time.
    image = torch.from_numpy(draw.integers(0, 256, (3, 300, 2), dtype=np.uint8))
    normals = draw.normal(size=(3, 300, 2))
    normals /= np.linalg.norm(normals, axis=0)
    for light, ambient, strength in [((0, 0, -1), 0.3, 1.0), ((3.0, -4.0, 1.0), 0.0, 2.5)]:
        result = relight(image, torch.from_numpy(4 * normals), light, ambient=ambient, strength=strength)
        assert (result.dtype, result.shape) == (torch.uint8, image.shape)
        expected = [
            lit(int(image[c, y, x]), normals[:, y, x], light, ambient, strength)
            for c in range(3)
            for y in range(300)
            for x in range(2)
        ]
        assert np.abs(result.numpy().ravel() - np.array(expected)).max() < 0.51


def test_a_photo_in_floats_is_the_photo():
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    normals = torch.randn(3, 5, 7)
    assert torch.equal(relight(image / 255, normals, (1, 2, 3)), relight(image, normals, (1, 2, 3)))


@pytest.mark.parametrize("vector", [[0.0] * 3, [math.nan, 0, -1]])
def test_without_a_normal_there_is_the_ambient_light_alone(vector):
    image = torch.full((3, 1, 1), 200, dtype=torch.uint8)
    normals = torch.tensor(vector).view(3, 1, 1)
    assert relight(image, normals, (0, 0, -1), ambient=1.0).flatten().tolist() == [200] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normals": torch.zeros(3, 4, 5)}, r"normals has shape \(3, 4, 5\) for an image \(3, 2, 2\)"),
        ({"image": torch.full((3, 2, 2), 2.0)}, "divide by 255"),
        ({"light": (0, 0, 0)}, r"light=\(0, 0, 0\): wanted three finite numbers, not all 0"),
        ({"light": (0, 1)}, r"light=\(0, 1\)"),
        ({"light": (0, math.inf, 1)}, "light="),
        ({"ambient": -0.1}, "ambient=-0.1: wanted 0 or more"),
        ({"strength": math.nan}, "strength=nan: wanted 0 or more"),
    ],
)
def test_relight_refuses(change, message):
    given = {"image": torch.zeros(3, 2, 2), "normals": torch.zeros(3, 2, 2), "light": (0, 0, -1), **change}
    options = {name: given.pop(name) for name in ("ambient", "strength") if name in given}
    with pytest.raises(ValueError, match=message):
        relight(given["image"], given["normals"], given["light"], **options)


def test_a_light_is_given_unit_length():
    assert check_light((0, 3, -4)).tolist() == pytest.approx([0, 0.6, -0.8])
