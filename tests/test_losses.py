"""The loss against a slow loop in numpy, and at the ends where such losses break."""

import contextlib
import math

import numpy as np
import pytest
import torch

from normalkit.losses import AngularLoss, angular_loss, angular_loss_terms


def field(*vectors, dtype=torch.float32):
    """Vectors as a (1, 3, 1, W) field."""
    return torch.tensor(vectors, dtype=dtype).T[None, :, None, :].contiguous()


def slow_loss(pred, target, mask, alpha, beta):
    """The definition, pixel by pixel in float64."""
    l1, cosine = [], []
    for b, y, x in np.ndindex(*mask.shape):
        p, t = pred[b, :, y, x].double().numpy(), target[b, :, y, x].double().numpy()
        length = np.sqrt((t**2).sum())
        if mask[b, y, x] and np.isfinite(t).all() and length > 0.5:
            l1.extend(np.abs(p - t / length))
            cosine.append(1 - (p @ t) / (np.sqrt((p**2).sum()) * length))
    return alpha * np.mean(l1) + beta * np.mean(cosine)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (5, 5), (0, 2), (2.5, 0)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_equals_the_definition(alpha, beta, dtype):
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(2, 3, 5, 7, generator=generator).to(dtype)
    target = torch.randn(2, 3, 5, 7, generator=generator).to(dtype)
    target[0, :, 0, 0] = 0.1
    target[0, 1, 1, 1] = math.nan
    target[1, 2, 2, 2] = math.inf
    mask = torch.rand(2, 5, 7, generator=generator) > 0.3
    loss = AngularLoss(alpha, beta)(pred, target, mask)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(loss) == pytest.approx(slow_loss(pred, target, mask, alpha, beta), rel=1e-5)


def test_terms_are_reported_apart():
    target = field((0, 0, -2), (0, 3, 0))
    l1, cosine = angular_loss_terms(field((0, 0, 1), (0, 1, 0)), target)
    assert (float(l1), float(cosine)) == pytest.approx((2 / 6, 2 / 2))


def test_small_angles_keep_their_digits():
    angle = 1e-4
    cosine = angular_loss_terms(field((math.sin(angle), 0, math.cos(angle))), field((0, 0, 1)))[1]
    # In float32 1 - cos is exactly 0 here.
    assert float(cosine) == pytest.approx(angle**2 / 2, rel=1e-3)


def test_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(1)
    pred = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=generator).requires_grad_()
    target = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=generator)
    mask = torch.rand(2, 2, 3, generator=generator) > 0.4
    assert torch.autograd.gradcheck(lambda p: angular_loss(p, target, mask, alpha=2, beta=3), pred)


@pytest.mark.parametrize("vector", [(0, 0, 1), (0, 0, -1), (0, 0, 0), (1, 2, -3), (1e-3, 0, 1)])
@pytest.mark.parametrize("length", [1e-38, 1e-20, 1e-4, 1.0, 1e4, 1e20])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_loss_and_gradient_are_finite(vector, length, dtype, autocast):
    largest = torch.finfo(dtype).max
    pred = (field(vector, dtype=torch.float64) * length).clamp(-largest, largest).to(dtype).requires_grad_()
    with torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext():
        loss = angular_loss(pred, field((0, 0, 1)), alpha=5, beta=5)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(pred.grad).all()


@pytest.mark.parametrize("length", [1e-20, 1e20])
def test_the_cosine_does_not_depend_on_length(length):
    cosine = angular_loss_terms(field((0, length, length)), field((0, 0, max(1, length))))[1]
    assert float(cosine) == pytest.approx(1 - math.sqrt(0.5), rel=1e-5)


def test_a_zero_prediction_has_cosine_zero_and_is_pulled_by_l1_alone():
    pred = field((0, 0, 0)).requires_grad_()
    l1, cosine = angular_loss_terms(pred, field((0, 0, 1)))
    assert (l1.item(), cosine.item()) == pytest.approx((1 / 3, 1))
    (l1 + cosine).backward()
    assert pred.grad.flatten().tolist() == pytest.approx([0, 0, -1 / 3])


