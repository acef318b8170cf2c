"""BilinearNormals against the report's network, written independently from torchvision's ResNet-18."""

import pytest
import torch
import torchvision
from torch import nn

from normalkit.models import BilinearNormals


@pytest.fixture(scope="module")
def report():
    """The report's network: ResNet-18 without pooling and classifier, then its up-sampling head."""
    torch.manual_seed(0)
    network = nn.Module()
    network.encoder = nn.Sequential(*list(torchvision.models.resnet18(weights=None).children())[:-2])
    network.upsample = nn.Sequential(
        nn.Upsample(scale_factor=32.0, mode="bilinear"),
        nn.Conv2d(512, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 128, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(128, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 3, 1),
    )
    for key, value in network.state_dict().items():
        if "running" in key:
            value.uniform_(0.5, 1.5)
    return network.eval()


def leaves(module):
    """What a module computes, step by step: its innermost modules and their settings."""
    return [str(leaf) for leaf in module.modules() if not list(leaf.children())]


def test_modules_are_those_of_the_report(report):
    model = BilinearNormals("resnet18", pretrained=False)
    assert str(model.upsample) == str(report.upsample)
    ours = list(model.encoder.model.children())
    theirs = list(report.encoder.children())
    assert len(ours) == len(theirs)
    for mine, its in zip(ours, theirs, strict=True):
        # timm has a ReLU, torchvision uses one twice; drop path and its like are identities.
        kept = [leaf for leaf in leaves(mine) if leaf != "Identity()"]
        assert [k for k in kept if "ReLU" not in k] == [t for t in leaves(its) if "ReLU" not in t]


def test_output_is_that_of_the_report_with_the_same_weights(report):
    model = BilinearNormals(
        "resnet18", pretrained=False, normalize=False, image_mean=(0, 0, 0), image_std=(1, 1, 1)
    ).eval()
    ours, theirs = model.state_dict(), report.state_dict()
    assert [value.shape for value in ours.values()] == [value.shape for value in theirs.values()]
    assert [key for key in ours if key.startswith("upsample")] == [key for key in theirs if key.startswith("upsample")]
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    images = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        expected = report.upsample(report.encoder(images))
        assert float((model(images) - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("encoder", ["test_resnet", "tf_efficientnet_lite0", "test_convnext"])
@pytest.mark.parametrize("output_stride", [32, 8])
def test_any_encoder_gives_unit_vectors_at_the_size_of_the_image(encoder, output_stride):
    model = BilinearNormals(encoder, pretrained=False, channels=(8,), output_stride=output_stride).eval()
    assert model.upsample[0].scale_factor == output_stride
    normals = model(torch.rand(1, 3, 37, 50))
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(1, 37, 50))


def test_single_value_per_channel_cannot_train_and_says_so():
    model = BilinearNormals("test_resnet", pretrained=False, channels=(8,))
    with pytest.raises(ValueError, match=r"32 x 32 .*one value per channel"):
        model(torch.rand(1, 3, 32, 32))
    # The head has no batch norm.
    assert BilinearNormals("test_convnext", pretrained=False, channels=(8,))(torch.rand(1, 3, 32, 32)).ndim == 4


def test_config_builds_the_model_again():
    model = BilinearNormals("test_resnet", pretrained=False, channels=(8, 6), normalize=False)
    again = BilinearNormals(**model.config, pretrained=False)
    again.load_state_dict(model.state_dict())
    assert again.config == model.config
    assert not again.normalize
