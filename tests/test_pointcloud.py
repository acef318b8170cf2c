"""Point clouds, read back by a few lines that know PLY alone."""

import numpy as np
import pytest
import torch

from normalkit.integrate import fov_intrinsics
from normalkit.pointcloud import photo_points, write_ply

pytestmark = pytest.mark.usefixtures("one_thread")


def read_ply(path):
    header, _, data = path.read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    kinds = {"float": "<f4", "uchar": "u1"}
    properties = [line.split()[1:] for line in lines if line.startswith("property")]
    count = next(int(line.split()[2]) for line in lines if line.startswith("element vertex"))
    found = np.frombuffer(data, [(name, kinds[kind]) for kind, name in properties])
    assert len(found) == count
    return found, lines


def wall(height, width):
    return torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1).expand(3, height, width)


def test_a_file_has_what_was_written(tmp_path):
    points, normals = torch.randn(2, 50, 3)
    colours = torch.randint(0, 256, (50, 3), dtype=torch.uint8)
    write_ply(tmp_path / "a.ply", points, normals, colours)
    found, lines = read_ply(tmp_path / "a.ply")
    for names, values in (("x y z", points), ("nx ny nz", normals), ("red green blue", colours)):
        assert np.array_equal(np.stack([found[name] for name in names.split()], 1), values.numpy())
    assert any("OPENCV" in line and "up to scale" in line for line in lines if line.startswith("comment"))
    with pytest.raises(ValueError, match=r"shapes .*\(49, 3\)"):
        write_ply(tmp_path / "b.ply", points, normals, colours[:49])


@pytest.mark.parametrize("max_points", [10_000, 40])
def test_a_wall_is_a_flat_grid_as_wide_as_the_view(max_points):
    """Also after averaging, where the middles of the squares must be seen where they lie."""
    image = torch.arange(24).view(1, 1, 24).expand(3, 12, 24).mul(4).to(torch.uint8)
    points, normals, colours = photo_points(image, wall(12, 24), fov_intrinsics(90.0, 12, 24), max_points=max_points)
    square = 1 if max_points > 288 else 3
    assert len(points) == 288 / square**2
    torch.testing.assert_close(points[:, 2], torch.ones(len(points)))
    assert torch.equal(normals, torch.tensor([[0.0, 0.0, -1.0]]).expand(len(points), 3))
    # At depth 1 and 90 degrees the view is 2 wide and 1 high.
    middles = (torch.arange(24 / square) + 0.5) / (12 / square) - 1
    torch.testing.assert_close(points.view(12 // square, -1, 3)[0, :, 0], middles)
    torch.testing.assert_close(points.view(12 // square, -1, 3)[:, 0, 1], middles[: 12 // square] + 0.5)
    torch.testing.assert_close(colours[:, 0].float(), (points[:, 0] + 1) * 48 - 2, rtol=0, atol=0.1)


def test_what_faces_away_is_no_point():
    normals = wall(6, 8).clone()
    normals[:, :, :3] *= -1
    points, *_ = photo_points(torch.zeros(3, 6, 8, dtype=torch.uint8), normals, fov_intrinsics(60.0, 6, 8))
    assert len(points) == 30
    with pytest.raises(ValueError, match="no two neighbours face the camera"):
        photo_points(torch.zeros(3, 6, 8, dtype=torch.uint8), -wall(6, 8), fov_intrinsics(60.0, 6, 8))
    with pytest.raises(ValueError, match=r"image has shape \(3, 6, 7\), normals \(3, 6, 8\)"):
        photo_points(torch.zeros(3, 6, 7, dtype=torch.uint8), wall(6, 8), fov_intrinsics(60.0, 6, 8))
