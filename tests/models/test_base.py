"""What normal estimators share: the resolution they work at, and a faster copy."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.modules.batchnorm import _BatchNorm

from normalkit import BaseNet, BilinearNormals, ImprovedNet, SMPNormals, UNetNormals, load_model, predict
from normalkit.models import NormalEstimator


class Colours(NormalEstimator):
    """The raw map is the image."""

    def __init__(self, **options):
        super().__init__(config={}, stride=8, image_mean=(0, 0, 0), image_std=(1, 1, 1), **options)
        self.seen = None

    def raw_map(self, images):
        self.seen = images
        return images


def unet(**options):
    torch.manual_seed(0)
    return UNetNormals("test_resnet", pretrained=False, decoder_channels=(8, 8, 8, 8, 8), **options).eval()


@pytest.mark.parametrize(
    ("size", "resolution", "inner"),
    [((48, 64), 32, (24, 32)), ((64, 48), 32, (32, 24)), ((30, 90), 45, (15, 45)), ((10, 20), 40, (20, 40))],
)
def test_the_network_sees_images_as_pillow_scales_them(size, resolution, inner):
    pixels = np.random.default_rng(0).random((*size, 3), np.float32)
    model = Colours(normalize=False, resolution=resolution)
    raw = model(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    small = np.stack(
        [
            np.asarray(Image.fromarray(pixels[..., c], "F").resize(inner[::-1], Image.Resampling.BILINEAR))
            for c in range(3)
        ]
    )
    np.testing.assert_allclose(model.seen[0, :, : inner[0], : inner[1]], small, atol=1e-5)
    assert raw.shape == (1, 3, *size)
    # Back at the image's size by bilinear interpolation between pixel centres, as numpy does it along each axis.
    for axis, (before, after) in enumerate(zip(inner, size, strict=True), start=1):
        places = (np.arange(after) + 0.5) * before / after - 0.5
        small = np.apply_along_axis(lambda line, p=places: np.interp(p, np.arange(len(line)), line), axis, small)
    np.testing.assert_allclose(raw[0], small, atol=1e-5)


@pytest.mark.parametrize("size", [(24, 32), (1, 32), (32, 7)])
def test_images_of_that_resolution_are_left_as_they_are(size):
    images = torch.rand(2, 3, *size)
    assert torch.equal(unet(resolution=32)(images), unet()(images))


def test_thin_images_keep_a_pixel():
    assert unet(resolution=16)(torch.rand(1, 3, 2, 300)).shape == (1, 3, 2, 300)


def test_a_photo_of_any_size_is_answered_at_its_size_in_unit_vectors():
    normals = predict(unet(resolution=32), torch.rand(3, 100, 75), flip=True)
    assert normals.shape == (3, 100, 75)
    torch.testing.assert_close(normals.norm(dim=0), torch.ones(100, 75))


def test_training_through_it_reaches_every_weight():
    model = unet(resolution=32).train()
    model(torch.rand(2, 3, 60, 80))[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_checkpoint_carries_it(tmp_path):
    model = unet(resolution=32)
    model.resolution = 48
    model.save_pretrained(tmp_path / "best")
    loaded = load_model(tmp_path / "best")
    images = torch.rand(1, 3, 60, 80)
    assert loaded.resolution == 48
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("cls", [UNetNormals, BilinearNormals])
@pytest.mark.parametrize(
    ("resolution", "error"),
    [(0, ValueError), (-3, ValueError), (16.0, TypeError), (True, TypeError), ("64", TypeError)],
)
def test_bad_resolutions_are_named(cls, resolution, error):
    with pytest.raises(error, match=f"resolution={resolution!r}: wanted"):
        cls("test_resnet", pretrained=False, resolution=resolution)


def test_export_holds_for_images_of_the_resolution():
    model = unet(resolution=64)
    program = torch.export.export(model, (torch.rand(1, 3, 48, 64),))
    images = torch.rand(1, 3, 48, 64)
    torch.testing.assert_close(program.module()(images), model(images))


def with_statistics(model):
    """In eval mode, with batch norms that have seen something."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def batch_norms(model):
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (lambda: unet(upsample="nearest"), 0),
        (lambda: unet(upsample="transpose", resolution=48), 0),
        (lambda: UNetNormals("test_efficientnet", pretrained=False), 0),
        (lambda: UNetNormals("mobilenetv3_small_050", pretrained=False), 0),
        (lambda: UNetNormals("resnetv2_18", pretrained=False), None),
        (lambda: UNetNormals("test_convnext", pretrained=False), 0),
        (lambda: BilinearNormals("test_resnet", pretrained=False, channels=(8,)), 0),
        (lambda: SMPNormals("Linknet", "tu-test_resnet", pretrained=False), 0),
        (BaseNet, 0),
        (lambda: ImprovedNet(head="pool"), 0),
    ],
)
def test_optimized_model_answers_the_same(build, left):
    model = with_statistics(build())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fast = model.optimized()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected, found = model(images), fast(images)
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    before, after = batch_norms(model), batch_norms(fast)
    assert after == left if left is not None else 0 < after < before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_optimized_model_can_be_compiled():
    fast = with_statistics(unet()).optimized()
    compiled = torch.compile(fast, fullgraph=True, backend="eager")
    images = torch.rand(1, 3, 40, 50)
    torch.testing.assert_close(compiled(images), fast(images))


def test_optimized_model_is_neither_trained_nor_saved(tmp_path):
    model = unet().train()
    fast = model.optimized()
    assert model.training
    assert not fast.training
    with pytest.raises(ValueError, match="optimized model cannot be trained"):
        fast.train()
    with pytest.raises(ValueError, match="save the model that it was made of"):
        fast.save_pretrained(tmp_path / "model")
    predict(fast, torch.rand(3, 20, 30))
    assert not fast.training
