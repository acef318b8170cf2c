"""Depth from normals, on surfaces whose depth is known in closed form."""

import math

import pytest
import torch

from normalkit import integrate
from normalkit.geometry import depth_to_normals
from normalkit.integrate import fov_intrinsics, normals_to_depth, points_from_depth

pytestmark = pytest.mark.usefixtures("one_thread")

SKEWED = torch.tensor([[70.0, 3.0, 20.3], [0.0, 55.0, 40.9], [0.0, 0.0, 1.0]])


def look(intrinsics, height, width):
    """What each pixel sees at depth 1, by solving K r = (u, v, 1)."""
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)]).double().flatten(1)
    return torch.linalg.solve(intrinsics.double(), pixels).view(3, height, width)


def plane(normal, intrinsics, height, width, distance=2.0):
    """n . X = -distance."""
    normal = torch.tensor(normal, dtype=torch.float64)
    normal = (normal / normal.norm()).view(3, 1, 1)
    depth = -distance / (normal * look(intrinsics, height, width)).sum(0)
    return torch.where(depth > 0, normal, 0), torch.where(depth > 0, depth, 0)


def sphere(intrinsics, height, width, *, centre=(0.2, -0.1, 3.0), radius=1.2):
    """The nearer root of |z r - c| = radius; 0 beside it."""
    rays, centre = look(intrinsics, height, width), torch.tensor(centre, dtype=torch.float64).view(3, 1, 1)
    a, b, c = rays.square().sum(0), (rays * centre).sum(0), centre.square().sum() - radius**2
    root = b.square() - a * c
    depth = torch.where(root > 0, (b - root.clamp_min(0).sqrt()) / a, 0)
    return torch.where(depth > 0, (depth * rays - centre) / radius, 0), depth


def scale_errors(depth, truth, mask):
    """Of each pixel, once the one factor is taken out."""
    factor = depth[0][mask].double() / truth[mask]
    return (factor / factor.median() - 1).abs()


@pytest.mark.parametrize("intrinsics", [fov_intrinsics(70.0, 61, 84), SKEWED], ids=["70 degrees", "skewed"])
@pytest.mark.parametrize("normal", [(0, 0, -1), (0.3, -0.2, -0.9), (0.2, -0.4, -0.8)])
def test_planes_are_exact(intrinsics, normal):
    normals, truth = plane(normal, intrinsics, 61, 84)
    assert (truth > 0).all()
    depth, mask = normals_to_depth(3 * normals.float(), intrinsics)
    assert mask.all()
    assert depth.shape == (1, 61, 84)
    assert scale_errors(depth, truth, mask).max() < 1e-5
    assert float(depth.median()) == pytest.approx(1, abs=1e-6)


def test_a_floor_up_to_the_horizon_is_exact_where_it_is_not_grazed():
    intrinsics = fov_intrinsics(75.0, 120, 160)
    normals, truth = plane((0.1, -0.9, -0.3), intrinsics, 120, 160)
    depth, mask = normals_to_depth(normals, intrinsics)
    assert 0.8 * int((truth > 0).sum()) < int(mask.sum()) < 120 * 160
    assert not mask[truth == 0].any()
    assert not depth[0][~mask].any()
    assert float(truth[mask].max() / truth[mask].min()) > 20
    assert scale_errors(depth, truth, mask).max() < 1e-5


@pytest.mark.parametrize("intrinsics", [fov_intrinsics(60.0, 97, 131), SKEWED], ids=["60 degrees", "skewed"])
def test_a_sphere_is_exact(intrinsics):
    normals, truth = sphere(intrinsics, 97, 131)
    depth, mask = normals_to_depth(normals, intrinsics)
    assert int(mask.sum()) > 0.98 * int((truth > 0).sum()) > 1000
    assert scale_errors(depth, truth, mask).max() < 1e-5


@pytest.mark.parametrize("side", [40, 260])
def test_few_steps_suffice_whatever_the_size(monkeypatch, side):
    """Without the coarser maps, conjugate gradients need some steps for each pixel of the side."""
    monkeypatch.setattr(integrate, "MAX_STEPS", 25)
    intrinsics = fov_intrinsics(60.0, side, side + 1)
    normals, truth = sphere(intrinsics, side, side + 1)
    depth, mask = normals_to_depth(normals, intrinsics)
    assert scale_errors(depth, truth, mask).max() < 1e-5
    monkeypatch.setattr(integrate, "MAX_STEPS", 1)
    with pytest.warns(UserWarning, match="has not settled after 1 steps"):
        normals_to_depth(normals, intrinsics)


