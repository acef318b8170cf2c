"""UNetNormals against segmentation_models.pytorch, and over sizes, skips, up-samplers and encoders."""

import copy
import itertools
import json
import math
import pickle

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from normalkit.losses import AngularLoss
from normalkit.models import UNetNormals

SMALL = (16, 12, 8, 8, 8)


def small(encoder="test_resnet", **options):
    torch.manual_seed(0)
    return UNetNormals(encoder, pretrained=False, decoder_channels=SMALL, **options)


def smp_unet(encoder="resnet18", **options):
    torch.manual_seed(0)
    model = smp.Unet(encoder, encoder_weights=None, **{"classes": 3, "decoder_channels": SMALL, **options})
    # One step of training moves every running statistic, so that losing them shows.
    model.train()(torch.rand(2, 3, 64, 64))
    return model.eval()


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("resnet18", {"decoder_channels": (256, 128, 64, 32, 16)}),
        ("resnet50", {}),
        ("tu-test_resnet", {}),
        ("tu-tf_efficientnet_lite0", {}),
        ("tu-test_convnext", {}),
        ("tu-regnetx_002", {"output_stride": 16}),
    ],
)
def test_from_smp_gives_its_raw_output(encoder, options):
    theirs = smp_unet(encoder, **options)
    ours = UNetNormals.from_smp(theirs)
    assert not ours.training
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(images)
        assert float((ours(images) - expected).abs().max() / expected.abs().max()) < 1e-5


def test_from_smp_normalises_as_told_and_copies_the_weights():
    theirs = smp_unet("tu-test_resnet").train()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    ours = UNetNormals.from_smp(theirs, image_mean=mean, image_std=std)
    assert ours.training
    assert theirs.training
    images = torch.rand(2, 3, 64, 64)
    normalised = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(normalised))
    with torch.no_grad():
        theirs.segmentation_head[0].bias += 1
    assert not torch.allclose(ours(images), theirs(normalised))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: smp_unet("resnext50_32x4d"), ValueError, "encoder_name='resnext50_32x4d' has no counterpart"),
        (lambda: smp_unet("mobilenet_v2"), ValueError, "encoder_name='mobilenet_v2'"),
        (
            lambda: smp_unet(decoder_attention_type="scse", decoder_channels=(16,) * 5),
            ValueError,
            "decoder_attention_type=",
        ),
        (lambda: smp_unet(encoder_depth=4, decoder_channels=SMALL[1:]), ValueError, "encoder_depth=4 .wanted 5"),
        (lambda: smp_unet(decoder_interpolation="bilinear"), ValueError, "decoder_interpolation='bilinear'"),
        (lambda: smp_unet(decoder_use_norm=False), ValueError, "decoder_use_norm='Identity"),
        (
            lambda: smp_unet(decoder_use_norm={"type": "batchnorm", "eps": 0.1}),
            ValueError,
            "decoder_use_norm=.*eps=0.1",
        ),
        (lambda: smp_unet(classes=1), ValueError, "classes=1 .wanted 3"),
        (lambda: smp_unet(activation="tanh"), ValueError, "activation='Tanh"),
        (lambda: smp_unet(aux_params={"classes": 2}), ValueError, "aux_params="),
        (lambda: smp_unet("tu-test_resnet", act_layer=nn.SiLU), ValueError, "output differs with the same weights"),
        (lambda: smp.FPN("resnet18", encoder_weights=None, classes=3), TypeError, "model is a FPN"),
    ],
)
def test_from_smp_refuses_what_it_cannot_take_by_name(build, error, message):
    model = build()
    with pytest.raises(error, match=message):
        UNetNormals.from_smp(model)


@pytest.mark.parametrize("upsample", ["transpose", "bilinear", "nearest"])
def test_every_subset_of_skips_trains(upsample):
    images = torch.rand(2, 3, 40, 70)
    for skips in itertools.chain.from_iterable(itertools.combinations((1, 2, 3, 4), n) for n in range(5)):
        model = small(skips=skips, upsample=upsample)
        model(images).square().sum().backward()
        assert model.config["skips"] == list(skips)
        assert all(parameter.grad is not None for parameter in model.decoder.parameters())


