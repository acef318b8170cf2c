"""Transforms of how a picture looks: what they change, by formulas written again here, and what they must not."""

import io

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from scipy.ndimage import gaussian_filter
from torchvision.tv_tensors import Image, Mask

from normalkit import SurfaceNormals, SyntheticRooms
from normalkit.appearance import RandomExposure, RandomSensor, appearance_transform
from normalkit.transforms import Intrinsics


@pytest.fixture(scope="module")
def sample():
    room = SyntheticRooms(1, size=(32, 40), seed=2)[0]
    return {
        "image": Image(room["image"]),
        "normals": SurfaceNormals(room["normals"]),
        "mask": Mask(room["mask"]),
        "intrinsics": Intrinsics(room["intrinsics"], canvas_size=(32, 40)),
        "name": "room",
    }


@pytest.mark.parametrize("transform", [RandomExposure(), RandomSensor(), appearance_transform()])
def test_only_the_picture_changes(sample, transform):
    torch.manual_seed(0)
    pictures = []
    for _ in range(8):
        changed = transform(sample)
        for name in ("normals", "mask", "intrinsics"):
            assert torch.equal(changed[name], sample[name])
            assert type(changed[name]) is type(sample[name])
        assert changed["name"] == "room"
        picture = changed["image"]
        assert (picture.shape, picture.dtype) == (sample["image"].shape, torch.float32)
        assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
        pictures.append(picture)
    assert len({picture.numpy().tobytes() for picture in pictures}) > 4
    torch.manual_seed(0)
    assert torch.equal(transform(sample)["image"], pictures[0])


def test_bytes_are_taken_too(sample):
    torch.manual_seed(0)
    picture = appearance_transform()({**sample, "image": Image((255 * sample["image"]).to(torch.uint8))})["image"]
    assert picture.dtype == torch.float32
    assert 0.05 < float(picture.mean()) < 0.95


def test_exposure_is_a_gain_of_light_and_a_power(sample):
    exposure = RandomExposure()
    params = {"gains": torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1), "power": 1.25}
    light = sample["image"].numpy().astype(np.float64) ** 2.2
    expected = np.clip(light * np.array([0.5, 1, 2]).reshape(3, 1, 1), 0, 1) ** (1.25 / 2.2)
    np.testing.assert_allclose(exposure.transform(sample["image"], params), expected, atol=1e-5)


def test_no_change_leaves_the_picture(sample):
    torch.manual_seed(0)
    picture = RandomExposure(stops=0, cast=0, gamma=1)(sample)["image"]
    torch.testing.assert_close(picture, sample["image"], rtol=0, atol=1e-5)
    nothing = {"shrink": 1.0, "blur": 0.0, "noise": 0.0, "quality": None}
    assert torch.equal(RandomSensor().transform(sample["image"], nothing), sample["image"])


def test_blur_is_gaussian(sample):
    params = {"shrink": 1.0, "blur": 1.2, "noise": 0.0, "quality": None}
    blurred = RandomSensor().transform(sample["image"], params)
    expected = np.stack([gaussian_filter(c, 1.2, mode="mirror", truncate=2.5) for c in sample["image"].numpy()])
    np.testing.assert_allclose(blurred, expected, atol=0.02)


def test_noise_has_its_deviation(sample):
    torch.manual_seed(0)
    grey = Image(torch.full((3, 100, 100), 0.5))
    noisy = RandomSensor().transform(grey, {"shrink": 1.0, "blur": 0.0, "noise": 0.05, "quality": None})
    assert float(noisy.std()) == pytest.approx(0.05, rel=0.02)


def test_jpeg_loses_what_pillow_s_does(sample):
    quality = {"shrink": 1.0, "blur": 0.0, "noise": 0.0, "quality": 30}
    coded = RandomSensor().transform(sample["image"], quality)
    pixels = (sample["image"].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, "JPEG", quality=30)
    expected = np.asarray(PillowImage.open(file)).transpose(2, 0, 1) / 255
    assert np.abs(coded.numpy() - expected).mean() < 0.01
    assert np.abs(coded.numpy() - sample["image"].numpy()).mean() > 0.01


def test_shrinking_takes_the_finest_pattern_away():
    board = Image(((torch.arange(32).view(-1, 1) + torch.arange(32)) % 2).float().expand(3, 32, 32).contiguous())
    shrunk = RandomSensor().transform(board, {"shrink": 2.0, "blur": 0.0, "noise": 0.0, "quality": None})
    assert float(shrunk.std()) < 0.1 < float(board.std())


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (RandomExposure, {"stops": -1}),
        (RandomExposure, {"gamma": 0.5}),
        (RandomExposure, {"cast": float("inf")}),
        (RandomSensor, {"shrink": 0.5}),
        (RandomSensor, {"blur": -1}),
        (RandomSensor, {"noise": float("nan")}),
        (RandomSensor, {"quality": 0}),
    ],
)
def test_refuses_what_is_out_of_range(make, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**options)
