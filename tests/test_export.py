"""Exported models against the models themselves, in ONNX Runtime, as programs of torch.export, and compiled."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import normalkit
from normalkit import BaseNet, BilinearNormals, ImprovedNet, SMPNormals, UNetNormals, export, load_model, save_model
from normalkit.cli import main
from normalkit.export import export_onnx, export_program
from normalkit.models import NormalEstimator, base

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.usefixtures("one_thread")

# The smallest of each named family but Swin.
FAMILIES = [
    "test_resnet",
    "regnetx_002",
    "test_efficientnet",
    "mobilenetv3_small_050",
    "vgg11",
    "densenet121",
    "test_convnext",
]
# Below one stride, of a single pixel's height, without padding, and with padding along one side and along both.
SIZES = [(1, 20, 33), (3, 1, 40), (2, 64, 96), (1, 64, 33), (2, 37, 70)]


class Colours(NormalEstimator):
    """The raw map is the image, less a half, times a factor."""

    def __init__(self, **options):
        super().__init__(config={}, stride=8, image_mean=(0.5, 0.5, 0.5), image_std=(1, 1, 1), **options)
        self.factor = nn.Parameter(torch.tensor(2.0))

    def raw_map(self, images):
        return self.factor * images


class FixedSize(Colours):
    """Needs the width as a number."""

    def raw_map(self, images):
        return self.factor * images * torch.linspace(1, 2, int(images.shape[-1]))


class NoForm(Colours):
    """Of an operator that ONNX lacks."""

    def raw_map(self, images):
        return torch.special.bessel_j0(self.factor * images)


def moved(model):
    """With running statistics and a head that an untrained network does not have."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if "running" in name:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model.eval()


def unet(encoder="test_resnet", **options):
    torch.manual_seed(0)
    return moved(UNetNormals(encoder, pretrained=False, decoder_channels=(16, 12, 8, 8, 8), **options))


def smp(arch, **options):
    torch.manual_seed(0)
    return moved(SMPNormals(arch, "tu-test_resnet", pretrained=False, **options))


def run(path, images):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"images": images.numpy()})
    return torch.from_numpy(answer)


def facts(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def shapes(path):
    graph = onnx.load(path).graph
    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


def assert_same_answers(path, model, sizes):
    generator = torch.Generator().manual_seed(1)
    for batch, height, width in sizes:
        images = torch.rand(batch, 3, height, width, generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(run(path, images), model(images), rtol=0, atol=1e-4)


def cli(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    output = capsys.readouterr()
    return stop.value.code, output.out, output.err


def test_the_command_writes_what_answers_as_the_model_for_images_of_any_size(tmp_path, capsys):
    metrics = {"mean": 17.5}
    save_model(tmp_path / "best", unet(upsample="bilinear"), metadata={"data": "rooms", "metrics": metrics})
    path = tmp_path / "new" / "model.onnx"
    code, out, errors = cli(capsys, "export", tmp_path / "best", "--out", path)
    assert (code, errors) == (0, "")
    assert out.startswith(f"{tmp_path / 'best'} -> {path} (within ")
    assert_same_answers(path, load_model(tmp_path / "best"), SIZES)
    found = facts(path)
    assert (found["normalkit"], found["model"]) == (normalkit.__version__, "UNetNormals")
    assert (found["convention"], found["axes"].partition(",")[0]) == ("OPENCV", "x right")
    assert json.loads(found["config"])["encoder"] == "test_resnet"
    assert json.loads(found["metadata"]) == {"data": "rooms", "metrics": metrics}
    assert shapes(path) == {name: ["batch", 3, "height", "width"] for name in ("images", "normals")}
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Of `Colours`."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    model = Colours().double().train()
    assert export_onnx(model, path) < 1e-5
    # The model is left as it was.
    assert model.training
    assert model.factor.dtype == torch.float64
    assert model.factor.requires_grad
    return path


def test_the_answer_is_in_unit_vectors_of_the_axes_that_the_file_names(file):
    pixels = np.random.default_rng(0).random((2, 3, 11, 21), np.float32)
    expected = (pixels - 0.5) / np.linalg.norm(pixels - 0.5, axis=1, keepdims=True)
    np.testing.assert_allclose(run(file, torch.from_numpy(pixels)), expected, atol=1e-5)
    # A wall seen head-on, as the model has it.
    wall = torch.tensor([0.5, 0.5, 0.1]).view(1, 3, 1, 1).expand(1, 3, 9, 9).contiguous()
    assert "a wall seen head-on is (0, 0, -1)" in facts(file)["axes"]
    expected = torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 9, 9)
    torch.testing.assert_close(run(file, wall), expected)


def test_what_has_no_direction_stays_zero_and_what_is_not_finite_nan(file):
    images = torch.full((1, 3, 8, 8), 0.5)
    images[0, 0, 1, 1] = torch.nan
    torch.testing.assert_close(run(file, images), Colours()(images), equal_nan=True)


@pytest.mark.slow
def test_the_raw_map_is_exported_where_the_model_gives_it(tmp_path):
    export_onnx(Colours(normalize=False), tmp_path / "model.onnx")
    images = torch.rand(1, 3, 9, 10)
    torch.testing.assert_close(run(tmp_path / "model.onnx", images), 2 * images - 1)
    assert facts(tmp_path / "model.onnx")["normals"].endswith("of any length")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 48, 64), (2, 37, 70), (1, 200, 100), (1, 2, 300), (1, 10, 20)])
