"""What holds for any numbers: geometry, codec, loss, metrics, transforms and up-sampling, against numpy in float64."""

import itertools
import math
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from properties import DTYPES, MANY, holds, seeds, sides
from torch.nn import functional
from torchvision.transforms import v2
from torchvision.tv_tensors import Image, Mask

from normalkit import (
    AngMFLoss,
    AngularLoss,
    Convention,
    SurfaceNormalMetrics,
    SurfaceNormals,
    angular_error,
    convert_normals,
    depth_to_normals,
    normals_to_rgb,
    read_normals,
    rgb_to_normals,
    rotate_normals,
    surface_normal_metrics,
    write_normals,
)
from normalkit.geometry import normalize
from normalkit.nn import upsample
from normalkit.training import evaluate
from normalkit.transforms import Intrinsics

pytestmark = pytest.mark.usefixtures("one_thread")

UNIT = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 4e-7, "float64": 1e-15}
"""Largest error of the length of a unit vector: two roundings of its dtype, and those of its components."""
ANGLE = {"float16": 0.06, "bfloat16": 0.5, "float32": 2e-5, "float64": 1e-12}
"""Degrees that an angle may be off by, from vectors that were rounded to a dtype."""
LOSS = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 1e-6, "float64": 1e-13}
"""Share that the loss may be off by, from inputs rounded to a dtype; it is computed in float32 or better."""

dtypes = st.sampled_from(DTYPES)
conventions = st.sampled_from(list(Convention))


def vectors(seed, *shape, length=1.0):
    """Random directions (..., 3, H, W) in float64."""
    drawn = np.random.default_rng(seed).normal(size=shape)
    return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=-3, keepdims=True) * length)


