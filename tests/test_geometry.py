"""Geometry against numpy in float64, least squares pixel by pixel, and scenes whose normals are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normalkit.codec import read_normals
from normalkit.geometry import (
    Convention,
    angular_error,
    convert_normals,
    depth_to_normals,
    normalize,
    rotate_normals,
    valid_normals,
)
from normalkit.images import read_depth, read_intrinsics

K = torch.tensor([[80.0, 0, 19.5], [0, 80, 14.5], [0, 0, 1]], dtype=torch.float64)
# As after turning a picture of pixels that are not square.
TURNED = torch.tensor([[90.0, 9, 12], [14, 60, 18.25], [0, 0, 1]], dtype=torch.float64)
SKEWED = torch.tensor([[90.0, 7, 12], [0, 60, 18.25], [0, 0, 1]], dtype=torch.float64)


def random_rotations(count, seed=0):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(count, 3, 3)))
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    q[:, :, 0] *= np.linalg.det(q)[:, None]
    return torch.from_numpy(q)


def rays_of(intrinsics, height, width):
    """Where each pixel looks at z = 1, as numpy (H, W, 3)."""
    v, u = np.mgrid[:height, :width].astype(float)
    return np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(intrinsics.numpy()).T


def plane_depth(normal, intrinsics, height=30, width=40, distance=2.0):
    """Depth of the plane n . X = -distance, as (1, 1, H, W) float64."""
    depth = -distance / (rays_of(intrinsics, height, width) @ np.asarray(normal))
    assert (depth > 0).all()
    return torch.from_numpy(depth)[None, None]


def unit(*vector):
    return np.asarray(vector) / np.linalg.norm(vector)


class TestConventions:
    @pytest.mark.parametrize(
        ("convention", "expected"),
        [("opencv", (1, 2, 3)), ("OPENGL", (1, -2, -3)), ("dsine", (-1, -2, -3)), ("Taskonomy", (1, 2, -3))],
    )
    def test_components(self, convention, expected):
        convention = Convention.parse(convention)
        converted = convert_normals(torch.tensor([[1.0, 2.0, 3.0]]), Convention.OPENCV, convention)
        assert converted.tolist() == [list(expected)]

    @pytest.mark.parametrize("convention", Convention)
    def test_a_wall_seen_head_on(self, convention):
        wall = convert_normals(torch.tensor([0.0, 0.0, -1.0]), Convention.OPENCV, convention, dim=0)
        assert tuple(wall.tolist()) == convention.head_on == (0, 0, -1 if convention is Convention.OPENCV else 1)

    @pytest.mark.parametrize("source", Convention)
    @pytest.mark.parametrize("target", Convention)
    def test_there_and_back_is_exact(self, source, target):
        normals = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
        there = convert_normals(normals, source, target, dim=-1)
        assert torch.equal(convert_normals(there, target, source, dim=-1), normals)

    def test_no_negative_zero(self):
        converted = convert_normals(torch.zeros(1, 3), Convention.OPENCV, Convention.DSINE)
        assert not torch.signbit(converted).any()

    def test_unknown_name(self):
        with pytest.raises(ValueError, match="convention='directx' is not known; choose one of OPENCV, OPENGL"):
            Convention.parse("directx")

    def test_bad_normals(self):
        with pytest.raises(ValueError, match=r"normals has shape \(2, 4\); wanted 3 components along dim=1"):
            convert_normals(torch.zeros(2, 4), Convention.OPENCV, Convention.OPENGL)
        with pytest.raises(TypeError, match="floating point"):
            convert_normals(torch.zeros(2, 3, dtype=torch.uint8), Convention.OPENCV, Convention.OPENGL)


class TestNormalize:
    @pytest.mark.parametrize(
        ("dtype", "lengths"),
        [
            (torch.float16, [1e-7, 1e-4, 1, 3e4]),
            (torch.bfloat16, [1e-38, 1e-20, 1, 1e20, 3e38]),
            (torch.float32, [1e-40, 1e-20, 1, 1e20, 3e38]),
            (torch.float64, [1e-310, 1e-20, 1, 1e20, 1e308]),
        ],
    )
    def test_any_length(self, dtype, lengths):
        info = torch.finfo(dtype)
        direction = torch.tensor([[0.6], [0.0], [-0.8]], dtype=torch.float64).expand(3, 2)
        for length in lengths:
            result = normalize((direction * length).to(dtype), dim=0)
            assert result.dtype == dtype
            # The smallest numbers have few digits themselves.
            rounding = max(4 * info.eps, info.smallest_normal * info.eps / length)
            np.testing.assert_allclose(result.double(), direction, atol=rounding)

    def test_without_direction(self):
        vectors = torch.tensor([[0, 0, 0], [math.nan, 1, 0], [math.inf, 1, 0], [0, 3, 4]]).requires_grad_()
        result = normalize(vectors)
        result.square().sum().backward()
        normalize(vectors).sum().backward()
        np.testing.assert_allclose(result.detach(), [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0.6, 0.8]], atol=1e-7)
        assert not vectors.grad[:3].any()
        assert torch.isfinite(vectors.grad).all()

    def test_gradient_of_finite_differences(self):
        vectors = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        assert torch.autograd.gradcheck(normalize, vectors)


class TestValidNormals:
    @pytest.mark.parametrize(
        ("vector", "valid"),
        [
            ((0, 0, 0), False),
            ((0.5, 0, 0), False),
            ((0.51, 0, 0), True),
            ((0, 3e38, 3e38), True),
            ((0, math.nan, 1), False),
            ((0, 1, -math.inf), False),
        ],
    )
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
    def test_which_labels_count(self, vector, valid, dtype):
        assert bool(valid_normals(torch.tensor([vector], dtype=dtype))) is valid

    def test_mask(self):
        mask = torch.tensor([[True, False]])
        assert valid_normals(torch.ones(1, 3, 2), mask).tolist() == [[True, False]]
        with pytest.raises(TypeError, match="use `mask > 0`"):
            valid_normals(torch.ones(1, 3, 2), mask.float())
        with pytest.raises(ValueError, match=r"mask has shape \(1, 2\); wanted \(1, 4\)"):
            valid_normals(torch.ones(1, 3, 4), mask)


class TestAngularError:
    @given(seed=st.integers(0, 2**32 - 1), exponent=st.floats(-7, 0.4), length=st.floats(-20, 20), flip=st.booleans())
    @settings(max_examples=50, deadline=None)
    def test_equals_float64(self, seed, exponent, length, flip):
        generator = np.random.default_rng(seed)
        a = generator.normal(size=(64, 3))
        b = a + 10**exponent * generator.normal(size=(64, 3))
        a, b = (a * 10**length * (-1 if flip else 1)).astype(np.float32), b.astype(np.float32)
        x, y = (v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True) for v in (a, b))
        # Kahan's form, which has nothing in common with the one under test.
        expected = np.degrees(2 * np.arctan2(np.linalg.norm(x - y, axis=1), np.linalg.norm(x + y, axis=1)))
        result = angular_error(torch.from_numpy(a), torch.from_numpy(b))
        # To the rounding of the unit vectors themselves, near 0 and 180 degrees as well.
        np.testing.assert_allclose(result, expected, atol=2e-5, rtol=1e-6)
        exact = angular_error(torch.from_numpy(a).double(), torch.from_numpy(b).double())
        np.testing.assert_allclose(exact, expected, atol=1e-13, rtol=1e-12)

    def test_the_ends_and_their_gradient(self):
        target = torch.tensor([[0.0, 0.6, -0.8]]).expand(5, 3)
        factors = torch.tensor([[1.0], [-1.0], [1e-20], [-1e20], [0.0]])
        pred = (factors * target).requires_grad_()
        error = angular_error(pred, target)
        np.testing.assert_array_equal(error.detach(), [0, 180, 0, 180, math.nan])
        error.nansum().backward()
        assert not pred.grad.any()

    def test_gradient_is_finite_close_to_the_ends(self):
        offsets = torch.tensor([0.0, 1e-30, 1e-22, 1e-18, 1e-10, 1e-4])
        for sign in (1.0, -1.0):
            pred = torch.stack([offsets, torch.zeros(6), torch.full((6,), sign)], 1).requires_grad_()
            angular_error(pred, torch.tensor([[0.0, 0.0, 1.0]]).expand(6, 3)).sum().backward()
            assert torch.isfinite(pred.grad).all()
            # A degree for each degree, as far as squares of float32 reach.
            np.testing.assert_allclose(pred.grad[3:, 0], sign * 180 / math.pi, rtol=1e-3)

    def test_gradient_of_finite_differences(self):
        generator = torch.Generator().manual_seed(0)
        pred, target = torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=generator)
        assert torch.autograd.gradcheck(angular_error, (pred.requires_grad_(), target.requires_grad_()))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_worked_in_float32(self, dtype):
        error = angular_error(torch.tensor([[1, 0, 0]], dtype=dtype), torch.tensor([[1, 1, 0]], dtype=dtype))
        assert error.dtype == torch.float32
        assert float(error) == pytest.approx(45, abs=1e-4)

    def test_no_direction(self):
        pred = torch.tensor([[0.0, 0, 0], [math.nan, 0, 1], [math.inf, 0, 1], [0, 0, 1]])
        assert angular_error(pred, torch.ones(4, 3)).isnan().tolist() == [True, True, True, False]

    def test_bad_shapes(self):
        with pytest.raises(ValueError, match=r"pred has shape \(2, 3\) and target \(1, 3\)"):
            angular_error(torch.ones(2, 3), torch.ones(1, 3))
        with pytest.raises(ValueError, match="wanted 3 components along dim=3"):
            angular_error(torch.ones(2, 3), torch.ones(2, 3), dim=3)


@pytest.mark.parametrize(
    "work",
    [
        lambda n: rotate_normals(n, random_rotations(2).float()),
        lambda n: angular_error(n, n.flip(-1)),
        lambda n: depth_to_normals(2 + n[:, :1] / 10, K)[0],
    ],
    ids=["rotate_normals", "angular_error", "depth_to_normals"],
)
def test_autocast_costs_no_digits(work):
    normals = normalize(torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)))
    with torch.autocast("cpu", torch.bfloat16):
        result = work(normals)
    np.testing.assert_array_equal(result, work(normals))


class TestRotateNormals:
    @pytest.mark.parametrize(
        ("shape", "dim"), [((3,), 0), ((4, 3), 1), ((3, 5, 6), 0), ((2, 3, 5, 6), 1), ((2, 4, 3), -1)]
    )
    def test_one_rotation(self, shape, dim):
        normals = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        rotation = random_rotations(1)[0]
        expected = np.moveaxis(np.moveaxis(normals.numpy(), dim, -1) @ rotation.numpy().T, -1, dim)
        np.testing.assert_allclose(rotate_normals(normals, rotation, dim=dim), expected, atol=1e-14)

    @pytest.mark.parametrize(("shape", "dim"), [((4, 3), 1), ((4, 3, 5, 6), 1), ((4, 5, 3), 2), ((4, 5, 6, 3), -1)])
    def test_one_for_each_entry(self, shape, dim):
        normals = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        rotations = random_rotations(4)
        turned = rotate_normals(normals, rotations, dim=dim)
        assert turned.dtype == torch.float32
        for i, axis in enumerate([dim % len(shape) - 1] * 4):
            expected = np.moveaxis(np.moveaxis(normals[i].numpy(), axis, -1) @ rotations[i].numpy().T, -1, axis)
            np.testing.assert_allclose(turned[i], expected, atol=1e-6)

    @pytest.mark.parametrize(
        "rotation",
        [torch.diag(torch.tensor([1.0, 1, -1])), 2 * torch.eye(3), torch.full((3, 3), math.nan), torch.zeros(3, 3)],
    )
    def test_no_rotation(self, rotation):
        with pytest.raises(ValueError, match="not a rotation matrix"):
            rotate_normals(torch.ones(2, 3), rotation)

    @pytest.mark.parametrize(("shape", "dim"), [((2, 2), 1), ((5, 3, 3), 1), ((3, 3, 3), 0), ((1, 4, 3, 3), 1)])
    def test_bad_shape(self, shape, dim):
        with pytest.raises(ValueError, match="rotation has shape"):
            rotate_normals(
                torch.ones(3, 3), torch.eye(3).expand(shape) if shape[-1] == 3 else torch.ones(shape), dim=dim
            )

    def test_integers_are_refused_not_truncated(self):
        with pytest.raises(TypeError, match="floating point"):
            rotate_normals(torch.ones(1, 3, dtype=torch.int64), torch.eye(3))


def least_squares(depth, intrinsics, window, min_valid, max_step):
    """n . X = 1 by numpy.linalg.lstsq in each window: (H, W, 3) and (H, W) bool."""
    height, width = depth.shape
    points = rays_of(intrinsics, height, width) * depth[..., None]
    normals, mask = np.zeros((height, width, 3)), np.zeros((height, width), bool)
    radius = window // 2
    for y, x in np.argwhere(depth > 0):
        part = np.s_[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
        near = points[part][depth[part] > 0]
        if len(near) < min_valid * depth[part].size or np.ptp(near[:, 2]) > max_step * depth[y, x]:
            continue
        solution, _, rank, _ = np.linalg.lstsq(near, np.ones(len(near)), rcond=None)
        if rank == 3:
            normals[y, x], mask[y, x] = -solution / np.linalg.norm(solution), True
    return normals, mask


class TestDepthToNormals:
    @pytest.mark.parametrize(("dtype", "degrees"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
    @pytest.mark.parametrize("intrinsics", [K, SKEWED, TURNED], ids=["square", "skewed", "turned"])
    @pytest.mark.parametrize("normal", [(0, 0, -1), (0.3, -0.8, -0.5), (-0.6, 0.1, -0.7), (0, -1, -0.2)])
    def test_exact_on_planes(self, dtype, degrees, intrinsics, normal):
        cosine = rays_of(intrinsics, 30, 40) @ unit(*normal)
        # 0 where the plane is behind the camera, or all but edge-on.
        depth = torch.from_numpy(np.where(cosine < -0.05, -2 / cosine, 0))[None, None]
        normals, mask = depth_to_normals(depth.to(dtype), intrinsics[None].to(dtype), max_step=math.inf)
        assert mask.sum() > 0.8 * (depth > 0).sum()
        assert normals.dtype == dtype
        expected = torch.from_numpy(unit(*normal)).view(1, 3, 1, 1).expand(1, 3, 30, 40)
        assert float(angular_error(normals.double(), expected)[mask].max()) < degrees

    def test_sphere(self):
        intrinsics = torch.tensor([[300.0, 0, 99.5], [0, 300, 79.5], [0, 0, 1]], dtype=torch.float64)
        rays, center = rays_of(intrinsics, 160, 200), np.array([0.1, -0.05, 4.0])
        # |t r - c| = 1, the nearer solution.
        a, b, c = (rays**2).sum(-1), rays @ center, center @ center - 1
        hit = b**2 > a * c
        depth = np.where(hit, (b - np.sqrt(np.maximum(b**2 - a * c, 0))) / a, 0)
        expected = np.where(hit[..., None], rays * depth[..., None] - center, 0)
        normals, mask = depth_to_normals(torch.from_numpy(depth)[None, None].float(), intrinsics.float())
        error = angular_error(normals[0].double(), torch.from_numpy(expected).permute(2, 0, 1), dim=0)
        inner = torch.from_numpy((expected * -rays).sum(-1) > 0.5 * np.sqrt((rays**2).sum(-1)))
        assert inner.sum() > 5000
        assert mask[0][inner].all()
        assert float(error[inner].max()) < 1

    def test_same_normals_at_any_scale(self):
        depth = plane_depth(unit(0.2, -0.5, -0.8), K) * (1 + 0.002 * torch.rand(30, 40, dtype=torch.float64))
        results = [depth_to_normals((depth / 2 * scale).float(), K) for scale in (1e-20, 0.2, 1, 500, 1e20)]
        expected = depth_to_normals(depth, K)[0]
        for normals, mask in results:
            assert mask.all()
            assert float(angular_error(normals.double(), expected).max()) < 0.02

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize(("window", "min_valid", "max_step"), [(3, 0.5, 0.3), (5, 0.8, 0.15), (7, 0.2, 5.0)])
    @pytest.mark.parametrize("intrinsics", [K, SKEWED, TURNED], ids=["square", "skewed", "turned"])
    def test_equals_least_squares(self, dtype, window, min_valid, max_step, intrinsics):
        generator = np.random.default_rng(0)
        depth = plane_depth(unit(0.3, -0.4, -0.8), intrinsics, 14, 17).numpy()[0, 0]
        depth = depth * (1 + 0.01 * generator.random(depth.shape))
        depth[:, 9:] *= 1.4
        depth[generator.random(depth.shape) < 0.15] = 0
        depth = torch.from_numpy(depth).to(dtype)
        expected, valid = least_squares(depth.double().numpy(), intrinsics, window, min_valid, max_step)
        normals, mask = depth_to_normals(
            depth[None, None], intrinsics, window=window, min_valid=min_valid, max_step=max_step
        )
        assert 0.1 < valid.mean() < 0.95
        np.testing.assert_array_equal(mask[0], valid)
        np.testing.assert_allclose(normals[0].permute(1, 2, 0), expected, atol=2e-4 if dtype == torch.float32 else 1e-8)

    def test_a_batch_is_its_pictures(self):
        depth = torch.cat(
            [plane_depth(unit(0.3, -0.4, -0.8), K), 40 * plane_depth(unit(-0.5, 0.1, -1), SKEWED)]
        ).float()
        depth[0, :, 5:9, 7:12] = 0
        normals, mask = depth_to_normals(depth, torch.stack([K, SKEWED]))
        for i, intrinsics in enumerate((K, SKEWED)):
            single, single_mask = depth_to_normals(depth[i : i + 1], intrinsics)
            assert torch.equal(normals[i], single[0])
            assert torch.equal(mask[i], single_mask[0])

    def test_gradient_of_finite_differences(self):
        depth = plane_depth(unit(0.3, -0.4, -0.8), SKEWED, 5, 6)
        depth = depth * (1 + 0.02 * torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        depth[..., 2, 3] = -1  # Not 0, which a small step would make a depth.
        assert depth_to_normals(depth, SKEWED, window=3, min_valid=0.5)[1].sum() > 20
        assert torch.autograd.gradcheck(
            lambda d, k: depth_to_normals(d, k, window=3, min_valid=0.5)[0], (depth.requires_grad_(), SKEWED.clone())
        )

    @pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, -math.inf, 3e38, 1e-38])
    def test_gradient_is_finite_beside_what_is_no_depth(self, bad):
        depth = plane_depth(unit(0, 0, -1), K).float()
        depth[..., 10:13, 10:30] = bad
        depth.requires_grad_()
        normals, mask = depth_to_normals(depth, K)
        normals[:, 0].sum().backward()
        assert torch.isfinite(normals).all()
        assert torch.isfinite(depth.grad).all()
        assert not normals.detach().movedim(1, -1)[~mask].any()
        assert not mask[0, 10:13, 10:30].any() or bad in (3e38, 1e-38)
        assert mask[0, :5].all()

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 4)])
    def test_smaller_than_the_window(self, size):
        normals, mask = depth_to_normals(plane_depth(unit(0.1, -0.3, -1), K, *size).float(), K)
        # Points on a line, or one alone, have no plane.
        assert bool(mask.all()) is (min(size) > 1)
        assert bool(mask.any()) is (min(size) > 1)
        expected = torch.from_numpy(unit(0.1, -0.3, -1)).view(1, 3, 1, 1) * mask
        np.testing.assert_allclose(normals, expected.float(), atol=1e-4)

    def test_empty_batch(self):
        normals, mask = depth_to_normals(torch.empty(0, 1, 4, 5), torch.empty(0, 3, 3))
        assert (normals.shape, mask.shape) == ((0, 3, 4, 5), (0, 4, 5))

    def test_half_precision_depth(self):
        normals, mask = depth_to_normals(torch.full((1, 1, 9, 9), 2.0, dtype=torch.float16), K.half())
        assert normals.dtype == torch.float32
        assert mask.all()
        np.testing.assert_allclose(normals[0, :, 4, 4], [0, 0, -1], atol=1e-6)

    def test_given_normals_of_real_depth(self, real_data):
        errors, covered, total = [], 0, 0
        folder = real_data / "red_kitchen" / "val"
        intrinsics = read_intrinsics(folder / "camera-intrinsics.txt")
        for path in sorted(folder.glob("*.depth.png"))[::6]:
            depth = read_depth(path)
            depth = torch.where((depth >= 0.1) & (depth <= 8), depth, 0)
            normals, mask = depth_to_normals(depth[None], intrinsics)
            given_normals, given_mask = read_normals(
                str(path).replace(".depth.", ".normal."), convention=Convention.OPENCV
            )
            both = mask[0] & given_mask
            errors.append(angular_error(normals[0], given_normals, dim=0)[both])
            covered, total = covered + int(both.sum()), total + int(given_mask.sum())
        assert total > 100_000
        # The files have 8 bits: up to 0.39 degrees.
        assert float(torch.cat(errors).mean()) < 0.25
        assert covered > 0.999 * total

    @pytest.mark.parametrize(
        ("depth", "intrinsics", "options", "message"),
        [
            (torch.ones(1, 4, 5), K, {}, r"depth has shape \(1, 4, 5\); wanted \(B, 1, H, W\)"),
            (torch.ones(1, 1, 0, 5), K, {}, r"depth has shape \(1, 1, 0, 5\)"),
            (torch.ones(2, 1, 4, 5), K.expand(3, 3, 3), {}, r"intrinsics has shape \(3, 3, 3\)"),
            (torch.ones(1, 1, 4, 5), torch.zeros(3, 3), {}, "fx and fy > 0"),
            (torch.ones(1, 1, 4, 5), K * math.nan, {}, "fx and fy > 0"),
            (torch.ones(1, 1, 4, 5), K.T, {}, "fx and fy > 0"),
            (torch.ones(1, 1, 4, 5), K, {"window": 4}, "window=4"),
            (torch.ones(1, 1, 4, 5), K, {"min_valid": 0}, "min_valid=0"),
            (torch.ones(1, 1, 4, 5), K, {"max_step": math.nan}, "max_step=nan"),
        ],
    )
    def test_bad_input(self, depth, intrinsics, options, message):
        with pytest.raises(ValueError, match=message):
            depth_to_normals(depth, intrinsics, **options)

    def test_the_message_shows_the_matrix_that_is_wrong(self):
        with pytest.raises(ValueError, match=r"intrinsics=\[\[-80"):
            depth_to_normals(torch.ones(2, 1, 4, 5), torch.stack([K, -K]))

    def test_integer_millimetres(self):
        with pytest.raises(TypeError, match=r"divide millimetres by 1000\.0"):
            depth_to_normals(torch.ones(1, 1, 4, 5, dtype=torch.int32), K)