def test_images_are_scaled_to_the_resolution_inside(size, resolution_file):
    model = Colours(resolution=64)
    # Darker than the mean: near it vectors are near zero, whose directions rounding turns.
    images = 0.4 * torch.rand(size[0], 3, *size[1:])
    torch.testing.assert_close(run(resolution_file, images), model(images), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def resolution_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(Colours(resolution=64), path)
    return path


@pytest.mark.slow
def test_scaling_down_is_checked_too(tmp_path, monkeypatch):
    right = base._antialiasing
    monkeypatch.setattr(
        base, "_antialiasing", lambda before, after, images: right(before, after, images) + before // 100
    )
    with pytest.raises(ValueError, match=r"for images \(4, 3, 127, 65\) its ONNX file answers otherwise"):
        export_onnx(Colours(resolution=64), tmp_path / "model.onnx")


def test_a_classifier_has_scores_and_no_axes(tmp_path):
    model = moved(BaseNet())
    export_onnx(model, tmp_path / "model.onnx")
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(run(tmp_path / "model.onnx", images), model(images), rtol=0, atol=1e-4)
    assert shapes(tmp_path / "model.onnx") == {"images": ["batch", 3, 32, 32], "scores": ["batch", 10]}
    assert facts(tmp_path / "model.onnx").keys().isdisjoint({"convention", "axes", "normals"})


@pytest.mark.slow
def test_a_network_of_one_size_says_so_and_takes_it(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match=r"model: a FixedSize .*any size \(.*\); give one, such as size=\(480, 640\)"):
        export_onnx(FixedSize(), path)
    assert list(tmp_path.iterdir()) == []
    export_onnx(FixedSize(), path, size=(13, 20))
    assert shapes(path)["images"] == ["batch", 3, 13, 20]
    images = torch.rand(3, 3, 13, 20)
    torch.testing.assert_close(run(path, images), FixedSize()(images), rtol=0, atol=1e-4)


def test_what_has_no_onnx_form_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"model: a NoForm cannot be exported \(.*bessel_j0.*\); choose another encoder"
    ):
        export_onnx(NoForm(), tmp_path / "model.onnx", size=(16, 16))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("factor", [pytest.param(-2.0), pytest.param(float("nan"), marks=pytest.mark.slow)])
