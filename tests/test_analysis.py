"""Where a model errs: directions that surfaces face, and figures by image."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import nn

from normalkit.analysis import DIRECTIONS, best_rotation, error_report, facing_directions, up_direction


def turned(*degrees):
    """The rotation of a camera that is rolled, then tilted."""
    return torch.from_numpy(Rotation.from_euler("zx", degrees, degrees=True).as_matrix()).float()


def picture(*vectors, each=10):
    """One row of pixels, `each` of every vector."""
    return torch.tensor(vectors).T.repeat_interleave(each, dim=1)[:, None].float()


FLOOR, WALL, SIDE, CEILING = (0.0, -1.0, 0.0), (0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
SLOPE = (0.0, -math.sqrt(0.5), -math.sqrt(0.5))


@pytest.mark.parametrize(("roll", "tilt"), [(0, 0), (20, 0), (-30, 0), (0, 35), (15, -30), (25, 25)])
def test_up_is_found_in_a_tilted_view(roll, tilt):
    rotation = turned(roll, tilt)
    normals = torch.einsum("ij,jhw->ihw", rotation, picture(FLOOR, WALL, SIDE, CEILING))
    noise = 0.05 * torch.randn(normals.shape, generator=torch.Generator().manual_seed(0))
    up = up_direction(normals + noise)
    assert torch.linalg.norm(up) == pytest.approx(1, abs=1e-6)
    assert math.degrees(math.acos(min(float(up @ rotation @ torch.tensor(FLOOR)), 1))) < 2


def test_up_leaves_out_what_the_mask_does_and_needs_a_floor():
    normals = picture(FLOOR, SLOPE)
    mask = torch.arange(20)[None] >= 10
    torch.testing.assert_close(up_direction(normals, mask), torch.tensor(SLOPE))
    torch.testing.assert_close(up_direction(picture(WALL, (0, 0, 0), (math.nan,) * 3)), torch.tensor(FLOOR))


def test_directions_follow_the_camera():
    rotation = turned(20, 30)
    normals = torch.einsum("ij,jhw->ihw", rotation, picture(FLOOR, WALL, SIDE, CEILING, SLOPE, each=1)) * 3
    facing = facing_directions(normals, rotation @ torch.tensor(FLOOR))
    assert [DIRECTIONS[i] for i in facing[0]] == ["up", "upright", "upright", "down", "slanted"]


def test_directions_end_at_the_tolerance():
    angles = torch.tensor([9.0, 11, 79, 81, 90, 99, 101, 169, 171]).deg2rad()
    normals = torch.stack([torch.zeros(9), -angles.cos(), -angles.sin()])[:, None]
    facing = facing_directions(normals, torch.tensor(FLOOR), tolerance=10)
    names = ["up", "slanted", "slanted", "upright", "upright", "upright", "slanted", "slanted", "down"]
    assert [DIRECTIONS[i] for i in facing[0]] == names


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: up_direction(torch.zeros(1, 3, 2, 2)), r"normals has shape \(1, 3, 2, 2\); wanted \(3, H, W\)"),
        (lambda: up_direction(torch.zeros(3, 2, 2), tilt=90), "tilt=90: wanted degrees"),
        (lambda: facing_directions(torch.zeros(3, 2, 2), torch.zeros(4)), r"up \(4,\)"),
        (lambda: facing_directions(torch.zeros(3, 2, 2), torch.zeros(3), tolerance=0), "tolerance=0: wanted"),
        (lambda: error_report(Constant(WALL), []), "no pixel of the data set"),
        (lambda: best_rotation(torch.zeros(3, 2, 2), torch.zeros(3, 2, 3)), r"wanted \(3, H, W\) for both"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("vector", [(0, 0, 0), (0, 20, 0), (5, -12, 30), (-100, 60, 0)])
def test_the_best_rotation_is_found_among_outliers(vector):
    truth = torch.from_numpy(Rotation.from_rotvec(vector, degrees=True).as_matrix())
    generator = torch.Generator().manual_seed(0)
    pred = torch.nn.functional.normalize(torch.randn(3, 20, 30, generator=generator), dim=0)
    target = torch.einsum("ij,jhw->ihw", truth.float(), pred)
    target[:, :4] = torch.nn.functional.normalize(torch.randn(3, 4, 30, generator=generator), dim=0)
    target[:, 4] = 0
    pred[:, 5] = math.nan
    mask = torch.ones(20, 30, dtype=torch.bool)
    mask[6] = False
    target[:, 6] = torch.tensor([1.0, 0, 0]).view(3, 1)
    found = best_rotation(2 * pred, target, mask)
    assert Rotation.from_matrix((found @ truth.T).numpy()).magnitude() < math.radians(0.7)
    assert float(torch.linalg.det(found)) == pytest.approx(1)


def test_without_a_pixel_nothing_is_rotated():
    assert torch.equal(best_rotation(torch.zeros(3, 2, 2), torch.ones(3, 2, 2)), torch.eye(3).double())


class Constant(nn.Module):
    """Answers one vector everywhere."""

    def __init__(self, vector):
        super().__init__()
        self.vector = nn.Parameter(torch.tensor(vector))

    def forward(self, images):
        return self.vector.view(1, 3, 1, 1).expand_as(images)


def sample(name, normals, mask=None):
    entry = {"image": torch.zeros_like(normals), "normals": normals, "name": name}
    return entry if mask is None else {**entry, "mask": mask}


def test_the_report_has_every_image_and_direction():
    mask = torch.arange(20)[None] % 2 == 0
    data = [
        sample("wall", picture(WALL, WALL)),
        sample("blank", torch.zeros(3, 1, 4)),
        sample("floor", picture(FLOOR, WALL), mask),
    ]
    model = Constant(SLOPE).train()
    report = error_report(model, data, progress=False)
    assert model.training
    assert [(image.index, image.name) for image in report.images] == [(0, "wall"), (2, "floor")]
    assert report.left_out == ("blank",)
    # Both walls and floors are 45 degrees from what it answers.
    assert [image.figures["mean"] for image in report.images] == pytest.approx([45, 45], abs=1e-3)
    assert set(report.directions) == {"up", "upright"}
    # 20 + 5 pixels of wall, 5 of floor.
    assert report.directions["up"]["share"] == pytest.approx(100 * 5 / 30)
    # One vector is turned to the other about the x axis.
    assert report.images[0].rotation == pytest.approx((45, 0, 0), abs=1e-3)
    assert report.images[0].rotated["mean"] == pytest.approx(0, abs=1e-3)
    exact = error_report(Constant(WALL), data, progress=False)
    assert exact.directions["upright"]["mean"] == pytest.approx(0, abs=1e-3)
    assert exact.directions["up"]["mean"] == pytest.approx(90, abs=1e-3)
    assert exact.images[1].figures["mean"] == pytest.approx(np.mean([90, 0]), abs=1e-3)