def test_parts_that_do_not_touch_are_exact_each_by_itself():
    intrinsics = fov_intrinsics(60.0, 80, 100)
    normals, truth = plane((0.3, -0.2, -0.9), intrinsics, 80, 100)
    counts = torch.ones(80, 100, dtype=torch.bool)
    counts[:, 50] = False
    counts[40, 50:] = False
    depth, mask = normals_to_depth(normals, intrinsics, counts)
    assert torch.equal(mask, counts)
    for part in (slice(0, 50),), (slice(51, 100), slice(0, 40)), (slice(51, 100), slice(41, 80)):
        inside = torch.zeros_like(mask)
        inside[(part[1] if len(part) > 1 else slice(None)), part[0]] = True
        assert scale_errors(depth, truth, inside & mask).max() < 1e-5


def test_noise_is_averaged_and_not_summed_up():
    """Five degrees on each normal would, along one path, be a walk of some 80 steps."""
    intrinsics = fov_intrinsics(60.0, 96, 128)
    normals, truth = plane((0.3, -0.2, -0.9), intrinsics, 96, 128)
    noise = torch.randn(normals.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    depth, mask = normals_to_depth(normals + math.radians(5) * noise, intrinsics)
    assert scale_errors(depth, truth, mask).mean() < 0.004


def test_it_undoes_depth_to_normals():
    """A smooth surface of neither kind, by the library's other way: each is an approximation there."""
    intrinsics = fov_intrinsics(60.0, 96, 128)
    v, u = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    truth = 2 + 0.3 * torch.sin(u / 20) * torch.cos(v / 17)
    normals, valid = depth_to_normals(truth[None, None], intrinsics, window=3)
    depth, mask = normals_to_depth(normals[0], intrinsics, valid[0])
    assert scale_errors(depth, truth.double(), mask).max() < 0.003


def test_where_nothing_faces_the_camera_there_is_no_depth():
    away = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1).expand(3, 5, 7)
    depth, mask = normals_to_depth(away, fov_intrinsics(60.0, 5, 7))
    assert not mask.any()
    assert not depth.any()
    depth, mask = normals_to_depth(-away[:, :1, :1], fov_intrinsics(60.0, 1, 1))
    assert (depth.shape, bool(mask.any())) == ((1, 1, 1), False)


def test_points_are_where_the_camera_sees_them():
    depth = torch.rand(1, 5, 7) + 1
    matrix = torch.tensor([[7.0, 0.3, 2.3], [0.0, 5.5, 3.9], [0.0, 0.0, 1.0]])
    points = points_from_depth(depth, matrix).double()
    assert torch.equal(points[2].float(), depth[0])
    seen = torch.einsum("ij,jhw->ihw", matrix.double(), points) / points[2]
    v, u = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    torch.testing.assert_close(seen[:2].float(), torch.stack([u, v]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 480)])
def test_the_field_of_view_is_that_of_the_longer_side(height, width):
    """The outer edges of the first and last pixel are half the angle off the middle."""
    matrix = fov_intrinsics(70.0, height, width).double()
    edges = torch.tensor([[-0.5, height / 2 - 0.5, 1], [width / 2 - 0.5, -0.5, 1]], dtype=torch.float64)
    edge = edges[0] if width > height else edges[1]
    ray = torch.linalg.solve(matrix, edge)
    assert math.degrees(math.atan(float(ray[:2].norm()))) == pytest.approx(35)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normals": torch.zeros(1, 3, 4, 5)}, r"\(1, 3, 4, 5\); wanted \(3, H, W\)"),
        ({"intrinsics": torch.eye(4)}, "intrinsics="),
        ({"intrinsics": torch.full((3, 3), math.nan)}, "intrinsics="),
        ({"intrinsics": fov_intrinsics(60.0, 480, 640)}, "outside this picture of 5 x 4"),
        ({"intrinsics": -torch.eye(3)}, "fx, fy"),
    ],
)
def test_normals_to_depth_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        normals_to_depth(**{"normals": torch.ones(3, 4, 5), "intrinsics": fov_intrinsics(60.0, 4, 5), **change})


@pytest.mark.parametrize("fov", [0.0, -60.0, 180.0, math.nan])
def test_a_field_of_view_that_no_lens_has_is_refused(fov):
    with pytest.raises(ValueError, match=r"fov=.*between 1 and 175"):
        fov_intrinsics(fov, 4, 5)