@pytest.mark.parametrize("label", [(math.nan, 0, 1), (math.inf, 0, 1), (0, 0, 0), (0, 0, 0.5), (0, -1, 0)])
@pytest.mark.parametrize("prediction", [(1, 0, 0), (0, 0, 0), (math.nan, 0, 0), (0, math.inf, 0)])
def test_invalid_pixels_have_no_influence(label, prediction):
    pred = field((0, 0.6, 0.8), prediction).requires_grad_()
    mask = torch.tensor([[[True, label != (0, -1, 0)]]])
    loss = angular_loss(pred, field((0, 0, 1), label), mask)
    loss.backward()
    alone = field((0, 0.6, 0.8)).requires_grad_()
    expected = angular_loss(alone, field((0, 0, 1)))
    expected.backward()
    assert torch.equal(loss, expected)
    assert torch.equal(pred.grad[..., :1], alone.grad)
    assert pred.grad[..., 1].tolist() == [[[0], [0], [0]]]


@pytest.mark.parametrize("bad", [0.0, math.nan])
def test_a_batch_without_a_valid_pixel_gives_zero(bad):
    pred = torch.full((1, 3, 4, 4), bad, requires_grad=True)
    loss = angular_loss(2 * pred, torch.full((1, 3, 4, 4), math.nan))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(pred.grad, torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (0, 1), (1, 0)])
def test_a_broken_prediction_shows_in_the_loss(bad, alpha, beta):
    loss = angular_loss(field((0, 0, 1), (0, bad, 1)), field((0, 0, 1), (0, 0, 1)), alpha=alpha, beta=beta)
    assert not torch.isfinite(loss)


def test_an_infinite_prediction_shows_in_each_term():
    l1, cosine = angular_loss_terms(field((0, math.inf, 1)), field((0, 0, 1)))
    assert not math.isfinite(l1)
    assert not math.isfinite(cosine)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"alpha": -1}, "alpha=-1: wanted a finite number"),
        ({"beta": math.nan}, "beta=nan"),
        ({"alpha": math.inf}, "alpha=inf"),
        ({"beta": "1"}, "beta='1'"),
        ({"alpha": 0, "beta": 0}, "nothing would be trained"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        AngularLoss(**weights)
    with pytest.raises(ValueError, match=message):
        angular_loss(field((0, 0, 1)), field((0, 0, 1)), **weights)


@pytest.mark.parametrize(
    ("pred", "target", "mask", "error", "message"),
    [
        ((3, 4, 4), (3, 4, 4), None, ValueError, r"pred has shape \(3, 4, 4\).*unsqueeze\(0\)"),
        ((1, 4, 4, 3), (1, 4, 4, 3), None, ValueError, r"pred has shape.*wanted \(B, 3, H, W\)"),
        ((1, 3, 4, 4), (1, 3, 8, 8), None, ValueError, "must be equal.*resize"),
        ((1, 3, 0, 4), (1, 3, 0, 4), None, ValueError, "no pixels"),
        ((1, 3, 4, 4), (1, 3, 4, 4), torch.ones(1, 4, 4), TypeError, "mask > 0"),
        ((1, 3, 4, 4), (1, 3, 4, 4), torch.ones(1, 1, 4, 4) > 0, ValueError, r"squeeze\(1\)"),
        ((1, 3, 4, 4), (1, 3, 4, 4), torch.ones(1, 4, 5) > 0, ValueError, r"wanted \(1, 4, 4\)"),
    ],
)
def test_bad_fields_are_refused(pred, target, mask, error, message):
    with pytest.raises(error, match=message):
        angular_loss(torch.ones(pred), torch.ones(target), mask)


def test_fields_must_be_floating_point():
    colours = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"target has dtype torch\.uint8.*rgb_to_normals"):
        angular_loss(torch.ones(1, 3, 4, 4), colours)


def test_fields_must_share_a_device():
    with pytest.raises(ValueError, match="pred is on meta and target on cpu"):
        angular_loss(torch.ones(1, 3, 4, 4, device="meta"), torch.ones(1, 3, 4, 4))


def test_print_shows_the_weights():
    assert repr(AngularLoss(alpha=5, beta=0.5)) == "AngularLoss(alpha=5, beta=0.5)"
