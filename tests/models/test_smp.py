"""Architectures of segmentation_models.pytorch: their own output, any size, checkpoints, and what is refused."""

import pytest
import segmentation_models_pytorch as smp
import torch

from normalkit import AngularLoss, SMPNormals, load_model, predict
from normalkit.models.smp import ARCHITECTURES
from normalkit.nn import NormalHead

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "DPT": {"decoder_intermediate_channels": [8, 8, 8, 8], "decoder_fusion_channels": 8},
    "Unet": {"decoder_channels": [16, 8, 8, 8, 8]},
    "UnetPlusPlus": {"decoder_channels": [16, 8, 8, 8, 8]},
    "MAnet": {"decoder_channels": [16, 16, 16, 16, 16]},
    "UPerNet": {"decoder_channels": 16},
}


def make(arch, **kwargs):
    torch.manual_seed(0)
    encoder = "tu-test_vit" if arch == "DPT" else "tu-test_resnet"
    return SMPNormals(arch, encoder, pretrained=False, options=SMALL.get(arch), **kwargs)


def test_every_architecture_of_the_library_is_known():
    of_library = {cls.__name__ for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    assert set(ARCHITECTURES) == of_library


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_any_size_trains_and_gives_unit_vectors(arch, tmp_path):
    model = make(arch)
    images, normals = torch.rand(2, 3, 37, 70), torch.nn.functional.normalize(torch.randn(2, 3, 37, 70), dim=1)
    AngularLoss()(model.train()(images), normals).backward()
    head = next(module for module in model.modules() if isinstance(module, NormalHead))
    assert head.weight.grad.abs().sum() > 0
    model.eval()
    for size in ((37, 70), (9, 200)):
        answer = model(torch.rand(1, 3, *size))
        assert answer.shape == (1, 3, *size)
        torch.testing.assert_close(answer.norm(dim=1), torch.ones(1, *size))
    model.save_pretrained(tmp_path / "best")
    loaded = load_model(tmp_path / "best")
    assert type(loaded) is SMPNormals
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("arch", ["Unet", "FPN", "DeepLabV3Plus"])
def test_the_raw_map_is_the_librarys(arch):
    model = make(arch, image_mean=(0, 0, 0), image_std=(1, 1, 1)).eval()
    theirs = getattr(smp, arch)("tu-test_resnet", encoder_weights=None, classes=3, **SMALL.get(arch, {})).eval()
    theirs.load_state_dict(model.network.state_dict())
    images = torch.rand(2, 3, 64, 96)
    assert torch.equal(model(images, normalize=False), theirs(images))


def test_options_reach_the_architecture_and_the_checkpoint(tmp_path):
    model = SMPNormals("deeplabv3plus", "tu-test_resnet", pretrained=False, options={"encoder_output_stride": 8}).eval()
    assert model.config["arch"] == "DeepLabV3Plus"
    assert model.stride == 8
    model.save_pretrained(tmp_path / "best")
    assert load_model(tmp_path / "best").network.encoder.output_stride == 8


def test_the_encoder_takes_timms_weights_strictly(tmp_path):
    import timm

    torch.manual_seed(1)
    timms = timm.create_model("test_resnet", pretrained=False)
    torch.save(timms.state_dict(), tmp_path / "weights.pth")
    model = SMPNormals("FPN", "tu-test_resnet", pretrained=tmp_path / "weights.pth").eval()
    features = timms.eval().forward_features(torch.ones(1, 3, 64, 64))
    torch.testing.assert_close(model.network.encoder(torch.ones(1, 3, 64, 64))[-1], features)
    torch.save({"conv1.0.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="these are not the weights of timm's test_resnet"):
        SMPNormals("FPN", "tu-test_resnet", pretrained=tmp_path / "weights.pth")


def test_a_photo_is_answered_at_its_size():
    assert predict(make("Linknet", resolution=64), torch.rand(3, 90, 120), flip=True).shape == (3, 90, 120)


@pytest.mark.parametrize("arch", ["DeepLabV3", "Unet"])
def test_a_single_image_cannot_train_batch_norm(arch):
    with pytest.raises(ValueError, match="use two or more images"):
        make(arch).train()(torch.rand(1, 3, 30, 30))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("Unet3D",), ValueError, "arch='Unet3D': wanted one of DPT, DeepLabV3"),
        ((3,), TypeError, "arch=3"),
        (("FPN", "resnet18"), ValueError, "encoder='resnet18': wanted 'tu-' and the name of a timm model"),
        (("FPN", "tu-nothing"), ValueError, "encoder='tu-nothing'"),
        (("FPN", None), TypeError, "encoder=None"),
        (("Unet", "tu-test_vit"), ValueError, "cannot be built on encoder='tu-test_vit'.*for DPT a plain"),
        (("FPN", "tu-test_resnet", "nowhere.pth"), FileNotFoundError, "there is no such file"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, message):
    arch, *others = arguments
    encoder, pretrained = (*others, *["tu-test_resnet", False][len(others) :])
    with pytest.raises(error, match=message):
        SMPNormals(arch, encoder, pretrained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "options: classes are set here"),
        ({"depth": 3}, "options: FPN has no depth; it has decoder_dropout"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SMPNormals("FPN", "tu-test_resnet", pretrained=False, options=options)
