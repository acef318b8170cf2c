"""The angular von Mises-Fisher distribution against numerical integrals, samples drawn from it, and slow loops."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from normalkit import UNetNormals, load_model, save_model
from normalkit.losses import AngMFLoss, angmf_loss
from normalkit.models import NormalEstimator
from normalkit.training import normals_loss
from normalkit.uncertainty import calibrate, estimate, expected_error, sparsification


class Says(NormalEstimator):
    """The raw map is the image, scaled."""

    def __init__(self, factor=1.0, **options):
        super().__init__(config={}, stride=1, image_mean=(0, 0, 0), image_std=(1, 1, 1), **options)
        self.factor = factor

    def raw_map(self, images):
        return self.factor * images


def density(angle, k):
    """Of the direction, a steradian, without the constant that makes it one."""
    return math.exp(-k * angle) * 2 * math.pi * math.sin(angle)


@pytest.mark.parametrize("k", [0.0, 0.3, 2.0, 25.0])
def test_the_expected_error_is_the_mean_of_the_distribution(k):
    whole = quad(density, 0, math.pi, args=(k,))[0]
    mean = quad(lambda angle: angle * density(angle, k), 0, math.pi)[0] / whole
    assert float(expected_error(torch.tensor(k, dtype=torch.float64))) == pytest.approx(math.degrees(mean), rel=1e-9)


@pytest.mark.parametrize("k", [0.2, 3.0, 40.0])
@pytest.mark.parametrize("degrees", [0.5, 30.0, 120.0])
def test_the_loss_is_the_negative_logarithm_of_the_density(k, degrees):
    angle = math.radians(degrees)
    target = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64).view(1, 3, 1, 1)
    raw = k * torch.tensor([math.sin(angle), 0.0, -math.cos(angle)], dtype=torch.float64).view(1, 3, 1, 1)
    whole = quad(density, 0, math.pi, args=(k,))[0]
    expected = -math.log(math.exp(-k * angle) / whole) - math.log(2 * math.pi)
    assert float(AngMFLoss()(raw, 2 * target)) == pytest.approx(expected, rel=1e-9)


def test_the_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    raw = (3 * torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=generator)).requires_grad_()
    target = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda x: angmf_loss(x, target), (raw,))


def test_labels_that_do_not_count_have_no_influence():
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn(1, 3, 2, 3, generator=generator)
    raw[0, :, 0, 0] = math.nan
    raw.requires_grad_()
    target = torch.randn(1, 3, 2, 3, generator=generator)
    target[0, :, 0, 1] = math.nan
    target[0, :, 0, 2] = 0.1
    mask = torch.ones(1, 2, 3, dtype=torch.bool)
    mask[0, 0, 0] = False
    loss = angmf_loss(raw, target, mask)
    assert torch.isclose(loss, angmf_loss(raw[..., 1:, :], target[..., 1:, :]))
    loss.backward()
    assert not raw.grad[0, :, 0].any()
    assert raw.grad[0, :, 1].all()
    none = angmf_loss(raw, target, torch.zeros_like(mask))
    assert float(none.detach()) == 0


def test_predictions_that_are_not_finite_stop_the_training_and_zero_ones_do_not():
    target = torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1)
    for value in (math.nan, math.inf):
        assert angmf_loss(torch.full((1, 3, 1, 1), value), target).isnan()
    zero = torch.zeros(1, 3, 1, 1, requires_grad=True)
    loss = angmf_loss(zero, target)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(2))
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    raw, target = torch.full((1, 3, 1, 1), 300.0, dtype=dtype), torch.ones(1, 3, 1, 1, dtype=dtype)
    assert angmf_loss(raw, target).dtype == torch.float32
    assert float(angmf_loss(raw, target)) == pytest.approx(-math.log(3 * 300.0**2), rel=1e-2)


def drawn(k, count, seed=0):
    """Unit vectors from the distribution about (0, 0, -1), by inverting its numerical distribution function."""
    draw = np.random.default_rng(seed)
    grid = np.linspace(0, math.pi, 20001)
    weights = np.exp(-k * grid) * np.sin(grid)
    cumulative = np.concatenate([[0], np.cumsum((weights[1:] + weights[:-1]) / 2)])
    angles = np.interp(draw.random(count), cumulative / cumulative[-1], grid)
    turns = 2 * math.pi * draw.random(count)
    vectors = [np.sin(angles) * np.cos(turns), np.sin(angles) * np.sin(turns), -np.cos(angles)]
    return torch.tensor(np.stack(vectors), dtype=torch.float32).view(1, 3, 1, count)


def test_calibration_finds_the_factor_that_the_labels_were_drawn_with():
    count, k, overstated = 20000, 6.0, 3.0
    model = Says(concentration=1.0)
    said = torch.tensor([0.0, 0.0, -overstated * k]).view(1, 3, 1, 1).expand(1, 3, 1, count)
    batches = [{"image": said[..., i::2], "normals": drawn(k, count)[..., i::2]} for i in range(2)]
    assert calibrate(model.train(), batches) == model.concentration
    assert model.concentration == pytest.approx(1 / overstated, rel=0.08)
    assert model.training
    # Now it expects the error that it makes.
    normals, expected = estimate(model, said)
    true = torch.rad2deg(torch.arccos((normals * drawn(k, count)).sum(1).clamp(-1, 1)))
    assert float(expected.mean()) == pytest.approx(float(true.mean()), rel=0.08)


def test_calibration_needs_a_pixel():
    batch = {"image": torch.ones(1, 3, 2, 2), "normals": torch.zeros(1, 3, 2, 2)}
    with pytest.raises(ValueError, match="no valid pixel"):
        calibrate(Says(concentration=1.0), [batch])


def test_estimate_gives_unit_normals_and_degrees():
    images = torch.tensor([[0.0, 0.0, -5.0], [math.nan, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 3.0, 4.0]]).T.view(1, 3, 1, 4)
    normals, error = estimate(Says(concentration=2.0), images)
    torch.testing.assert_close(normals[0, :, 0].T[0], torch.tensor([0.0, 0.0, -1.0]))
    torch.testing.assert_close(normals[0, :, 0].T[3], torch.tensor([0.0, 0.6, 0.8]))
    assert not normals[0, :, 0, 1:3].any()
    torch.testing.assert_close(error[0, 0], expected_error(torch.tensor([10.0, 0.0, 0.0, 10.0])))
    with pytest.raises(ValueError, match="train it with AngMFLoss"):
        estimate(Says(), images)


def test_a_checkpoint_keeps_the_concentration(tmp_path):
    model = UNetNormals("test_resnet", pretrained=False, decoder_channels=(8,) * 5, concentration=1.0)
    model.concentration = 0.7
    save_model(tmp_path / "a", model)
    assert load_model(tmp_path / "a").concentration == 0.7
    model.concentration = None
    save_model(tmp_path / "a", model)
    assert load_model(tmp_path / "a").concentration is None


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (math.inf, ValueError), ("1", TypeError)])
def test_a_concentration_is_a_positive_number(value, error):
    with pytest.raises(error, match="concentration"):
        Says(concentration=value)


def test_training_makes_a_network_as_sure_as_it_can_be():
    """One weight, and labels of a known concentration: the loss leads there, through what `fit` is given."""
    k = 8.0
    batch = {"image": torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 1, 5000), "normals": drawn(k, 5000)}
    model = Says(concentration=1.0)
    model.factor = torch.nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.Adam(model.parameters(), 0.2)
    loss = normals_loss(AngMFLoss())
    for _ in range(200):
        optimizer.zero_grad()
        loss(model, batch)["loss"].backward()
        optimizer.step()
    assert float(model.factor.detach()) == pytest.approx(k, rel=0.05)


def test_sparsification_takes_the_least_certain_away_first():
    errors = torch.tensor([10.0, 40.0, math.nan, 20.0, 30.0])
    curve = sparsification(errors, torch.tensor([1.0, 2.0, 99.0, 3.0, 4.0]), steps=4)
    torch.testing.assert_close(curve.removed, torch.tensor([0.0, 0.25, 0.5, 0.75]))
    torch.testing.assert_close(curve.error, torch.tensor([25.0, 70 / 3, 25.0, 10.0]))
    torch.testing.assert_close(curve.best, torch.tensor([25.0, 20.0, 15.0, 10.0]))
    assert curve.area == pytest.approx(np.trapezoid([0, 10 / 3, 10, 0], [0, 0.25, 0.5, 0.75]))
    assert sparsification(errors, errors.nan_to_num(0)).area == 0


@pytest.mark.parametrize(
    ("errors", "uncertainties", "steps", "message"),
    [
        (torch.ones(3), torch.ones(4), 5, "differ in shape"),
        (torch.full((3,), math.nan), torch.ones(3), 5, "no pixel counts"),
        (torch.ones(3), torch.ones(3), 1, "steps=1"),
    ],
)
def test_sparsification_refuses(errors, uncertainties, steps, message):
    with pytest.raises(ValueError, match=message):
        sparsification(errors, uncertainties, steps=steps)
