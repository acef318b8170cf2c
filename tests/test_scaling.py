"""Scaling in bands against torch's scaling of the whole."""

import pytest
import torch
from torch.nn import functional

from normalkit.scaling import enlarged_rows, scaled_picture, scaled_size

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("size", [(64, 11), (700, 30), (1, 1), (900, 12)])
def test_a_picture_is_scaled_as_a_whole_one(size):
    """More rows than a band has, so that antialiasing reaches across bands."""
    picture = torch.randint(0, 256, (3, 700, 30), dtype=torch.uint8)
    expected = functional.interpolate(picture[None].float() / 255, size, mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(scaled_picture(picture, size), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(700, 31), (7, 5), (1, 1), (513, 4)])
@pytest.mark.parametrize("small", [(3, 20, 10), (2, 1, 1)])
def test_a_map_is_enlarged_as_a_whole_one(size, small):
    values = torch.randn(small)
    expected = functional.interpolate(values[None], size, mode="bilinear", align_corners=False)[0]
    bands = list(enlarged_rows(values, size))
    assert [rows.start for rows, _ in bands] == list(range(0, size[0], 64))
    torch.testing.assert_close(torch.cat([band for _, band in bands], 1), expected, rtol=0, atol=2e-5)


def test_the_longer_side_becomes_the_resolution():
    assert scaled_size((30, 40), 80) == (60, 80)
    assert scaled_size((4000, 3), 100) == (100, 1)