def test_a_wrong_file_is_refused_and_leaves_the_old_one(factor, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_text("old")
    program = export._program

    def wrong(network, size):
        other = Colours()
        nn.init.constant_(other.factor, factor)
        return program(other, size)

    monkeypatch.setattr(export, "_program", wrong)
    with pytest.raises(ValueError, match=r"its ONNX file answers otherwise, by .*0\.0001 is allowed; nothing was writ"):
        export_onnx(Colours(), path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.slow
def test_a_file_that_is_wrong_at_other_sizes_alone_is_refused(tmp_path, monkeypatch):
    program = export._program

    class Shifted(Colours):
        def raw_map(self, images):
            return self.factor * images + images.shape[-1] // 24

    monkeypatch.setattr(export, "_program", lambda network, size: program(Shifted(), size))
    with pytest.raises(ValueError, match=r"for images \(2, 3, 11, 23\) its ONNX file answers otherwise"):
        export_onnx(Colours(), tmp_path / "model.onnx")


@pytest.mark.slow
def test_vectors_near_zero_count_by_their_length(tmp_path, monkeypatch):
    # Noise of 1e-6 turns a vector of 1e-6 by far, and no file is to blame for it.
    program = export._program

    class Noisy(Colours):
        def raw_map(self, images):
            return self.factor * images + 1e-6

    class Dead(Colours):
        def raw_map(self, images):
            return self.factor * images * torch.where(images[:, :1] > 0.3, 1e-6, 1.0)

    class NoisyDead(Dead):
        def raw_map(self, images):
            return super().raw_map(images) + 1e-6

    monkeypatch.setattr(export, "_program", lambda network, size: program(NoisyDead(), size))
    assert 1e-7 < export_onnx(Dead(), tmp_path / "model.onnx") < 1e-4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"path": "model.pt"}, ValueError, r"path='.*model\.pt': wanted a name that ends in \.onnx"),
        ({"path": "none/model.onnx"}, FileNotFoundError, r"none/model\.onnx: its folder does not exist"),
        ({"model": nn.Linear(1, 1)}, TypeError, r"model is a Linear; wanted one of normalkit\.models: unwrap"),
        ({"size": (480,)}, ValueError, r"size=\(480,\): wanted height and width"),
        ({"size": (0, 5)}, ValueError, r"size=\(0, 5\): wanted height and width"),
        ({"size": (5.0, 5)}, ValueError, r"size=\(5\.0, 5\): wanted height and width"),
        ({"model": BaseNet(), "size": (64, 64)}, ValueError, r"size=\(64, 64\): a BaseNet takes images of 32 x 32"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_any_work(arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "export", None)
    arguments = {"model": Colours(), "path": "model.onnx", **arguments}
    with pytest.raises(error, match=message):
        export_onnx(arguments.pop("model"), tmp_path / arguments.pop("path"), **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_extra_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ImportError, match=rf"needs the package {package}: pip install .normalkit\[onnx\]"):
        export_onnx(Colours(), tmp_path / "model.onnx")


def test_weights_that_no_file_holds_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LARGEST_FILE", 3)
    with pytest.raises(ValueError, match=r"its weights take .* GB, and an ONNX file holds .*smaller encoder"):
        export_onnx(Colours(), tmp_path / "model.onnx")


def test_the_command_s_errors_are_one_line(tmp_path, capsys):
    save_model(tmp_path / "best", BaseNet())
    code, out, errors = cli(capsys, "export", tmp_path / "best", "--out", tmp_path / "model.pt")
    assert (code, out, errors.count("\n")) == (1, "", 1)
    code, _, errors = cli(capsys, "export", tmp_path / "nothing", "--out", tmp_path / "model.onnx")
    assert (code, errors) == (1, f"normalkit: {tmp_path / 'nothing'}: there is no such folder\n")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("encoder", FAMILIES)
def test_every_encoder_family_exports(encoder, tmp_path):
    model = unet(encoder)
    export_onnx(model, tmp_path / "model.onnx")
    assert_same_answers(tmp_path / "model.onnx", model, SIZES)


def test_swin_says_at_once_that_it_takes_one_size(tmp_path):
    with pytest.raises(ValueError, match=r"UNetNormals of swin_tiny.* any size \(its windows .*size=\(480, 640\)"):
        export_onnx(unet("swin_tiny_patch4_window7_224"), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_swin_exports_for_one_size(tmp_path):
    model = unet("swin_tiny_patch4_window7_224")
    export_onnx(model, tmp_path / "model.onnx", size=(75, 100))
    assert_same_answers(tmp_path / "model.onnx", model, [(1, 75, 100), (3, 75, 100)])


@pytest.mark.slow
@pytest.mark.parametrize("skips", [(), (1, 4)])
@pytest.mark.parametrize("upsample", ["transpose", "bilinear", "nearest"])
def test_every_up_sampler_exports(upsample, skips, tmp_path):
    model = unet(upsample=upsample, skips=skips)
    export_onnx(model, tmp_path / "model.onnx")
    assert_same_answers(tmp_path / "model.onnx", model, SIZES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        lambda: BilinearNormals("test_resnet", pretrained=False, channels=(16, 8)),
        lambda: UNetNormals("test_resnet", pretrained=False, decoder_channels=(8,) * 5, output_stride=8),
        lambda: UNetNormals("tf_efficientnet_lite0", pretrained=False, decoder_channels=(8,) * 5, resolution=96),
        lambda: SMPNormals("Unet", "tu-test_resnet", pretrained=False),
        lambda: SMPNormals("FPN", "tu-test_resnet", pretrained=False),
        lambda: SMPNormals("DeepLabV3Plus", "tu-test_resnet", pretrained=False),
    ],
)
def test_every_network_exports(build, tmp_path):
    torch.manual_seed(0)
    model = moved(build())
    export_onnx(model, tmp_path / "model.onnx")
    assert_same_answers(tmp_path / "model.onnx", model, SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"head": "pool", "fc_layers": 2}, {"batch_norm": False, "dropout": 0}])
