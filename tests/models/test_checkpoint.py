"""Checkpoints: round trip, and every damage a clear error that names the file."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import normalkit
from normalkit.files import atomic_folder
from normalkit.models import BilinearNormals, UNetNormals
from normalkit.models.checkpoint import load_model, read_config, save_model, write_model


def unet(**options):
    return UNetNormals("test_resnet", pretrained=False, decoder_channels=(8, 8, 8, 8, 4), **options)


def bilinear():
    return BilinearNormals("test_resnet", pretrained=False, channels=(8,))


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "best", unet(), metadata={"data": "rooms"})
    return tmp_path / "best"


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("build", [lambda: unet(skips=(2,), upsample="nearest", image_std=(1, 2, 3)), bilinear])
def test_round_trip_gives_the_same_model(build, tmp_path):
    model = build()
    # One step of training moves the running statistics.
    model(torch.rand(2, 3, 64, 64))
    save_model(tmp_path / "best", model, metadata={"mean": 19.5, "study": {"seed": 1}})
    loaded = load_model(tmp_path / "best")
    images = torch.rand(1, 3, 50, 40)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert torch.equal(loaded(images), model.eval()(images))
    assert read_config(tmp_path / "best") == {
        "format": 1,
        "normalkit": normalkit.__version__,
        "model": type(model).__name__,
        "config": model.config,
        "convention": "OPENCV",
        "mean": 19.5,
        "study": {"seed": 1},
    }


def test_saved_model_of_any_layout_loads_without_a_download(tmp_path, monkeypatch):
    model = unet().to(memory_format=torch.channels_last)
    model.normalize = False
    model.save_pretrained(tmp_path / "best")
    monkeypatch.setattr("timm.models._builder.load_pretrained", None)
    loaded = UNetNormals.from_pretrained(tmp_path / "best")
    images = torch.rand(1, 3, 32, 32)
    assert not loaded.normalize
    torch.testing.assert_close(loaded(images), model.eval()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_half_the_space_and_loads_as_float32(tmp_path, dtype):
    model = unet()
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", dtype=dtype)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert 1.8 < sizes[0] / sizes[1] < 2
    loaded = load_model(tmp_path / "half").state_dict()
    for name, tensor in model.state_dict().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor.to(dtype).float() if tensor.is_floating_point() else tensor)


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path):
    model = unet()
    with torch.no_grad():
        model.head.weight[0, 0, 0, 0] = 1e5
    with pytest.raises(ValueError, match=r"torch\.float16: head\.weight has values up to 1e\+05.*use torch\.bfloat16"):
        save_model(tmp_path / "best", model, dtype=torch.float16)
    with pytest.raises(TypeError, match=r"dtype=torch\.int8: wanted floating point"):
        save_model(tmp_path / "best", model, dtype=torch.int8)
    assert list(tmp_path.iterdir()) == []


def test_from_pretrained_of_another_class_is_refused(folder):
    with pytest.raises(
        ValueError, match=r"holds a UNetNormals, not a BilinearNormals; use UNetNormals\.from_pretrained"
    ):
        BilinearNormals.from_pretrained(folder)


def test_write_model_leaves_room_for_other_files(tmp_path):
    with atomic_folder(tmp_path / "last") as temporary:
        write_model(temporary, unet())
        (temporary / "optimizer.safetensors").write_text("state")
    assert sorted(file.name for file in (tmp_path / "last").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "optimizer.safetensors",
    ]
    load_model(tmp_path / "last")


def test_figures_that_are_not_finite_are_null(tmp_path):
    metadata = {"mean": float("nan"), "curve": [1.0, float("inf")], "nested": {"rmse": -float("inf")}}
    save_model(tmp_path / "best", unet(), metadata=metadata)
    text = (tmp_path / "best" / "config.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (found["mean"], found["curve"], found["nested"]) == (None, [1.0, None], {"rmse": None})


@pytest.mark.parametrize(
    ("model", "metadata", "error", "message"),
    [
        (unet, {"convention": "DSINE"}, ValueError, "metadata: the format has taken convention"),
        (unet, {"when": {1, 2}}, TypeError, "metadata: .*set.*wanted strings, numbers"),
        (
            lambda: torch.nn.Linear(1, 1),
            None,
            TypeError,
            "model is a Linear; wanted one of UNetNormals, BilinearNormals",
        ),
    ],
)
def test_what_cannot_be_saved_leaves_the_old_checkpoint(model, metadata, error, message, folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(error, match=message):
        save_model(folder, model(), metadata=metadata)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in folder.parent.iterdir()] == ["best"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"config\.json: format 2, .*pip install --upgrade normalkit"),
        ({"format": "1"}, r"config\.json: format='1'; wanted a int"),
        ({"format": 0}, "format 0"),
        ({"model": "ResNet"}, "model='ResNet' is not known; wanted one of UNetNormals, BilinearNormals"),
        ({"model": ["UNetNormals"]}, "model=.*wanted a str"),
        ({"config": None}, "config=None; wanted a dict"),
        ({"convention": "OPENGL"}, "convention='OPENGL'; models answer in OPENCV"),
        (
            {"config": {"encoder": "test_resnet", "depth": 5}},
            "UNetNormals has no argument depth; it has .*decoder_channels",
        ),
        ({"config": {"encoder": "test_resnet", "pretrained": True}}, "no argument pretrained"),
        ({"config": {"encoder": 5}}, r"config\.json: not the config of a UNetNormals: encoder=5"),
        ({"config": {"encoder": "test_resnet", "skips": "all"}}, "skips='all'"),
        ({"config": {"encoder": "test_resnet", "decoder_channels": [8, 8]}}, "wanted 5"),
        ({"config": {"encoder": "test_resnet", "upsample": {}}}, "upsample="),
        ({"config": {"encoder": "test_resnet"}}, r"model\.safetensors: \d+ tensors are not those of the UNetNormals"),
        ({"model": "BilinearNormals", "config": {"encoder": "test_resnet"}}, r"model\.safetensors: \d+ tensors"),
    ],
)
def test_config_of_another_kind_is_refused(changes, message, folder):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=message):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", '{"format": 1}'])
def test_damaged_config_is_refused(text, folder):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: "):
        load_model(folder)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_missing_file_is_named(missing, folder):
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"{missing}: missing"):
        load_model(folder)


def test_missing_folder_is_named(folder):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        load_model(folder.parent / "nowhere")
    with pytest.raises(FileNotFoundError, match="is a file; give the checkpoint folder"):
        load_model(folder / "model.safetensors")


@pytest.mark.parametrize("config", [True, False])
def test_folder_of_a_run_is_told_from_its_checkpoints(config, folder):
    if config:
        (folder.parent / "config.json").write_text('{"settings": {"epochs": 3}}')
    with pytest.raises(
        FileNotFoundError, match=rf"{folder.parent}: the folder of a run; give its checkpoint, .*/best$"
    ):
        load_model(folder.parent)
    save_model(folder.parent / "last", unet())
    with pytest.raises(FileNotFoundError, match=r"give its checkpoint, .*/best or .*/last$"):
        read_config(folder.parent)


def test_truncated_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a whole safetensors file"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("head.bias"), r"1 tensors .*head\.bias \(file none, model \(3,\)\)"),
        (lambda w: w.update(extra=torch.zeros(2)), r"1 tensors .*extra \(file \(2,\), model none\)"),
        (lambda w: w.update({"head.bias": torch.zeros(4)}), r"1 tensors .*head\.bias \(file \(4,\), model \(3,\)\)"),
    ],
)
def test_weights_of_another_model_are_refused(change, message, folder):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_model(folder)


def test_checkpoint_caught_between_two_renames_is_found(folder):
    folder.rename(folder.with_name("best.old"))
    assert read_config(folder)["data"] == "rooms"