@pytest.mark.parametrize("size", [(1, 1), (1, 33), (31, 32), (32, 64), (47, 95)])
@pytest.mark.parametrize("encoder", ["test_resnet", "tf_efficientnet_lite0", "test_convnext"])
def test_any_size_gives_unit_vectors_at_that_size(encoder, size):
    normals = small(encoder).eval()(torch.rand(1, 3, *size))
    assert normals.shape == (1, 3, *size)
    assert normals.dtype == torch.float32
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(1, *size))


def test_padding_is_replication_on_the_right_and_at_the_bottom():
    model = small().eval()
    images = torch.rand(1, 3, 20, 50)
    rows, columns = torch.arange(32).clamp(max=19), torch.arange(64).clamp(max=49)
    padded = images[:, :, rows][:, :, :, columns]
    torch.testing.assert_close(model(images), model(padded)[:, :, :20, :50])


def test_images_are_normalised_inside():
    model = small(image_mean=(0.1, 0.2, 0.3), image_std=(0.4, 0.5, 0.6)).eval()
    plain = small(image_mean=(0, 0, 0), image_std=(1, 1, 1)).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 32, 64)
    normalised = (images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    torch.testing.assert_close(model(images), plain(normalised))


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_image_statistics_default_to_the_encoder(name):
    expected = timm.get_pretrained_cfg(name)
    assert small(name).config["image_mean"] == list(expected.mean)
    assert small(name).config["image_std"] == list(expected.std)


def test_normalize_is_a_default_that_a_call_overrides():
    unit, raw = small().eval(), small(normalize=False).eval()
    images = torch.rand(1, 3, 32, 64)
    torch.testing.assert_close(unit(images, normalize=False), raw(images))
    torch.testing.assert_close(raw(images, normalize=True), unit(images))
    torch.testing.assert_close(unit(images), torch.nn.functional.normalize(raw(images), dim=1))
    assert not torch.allclose(raw(images), unit(images))


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, 0.0), (float("nan"), float("nan")), (float("inf"), float("nan"))]
)
def test_prediction_without_a_direction_is_seen(value, expected):
    model = small().eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(value)
    output = model(torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(output, torch.full((1, 3, 32, 32), expected), equal_nan=True)
    target = torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert math.isfinite(AngularLoss()(output, target)) == (expected == 0)


@pytest.mark.parametrize("normalize", [True, False])
def test_output_is_float32_under_autocast(normalize):
    model = small().eval()
    images = torch.rand(1, 3, 40, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, normalize=normalize)
        assert model.raw_map(torch.rand(1, 3, 32, 32)).dtype == torch.bfloat16
    assert output.dtype == torch.float32
    if normalize:
        torch.testing.assert_close(output.norm(dim=1), torch.ones(1, 40, 50))
        assert float((output * model(images)).sum(1).mean().detach()) > 0.99


def test_float64_model_gives_float64_and_takes_float32():
    model = small().double().eval()
    assert model(torch.rand(1, 3, 32, 32)).dtype == torch.float64


def test_single_value_per_channel_cannot_train_and_says_so():
    model = small()
    with pytest.raises(ValueError, match=r"one value per channel.*two or more images.*larger.*eval\(\)"):
        model(torch.rand(1, 3, 20, 32))
    assert model(torch.rand(2, 3, 20, 32)).shape == (2, 3, 20, 32)
    assert model(torch.rand(1, 3, 20, 33)).shape == (1, 3, 20, 33)
    assert model.eval()(torch.rand(1, 3, 20, 32)).shape == (1, 3, 20, 32)


def test_single_value_per_channel_trains_where_no_batch_norm_sees_it():
    # ConvNeXt has no batch norm, and the decoder's first block doubles the map; dilated, it does not.
    assert small("test_convnext")(torch.rand(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"8 x 8 .*one value per channel"):
        small("test_convnext", output_stride=8)(torch.rand(1, 3, 8, 8))
    frozen = small()
    frozen.encoder.eval()
    assert frozen(torch.rand(1, 3, 32, 32)).shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(3, 32, 32), ValueError, r"\(3, 32, 32\); wanted \(B, 3, H, W\).*images\[None\]"),
        (torch.zeros(1, 1, 32, 32), ValueError, r"\(1, 1, 32, 32\)"),
        (torch.zeros(1, 32, 32, 3), ValueError, r"\(1, 32, 32, 3\)"),
        (torch.zeros(1, 3, 0, 32), ValueError, r"\(1, 3, 0, 32\).*none of them 0"),
        (torch.zeros(0, 3, 32, 32), ValueError, r"\(0, 3, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "torch.uint8; wanted floating point.*255"),
        (torch.zeros(1, 3, 32, 32).numpy(), TypeError, "images is a ndarray; wanted a tensor"),
    ],
)
def test_images_of_another_kind_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        small()(images)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"encoder": "tf_efficientnet_lite0", "skips": (1, 5)},
            ValueError,
            r"skips=\(1, 5\): level 5 does not exist; tf_efficientnet_lite0 has levels 1-4",
        ),
        (
            {"encoder": "test_convnext", "skips": (1,)},
            ValueError,
            r"skips=\(1,\): level 1 does not exist; test_convnext has levels 2-4",
        ),
        ({"decoder_channels": (8, 8)}, ValueError, "wanted 5"),
        ({"upsample": "learned"}, ValueError, "upsample='learned'"),
        ({"image_mean": (0.5, 0.5)}, ValueError, r"image_mean=\(0.5, 0.5\): wanted three"),
        ({"image_mean": 0.5}, TypeError, "image_mean=0.5"),
        ({"image_std": (0.5, 0, 0.5)}, ValueError, "image_std=.*positive"),
        ({"image_std": (0.5, float("nan"), 0.5)}, ValueError, "image_std=.*finite"),
        ({"normalize": 1}, TypeError, "normalize=1"),
        ({"encoder": 18}, TypeError, "encoder=18"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        UNetNormals(**{"encoder": "test_resnet", "pretrained": False, **arguments})


def test_config_builds_the_model_again():
    model = small("test_convnext", skips=[3, 2], upsample="bilinear", output_stride=16, image_std=(1, 2, 3)).eval()
    again = UNetNormals(**json.loads(json.dumps(model.config)), pretrained=False).eval()
    again.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 40, 40)
    assert again.config == model.config
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("encoder", ["test_resnet", "tf_efficientnet_lite0"])
def test_copies_are_equal_and_independent(copied, encoder):
    model = small(encoder).eval()
    twin = copied(model)
    images = torch.rand(1, 3, 32, 48)
    assert torch.equal(twin(images), model(images))
    with torch.no_grad():
        twin.head.bias += 1
    assert not torch.equal(twin(images), model(images))


def test_layout_in_memory_changes_nothing():
    model = small().eval()
    images = torch.rand(2, 3, 40, 50)
    expected = model(images)
    strided = torch.rand(2, 40, 50, 3).copy_(images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(model(strided), expected, rtol=1e-4, atol=1e-5)
    channels_last = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        channels_last(images.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5
    )


def test_exported_program_takes_other_sizes():
    model = small("test_efficientnet").eval()
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {"images": {0: dynamic, 2: dynamic, 3: dynamic}}
    program = torch.export.export(model, (torch.rand(2, 3, 70, 90),), dynamic_shapes=shapes).module()
    # With and without padding.
    for size in [(3, 3, 33, 130), (2, 3, 64, 96)]:
        images = torch.rand(size)
        torch.testing.assert_close(program(images), model(images))


@pytest.mark.slow
def test_compiled_model_gives_the_same():
    model = small("tf_efficientnet_lite0").eval()
    compiled = torch.compile(model, fullgraph=True)
    images = torch.rand(2, 3, 50, 70)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-3, atol=1e-4)