def test_every_classifier_exports(options, tmp_path):
    model = moved(ImprovedNet(**options))
    export_onnx(model, tmp_path / "model.onnx")
    assert_same_answers(tmp_path / "model.onnx", model, [(1, 32, 32), (5, 32, 32)])


# torch.export


@pytest.mark.slow
@pytest.mark.parametrize("encoder", FAMILIES)
def test_a_program_of_every_family_takes_other_sizes(encoder):
    model = unet(encoder)
    program = export_program(model)
    for size in [(3, 3, 33, 130), (1, 3, 64, 96)]:
        images = torch.rand(size)
        torch.testing.assert_close(program.module()(images), model(images))


@pytest.mark.slow
def test_a_program_scales_to_the_resolution_and_is_written_and_read(tmp_path):
    model = Colours(resolution=64)
    torch.export.save(export_program(model), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for size in [(3, 3, 100, 75), (1, 3, 30, 40)]:
        images = torch.rand(size)
        torch.testing.assert_close(program(images), model(images))


# torch.compile


def compiled_without_breaks(model, size=(2, 3, 50, 70)):
    """By the tracer alone, which is what finds graph breaks; the compiler behind it takes minutes."""
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    images = torch.rand(size)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))


def test_a_model_compiles_without_graph_breaks():
    compiled_without_breaks(unet())


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"resolution": 32}, {"upsample": "nearest", "skips": ()}, {"upsample": "bilinear"}]
)
def test_options_compile_without_graph_breaks(options):
    compiled_without_breaks(unet(**options))


@pytest.mark.slow
def test_a_model_trains_compiled_without_graph_breaks():
    torch.compiler.reset()
    model = unet().train()
    torch.compile(model, fullgraph=True, backend="eager")(torch.rand(2, 3, 50, 70)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [*FAMILIES[1:], "swin_tiny_patch4_window7_224"])
def test_every_encoder_family_compiles_without_graph_breaks(encoder):
    compiled_without_breaks(unet(encoder))


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        lambda: BilinearNormals("test_resnet", pretrained=False, channels=(16, 8)),
        lambda: SMPNormals("Unet", "tu-test_resnet", pretrained=False),
        lambda: SMPNormals("FPN", "tu-test_resnet", pretrained=False),
        lambda: SMPNormals("DeepLabV3Plus", "tu-test_resnet", pretrained=False),
    ],
)
def test_every_network_compiles_without_graph_breaks(build):
    compiled_without_breaks(build().eval())


@pytest.mark.slow
@pytest.mark.parametrize("net", [BaseNet, ImprovedNet])
def test_every_classifier_compiles_without_graph_breaks(net):
    compiled_without_breaks(net().eval(), (2, 3, 32, 32))
