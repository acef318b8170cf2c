"""The model that comes with the library, on rooms whose normals are known and on a kitchen."""

import json
import subprocess
import sys

import pytest
import torch

from normalkit import RGBDNormals, SyntheticRooms, load_model, predict, read_normals
from normalkit.baselines import best_constant
from normalkit.data import evaluation_loader
from normalkit.images import to_pillow
from normalkit.inference import predict_with_error
from normalkit.models import checkpoint
from normalkit.training import evaluate
from normalkit.uncertainty import sparsification


@pytest.fixture(scope="module")
def model():
    return load_model()


def test_it_is_small_and_says_what_it_is(model):
    assert sum(path.stat().st_size for path in checkpoint.ROOMS.iterdir()) < 12e6
    header = json.loads((checkpoint.ROOMS / "config.json").read_text())
    assert header["convention"] == "OPENCV"
    assert "generated rooms" in header["data"]
    assert next(model.parameters()).dtype == torch.float32
    assert not model.training


def test_it_knows_rooms_that_it_never_saw_and_how_sure_it_is(model):
    rooms = SyntheticRooms(12, size=(96, 128), seed=987)
    figures = evaluate(model, evaluation_loader(rooms, workers=0), progress=False)
    constant = evaluate(best_constant(evaluation_loader(rooms, workers=0)), evaluation_loader(rooms), progress=False)
    assert figures["mean"] < 35 < 45 < constant["mean"]
    errors, expected = [], []
    for room in rooms:
        normals, error = predict_with_error(model, room["image"])
        cosine = (normals * room["normals"]).sum(0).clamp(-1, 1)
        errors.append(torch.rad2deg(torch.arccos(cosine))[room["mask"]])
        expected.append(error[room["mask"]])
    errors, expected = torch.cat(errors), torch.cat(expected)
    # Of the half that it is surest of, the errors are far smaller; and it expects about as much as it makes.
    half = sparsification(errors, expected, steps=2).error
    assert float(half[1]) < 0.7 * float(half[0])
    assert 0.6 < float(expected.mean() / errors.mean()) < 1.6


def test_the_command_needs_a_photo_alone(tmp_path):
    room = SyntheticRooms(1, size=(96, 128), seed=3)[0]
    to_pillow(room["image"]).save(tmp_path / "photo.jpg", quality=95)
    words = [sys.executable, "-c", "from normalkit.cli import main; main()", "predict", "photo.jpg"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    normals, mask = read_normals(tmp_path / "normals" / "photo.normals.png")
    assert mask.all()
    expected = predict(load_model(), tmp_path / "photo.jpg")
    assert float((normals - expected).abs().max()) < 0.02


def test_the_kitchen_that_it_never_saw(model, real_data):
    kitchen = RGBDNormals(real_data / "red_kitchen" / "val")
    every_fifth = torch.utils.data.Subset(kitchen, range(0, len(kitchen), 5))
    figures = evaluate(model, evaluation_loader(every_fifth, workers=0), progress=False)
    # All 55 frames have 28.9 degrees, 67 %; one constant normal 48.2.
    assert figures["mean"] < 32
    assert figures["30"] > 60


def test_a_wall_is_a_wall_in_any_light(model):
    """Where nothing is to be seen, the answer is smooth, finite and faces the camera."""
    for grey in (0.0, 0.5, 1.0):
        normals = predict(model, torch.full((3, 60, 80), grey))
        assert normals.isfinite().all()
        assert float(normals[2].mean()) < 0