def turn(seed):
    """A random rotation, (3, 3) float64."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diagonal(r))
    q[:, 0] *= np.linalg.det(q)
    return torch.from_numpy(q)


def degrees(a, b, axis):
    """The angle, by Kahan's form, which has nothing in common with the library's."""
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    a, b = (x / np.linalg.norm(x, axis=axis, keepdims=True) for x in (a, b))
    return np.degrees(2 * np.arctan2(np.linalg.norm(a - b, axis=axis), np.linalg.norm(a + b, axis=axis)))


def same(figures, expected, **tolerance):
    return {name: float(value) for name, value in figures.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, **tolerance
    )


# geometry


@holds(seed=seeds, exponent=st.floats(-36, 36), dtype=dtypes)
def test_length_is_one_for_vectors_of_any_length(seed, exponent, dtype):
    kind = getattr(torch, dtype)
    # As far as the dtype's own numbers keep their digits.
    least, most = (math.log10(x) for x in (64 * torch.finfo(kind).smallest_normal, torch.finfo(kind).max / 8))
    given = (vectors(seed, 64, 3, 1, 1) * 10 ** min(max(exponent, least), most)).to(kind)
    unit = normalize(given)
    assert unit.dtype == kind
    assert float((unit.double().norm(dim=1) - 1).abs().max()) <= UNIT[dtype]
    assert degrees(unit.double(), given.double(), 1).max() <= ANGLE[dtype]


@holds(seed=seeds, source=conventions, middle=conventions, target=conventions, dtype=dtypes)
def test_converters_round_trip_to_the_bit_and_compose(seed, source, middle, target, dtype):
    normals = vectors(seed, 2, 3, 4, 5).to(getattr(torch, dtype))
    there = convert_normals(normals, source, target)
    assert torch.equal(convert_normals(there, target, source), normals)
    assert torch.equal(convert_normals(convert_normals(normals, source, middle), middle, target), there)
    assert torch.equal(there.double().norm(dim=1), normals.double().norm(dim=1))


@holds(seed=seeds, exponent=st.floats(-6, 0.4), flip=st.booleans(), dtype=dtypes)
def test_angles_are_those_of_float64(seed, exponent, flip, dtype):
    a = vectors(seed, 64, 3, 1, 1)
    b = (a + 10**exponent * vectors(seed + 1, 64, 3, 1, 1)) * (-1 if flip else 1)
    found = angular_error(a.to(getattr(torch, dtype)), b.to(getattr(torch, dtype)))
    assert np.abs(found.double().numpy() - degrees(a, b, 1)).max() <= 2 * ANGLE[dtype]


@holds(seed=seeds, dtype=dtypes)
def test_turning_keeps_lengths_and_angles(seed, dtype):
    kind = getattr(torch, dtype)
    a, b = vectors(seed, 2, 2, 3, 4, 5).to(kind)
    matrix = turn(seed)
    turned = rotate_normals(a, matrix)
    assert turned.dtype == kind
    expected = np.einsum("ij,bjhw->bihw", matrix.numpy(), a.double().numpy())
    assert np.abs(turned.double().numpy() - expected).max() <= UNIT[dtype]
    before, after = angular_error(a, b), angular_error(turned, rotate_normals(b, matrix))
    assert float((before - after).abs().max()) <= 4 * ANGLE[dtype]
    assert float((rotate_normals(turned, matrix.mT) - a).abs().max()) <= 4 * UNIT[dtype]


@holds(seed=seeds, distance=st.floats(0.01, 1000), dtype=st.sampled_from(["float32", "float64"]))
def test_normals_of_a_plane_s_depth(seed, distance, dtype):
    draw = np.random.default_rng(seed)
    normal = draw.normal(size=3) * (0.6, 0.6, 0) - (0, 0, 1)
    normal /= np.linalg.norm(normal)
    focal = draw.uniform(40, 400)
    camera = np.array([[focal, 0, 7.5], [0, focal, 5.5], [0, 0, 1]])
    v, u = np.mgrid[:12, :16].astype(float)
    slope = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera).T @ normal
    depth = torch.from_numpy(np.where(slope < -0.05, -distance / np.minimum(slope, -0.05), 0))[None, None]
    found, mask = depth_to_normals(depth.to(getattr(torch, dtype)), torch.from_numpy(camera))
    assert found.isfinite().all()
    lengths = found.double().norm(dim=1)
    assert float((lengths - mask.double()).abs().max()) <= UNIT[dtype]
    if mask.any():
        off = degrees(found.double().movedim(1, -1)[mask], normal[None], 1).max()
        # Depth itself is rounded: over 7 x 7 pixels of a long lens that turns the plane.
        assert off <= {"float32": 1e-5 * focal, "float64": 1e-6}[dtype]


# codec


@holds(seed=seeds, height=sides, width=sides, length=st.floats(0.51, 100), bits=st.sampled_from([8, 16]))
def test_colours_round_trip(seed, height, width, length, bits):
    draw = np.random.default_rng(seed)
    normals = vectors(seed, 3, height, width, length=length)
    mask = torch.from_numpy(draw.random((height, width)) > 0.3)
    rgb = normals_to_rgb(normals, mask)
    if bits == 16:
        rgb = torch.where(mask, ((normals / length + 1) / 2 * 65535).round(), 0).to(torch.int32)
    found, valid = rgb_to_normals(rgb)
    assert torch.equal(valid, mask)
    assert not found[:, ~mask].any()
    assert float((found.norm(dim=0) - mask.float()).abs().max()) <= UNIT["float32"]
    if mask.any():
        assert degrees(found[:, mask], normals[:, mask], 0).max() <= {8: 0.39, 16: 0.0016}[bits]


@holds(
    seed=seeds,
    height=sides,
    width=sides,
    form=st.sampled_from([("png", 8, 0.39), ("png", 16, 0.0016), ("npy", 8, 2e-5), ("exr", 8, 2e-5)]),
    convention=conventions,
    dtype=dtypes,
)
def test_files_round_trip(seed, height, width, form, convention, dtype):
    suffix, bits, bound = form
    if suffix == "exr":
        pytest.importorskip("OpenEXR")
    draw = np.random.default_rng(seed)
    normals = vectors(seed, 3, height, width).to(getattr(torch, dtype))
    mask = torch.from_numpy(draw.random((height, width)) > 0.3)
    normals[:, 0, 0] = [math.nan, math.inf, 0.0][seed % 3]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a.{suffix}")
        write_normals(path, normals, mask, convention=convention, bits=bits)
        found, valid = read_normals(path)
    mask[0, 0] = False
    assert torch.equal(valid, mask)
    assert not found[:, ~mask].any()
    if mask.any():
        assert degrees(found[:, mask], normals.double()[:, mask], 0).max() <= bound


# loss


def numpy_loss(pred, target, mask):
    """L1 over three channels plus cosine distance, by the definitions."""
    pred, target = pred[:, mask], target[:, mask] / np.linalg.norm(target[:, mask], axis=0)
    cosine = (pred * target).sum(0) / np.linalg.norm(pred, axis=0)
    return np.abs(pred - target).mean() + (1 - cosine).mean()


@holds(seed=seeds, height=sides, width=sides, length=st.floats(0.1, 10), dtype=dtypes)
def test_loss_is_that_of_numpy(seed, height, width, length, dtype):
    kind = getattr(torch, dtype)
    pred, target = (vectors(seed + i, 3, height, width) for i in range(2))
    pred = pred * length
    mask = np.random.default_rng(seed).random((height, width)) > 0.3
    mask[0, 0] = True
    found = AngularLoss()(pred[None].to(kind), target[None].to(kind), torch.from_numpy(mask)[None])
    assert float(found) == pytest.approx(
        numpy_loss(pred.numpy(), target.numpy(), mask), rel=LOSS[dtype], abs=LOSS[dtype]
    )


@holds(
    seed=seeds,
    length=st.sampled_from([0.0, 1e-30, 1e-7, 1e-3, 1.0, 1e4]),
    angle=st.sampled_from([0.0, 1e-7, 1e-3, 90.0, 180 - 1e-4, 180.0]),
    bad=st.sampled_from([0.0, math.nan, math.inf, -math.inf]),
    dtype=dtypes,
)
def test_gradients_of_losses_and_angle_are_finite_everywhere(seed, length, angle, bad, dtype):
    kind = getattr(torch, dtype)
    target = vectors(seed, 1, 3, 2, 3)
    across = functional.normalize(torch.linalg.cross(target, vectors(seed + 1, 1, 3, 2, 3), dim=1), dim=1)
    pred = length * (math.cos(math.radians(angle)) * target + math.sin(math.radians(angle)) * across)
    target[..., 0, 0] = bad
    pred = pred.to(kind).requires_grad_()
    for loss in (AngularLoss(), AngMFLoss()):
        pred.grad = None
        loss(pred, target.to(kind)).backward()
        assert pred.grad.isfinite().all()
        assert not pred.grad[..., 0, 0].any()
    pred.grad = None
    angular_error(pred, target.to(kind)).nansum().backward()
    # A degree for a turn of length x a degree: below the smallest length whose slope the dtype can hold it is none.
    assert length < 180 / math.pi / torch.finfo(kind).max or pred.grad.isfinite().all()


# metrics


def batch(seed, number=4, height=5, width=6):
    """Predictions near their labels, masks that keep most of them, as float32."""
    target = vectors(seed, number, 3, height, width)
    pred = target + np.random.default_rng(seed).exponential(0.5) * vectors(seed + 1, number, 3, height, width)
    mask = torch.from_numpy(np.random.default_rng(seed).random((number, height, width)) > 0.2)
    mask[0, 0, 0] = True
    return pred.float(), target.float(), mask


@holds(seed=seeds, reduction=st.sampled_from(["pooled", "per_image"]), dtype=dtypes)
def test_metrics_are_those_of_numpy(seed, reduction, dtype):
    pred, target, mask = batch(seed)
    kind = getattr(torch, dtype)
    figures = surface_normal_metrics(pred.to(kind), target.to(kind), mask, reduction=reduction)
    errors = degrees(pred, target, 1)
    groups = (
        [errors[mask.numpy()]] if reduction == "pooled" else [e[m.numpy()] for e, m in zip(errors, mask, strict=True)]
    )
    groups = [group for group in groups if group.size]
    bound = 4 * ANGLE[dtype]
    assert float(figures["mean"]) == pytest.approx(np.mean([g.mean() for g in groups]), abs=bound)
    assert float(figures["rmse"]) == pytest.approx(np.mean([np.sqrt((g**2).mean()) for g in groups]), abs=bound)
    assert float(figures["median"]) == pytest.approx(np.mean([np.median(g) for g in groups]), abs=bound + 1 / 512)
    for threshold in (5, 11.25, 30):
        least, most = (100 * np.mean([(g < threshold + side * bound).mean() for g in groups]) for side in (-1, 1))
        assert least - 1e-9 <= float(figures[f"{threshold:g}"]) <= most + 1e-9


@holds(seed=seeds, reduction=st.sampled_from(["pooled", "per_image"]))
def test_turning_truth_and_prediction_together_changes_no_metric(seed, reduction):
    pred, target, mask = (x.double() if x.is_floating_point() else x for x in batch(seed))
    expected = surface_normal_metrics(pred, target, mask, reduction=reduction)
    matrix = turn(seed)
    turned = [rotate_normals(x, matrix) for x in (pred, target)]
    assert same(surface_normal_metrics(*turned, mask, reduction=reduction), expected, rel=1e-9, abs=1e-9)


@holds(seed=seeds, source=conventions, target=conventions)
def test_metrics_do_not_depend_on_the_convention(seed, source, target):
    pred, truth, mask = batch(seed)
    converted = [convert_normals(x, source, target) for x in (pred, truth)]
    assert same(surface_normal_metrics(*converted, mask), surface_normal_metrics(pred, truth, mask), rel=1e-7)


@holds(order=st.permutations(range(6)), cuts=st.sets(st.integers(1, 5)), seed=seeds)
def test_metrics_do_not_depend_on_order_or_split(order, cuts, seed):
    pred, target, mask = batch(seed, number=6)
    whole, parts = SurfaceNormalMetrics(thresholds=(11.3, 30)), SurfaceNormalMetrics(thresholds=(11.3, 30))
    whole.update(pred, target, mask)
    for start, end in itertools.pairwise([0, *sorted(cuts), 6]):
        chosen = list(order[start:end])
        parts.update(pred[chosen], target[chosen], mask[chosen])
    for name in ("histogram", "below_11_3", "invalid"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))
    assert same(parts.compute(), whole.compute(), rel=1e-12)


@holds(
    seed=seeds,
    bad=st.lists(st.sampled_from([0.0, math.nan, math.inf, -math.inf]), min_size=1, max_size=8),
    reduction=st.sampled_from(["pooled", "per_image"]),
    dtype=dtypes,
)
def test_predictions_that_are_not_finite_are_counted_and_never_averaged(seed, bad, reduction, dtype):
    kind = getattr(torch, dtype)
    pred, target = (x.to(kind) for x in batch(seed)[:2])
    mask = torch.ones(pred.shape[0], *pred.shape[2:], dtype=torch.bool)
    places = np.random.default_rng(seed).choice(pred.shape[2] * pred.shape[3], len(bad), replace=False)
    for place, value in zip(places, bad, strict=True):
        pred[0, :, place // pred.shape[3], place % pred.shape[3]] = value
        mask[0, place // pred.shape[3], place % pred.shape[3]] = False
    expected = surface_normal_metrics(pred, target, mask, reduction=reduction)
    with pytest.warns(UserWarning, match=f"{len(bad)} valid pixels have a prediction that is zero or not finite"):
        found = surface_normal_metrics(pred, target, reduction=reduction)
    assert int(found["invalid"]) == len(bad)
    assert same(found, {**expected, "invalid": len(bad)}, rel=1e-9)


@holds(number=st.integers(0, 3), reduction=st.sampled_from(["pooled", "per_image"]), seed=seeds)
def test_nothing_to_score_is_an_error_and_no_nan(number, reduction, seed):
    pred, target, mask = batch(seed)
    metric = SurfaceNormalMetrics(reduction=reduction)
    for _ in range(number):
        metric.update(pred, target, torch.zeros_like(mask))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The ``compute`` method")
        with pytest.raises(ValueError, match="no valid pixel has been seen"):
            metric.compute()
        with pytest.raises(ValueError, match="no valid pixel has been seen"):
            evaluate(torch.nn.Identity(), [], progress=False)


# transforms


def sample(seed, height, width):
    """A picture that shows its normals, so that what moves one shows on the other."""
    normals = vectors(seed, 3, height, width).float()
    camera = torch.tensor([[50.0, 0, width / 2], [0, 50, height / 2], [0, 0, 1]])
    return {
        "image": Image((normals + 1) / 2),
        "normals": SurfaceNormals(normals),
        "mask": Mask(torch.ones(height, width, dtype=torch.bool)),
        "intrinsics": Intrinsics(camera, canvas_size=(height, width)),
    }


MOVES = {
    "horizontal": (lambda h, w: v2.RandomHorizontalFlip(1), (-1, 1, 1)),
    "vertical": (lambda h, w: v2.RandomVerticalFlip(1), (1, -1, 1)),
    "crop": (lambda h, w: v2.RandomCrop((max(h // 2, 1), max(w // 2, 1))), (1, 1, 1)),
    "pad": (lambda h, w: v2.Pad((1, 2, 3, 0)), (1, 1, 1)),
}


@holds(seed=seeds, height=sides, width=sides, move=st.sampled_from(sorted(MOVES)))
def test_vectors_follow_the_picture(seed, height, width, move):
    transform, signs = MOVES[move]
    torch.manual_seed(seed)
    moved = transform(height, width)(sample(seed, height, width))
    assert moved["image"].shape == moved["normals"].shape
    assert moved["mask"].shape == moved["normals"].shape[1:]
    assert moved["intrinsics"].canvas_size == tuple(moved["normals"].shape[1:])
    valid = moved["normals"].mask
    shown = (2 * torch.Tensor(moved["image"]) - 1) * torch.tensor(signs).view(3, 1, 1)
    torch.testing.assert_close(torch.Tensor(moved["normals"])[:, valid], shown[:, valid], rtol=0, atol=1e-6)
    assert torch.equal(valid, torch.Tensor(moved["mask"]).bool())


@holds(seed=seeds, height=sides, width=sides, angle=st.floats(-180, 180), scale=st.floats(0.5, 2), dtype=dtypes)
def test_turned_resized_and_cut_normals_are_unit_or_zero(seed, height, width, angle, scale, dtype):
    normals = SurfaceNormals(vectors(seed, 3, height, width).to(getattr(torch, dtype)))
    turned = v2.functional.rotate(normals, angle, expand=True)
    size = [max(round(side * scale), 1) for side in turned.shape[-2:]]
    for found in (turned, v2.functional.resize(turned, size), v2.functional.center_crop(turned, [3, 4])):
        assert isinstance(found, SurfaceNormals)
        lengths = torch.Tensor(found).double().norm(dim=0)
        assert float((lengths - found.mask.double()).abs().max()) <= 2 * UNIT[dtype]
    middle = normals.double().flatten(1)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    expected = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) @ middle.numpy()
    # Each vector of the turned picture is one of the old, turned.
    for vector in torch.Tensor(turned).double()[:, turned.mask].T[:5].numpy():
        assert np.abs(expected - vector[:, None]).max(0).min() <= 2 * UNIT[dtype]


# up-sampling


@holds(
    seed=seeds,
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    scale=st.sampled_from([1, 2, 3, 4, 8]),
    kernel=st.sampled_from([(1, 1), (3, 3), (5, 3)]),
    dtype=dtypes,
)
def test_upsampled_convolution_is_that_of_the_large_map(seed, height, width, scale, kernel, dtype):
    kind = getattr(torch, dtype)
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 6, height, width, generator=draw, dtype=torch.float64).to(kind).requires_grad_()
    weight = torch.randn(2, 6, *kernel, generator=draw, dtype=torch.float64).to(kind).requires_grad_()
    padding = (kernel[0] // 2, kernel[1] // 2)

    def plain(features, weight):
        large = functional.interpolate(features, scale_factor=float(scale), mode="bilinear")
        return functional.conv2d(large, weight, padding=padding)

    found = upsample.upsampled_conv2d(features, weight, scale=scale)
    assert found.dtype == kind
    exact = [features.detach().double().requires_grad_(), weight.detach().double().requires_grad_()]
    expected = plain(*exact)
    # About five roundings, each of at most eps / 2 of the sum of the sizes.
    sizes = plain(*(tensor.detach().abs() for tensor in exact))
    assert ((found - expected).detach().abs() <= 10 * torch.finfo(kind).eps * sizes).all()
    if dtype in ("float32", "float64"):
        wanted = torch.autograd.grad(expected.sum(), exact)
        for ours, theirs in zip(torch.autograd.grad(found.sum(), (features, weight)), wanted, strict=True):
            largest = float(theirs.abs().max()) + 1
            assert float((ours - theirs).abs().max()) <= 200 * torch.finfo(kind).eps * largest


def test_ten_thousand_cases_are_tried_in_all():
    properties = [
        value for name, value in globals().items() if name.startswith("test_") and hasattr(value, "pytestmark")
    ]
    assert len(properties) * MANY >= 10_000
