import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from normalkit.inference import evaluation_mode, predict, predict_batch, predict_with_error
from normalkit.models.base import NormalEstimator
from normalkit.models.unet import UNetNormals

pytestmark = pytest.mark.usefixtures("one_thread")


class Answer(nn.Module):
    """A model whose raw output is any function of the image."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return UNetNormals("test_resnet", pretrained=False, decoder_channels=(8, 8, 8, 8, 8)).eval()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)


def test_every_kind_of_picture_gives_the_model_s_normals(model, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    with torch.no_grad():
        expected = model(tensor[None].float() / 255)[0]
    for picture in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, tensor, tensor / 255):
        torch.testing.assert_close(predict(model, picture), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (33, 1), (31, 65)])
@pytest.mark.parametrize("flip", [False, True])
def test_any_size_gives_unit_normals_of_that_size(model, height, width, flip):
    normals = predict(model, np.full((height, width), 0.4), flip=flip)
    assert (normals.shape, normals.dtype, normals.device.type) == ((3, height, width), torch.float32, "cpu")
    torch.testing.assert_close(normals.norm(dim=0), torch.ones(height, width))


def test_a_photo_is_turned_upright(model, pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(predict(model, tmp_path / "a.png"), predict(model, np.rot90(pixels, -1).copy()))


def test_flip_is_the_mean_with_the_mirrored_picture(model, pixels):
    plain = predict(model, pixels).double()
    mirrored = predict(model, pixels[:, ::-1].copy()).double().numpy()[:, :, ::-1].copy()
    mirrored[0] *= -1
    mean = plain.numpy() + mirrored
    mean /= np.linalg.norm(mean, axis=0)
    assert np.abs(predict(model, pixels, flip=True).numpy() - mean).max() < 1e-5
    assert np.abs(plain.numpy() - mean).max() > 1e-2


def test_flip_of_a_batch_is_of_each_picture(model):
    images = torch.rand(2, 3, 32, 32)
    both = predict_batch(model, images, flip=True)
    torch.testing.assert_close(both[1:], predict_batch(model, images[1:], flip=True), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_flip_hides_no_answer_without_a_direction(bad):
    def one_dead(images):
        return torch.where(torch.arange(images.shape[-1]) == 1, bad, images - 2)

    both = predict_batch(Answer(one_dead), torch.rand(1, 3, 4, 5), flip=True)
    assert both.isnan().all(1)[0].tolist() == [[False, True, False, True, False]] * 4
    assert both[..., ::2].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_whatever_length_and_dtype_a_model_gives_the_normals_are_unit(dtype):
    normals = predict(Answer(lambda images: (40 * images - 50).to(dtype)), np.random.default_rng(0).random((4, 5, 3)))
    assert normals.dtype == torch.float32
    torch.testing.assert_close(normals.norm(dim=0), torch.ones(4, 5))


def test_the_result_may_be_changed_and_trained_on(model, pixels):
    normals = predict(model, pixels)
    normals *= -1
    weight = torch.ones(1, requires_grad=True)
    (weight * normals).sum().backward()
    assert weight.grad is not None


def test_what_a_model_keeps_from_a_prediction_may_be_trained_on():
    class Caching(Answer):
        grid = None

        def forward(self, images):
            if self.grid is None:
                self.grid = torch.ones_like(images)
            return images * self.grid

    network = Caching(None)
    predict(network, np.ones((4, 5, 3)))
    images = torch.rand(1, 3, 4, 5, requires_grad=True)
    network(images).sum().backward()
    assert torch.equal(images.grad, torch.ones(1, 3, 4, 5))


@pytest.mark.parametrize("flip", [False, True])
def test_the_model_answers_in_eval_mode_and_each_part_is_left_in_its_own(pixels, flip):
    network = UNetNormals("test_resnet", pretrained=False, decoder_channels=(8, 8, 8, 8, 8)).train()
    network.encoder.eval()
    modes = [module.training for module in network.modules()]
    statistics = {name: value.clone() for name, value in network.state_dict().items()}
    predict(network, pixels, flip=flip)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, statistics[name]) for name, value in network.state_dict().items())


def test_modes_come_back_after_an_error():
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    context = evaluation_mode(network)
    context.__enter__()
    assert not network[0].training
    assert not torch.is_grad_enabled()
    error = ZeroDivisionError()
    assert not context.__exit__(ZeroDivisionError, error, None)
    assert [module.training for module in network.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("function", "found"),
    [(lambda x: x[:, :1], r"\(1, 1, 4, 5\)"), (lambda x: x[..., ::2], r"\(1, 3, 4, 3\)"), (lambda x: [x], "list")],
)
def test_a_model_of_another_task_is_refused(function, found):
    with pytest.raises(ValueError, match=rf"for images \(1, 3, 4, 5\) it returned {found}; wanted normals"):
        predict(Answer(function), np.zeros((4, 5, 3)))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you ...")],
)
def test_a_picture_too_large_for_the_memory_is_said_to_be(error):
    def full(images):
        raise error

    with pytest.raises(MemoryError, match="a picture of 5 x 4 does not fit into memory; shrink it, or work in tiles"):
        predict(Answer(full), np.zeros((4, 5, 3)))
    with pytest.raises(MemoryError, match="does not fit into memory; use smaller tiles than 64"):
        predict(Answer(full), np.zeros((4, 5, 3)), tile=64)


def test_other_errors_of_a_model_are_its_own():
    def broken(images):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        predict(Answer(broken), np.zeros((4, 5, 3)))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        predict(Answer(broken), "nowhere.jpg")


# tiles


class Local(NormalEstimator):
    """Sees `stride` pixels to each side and no further."""

    def __init__(self, *, stride=4, resolution=None, normalize=True, concentration=None):
        super().__init__(
            config={},
            stride=stride,
            image_mean=(0.5, 0.5, 0.5),
            image_std=(0.2, 0.2, 0.2),
            resolution=resolution,
            normalize=normalize,
            concentration=concentration,
        )
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 3, stride, stride, generator=generator))
        self.sides = []

    def raw_map(self, images):
        self.sides.append(images.shape[-2:])
        small = functional.conv2d(images, self.weight, torch.tensor([0.0, 0.0, -20.0]), stride=self.stride)
        return functional.interpolate(small, scale_factor=self.stride)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", [(101, 150), (64, 64), (300, 20), (5, 333)])
@pytest.mark.parametrize("resolution", [None, 130])
def test_tiles_give_a_local_model_s_answer_for_the_whole(shape, flip, resolution):
    """Also where the tiles must lie on the network's grid, and for the mirrored picture on that from its right."""
    network = Local(resolution=resolution)
    picture = np.random.default_rng(1).random((*shape, 3))
    expected = predict(network, picture, flip=flip)
    network.sides.clear()
    torch.testing.assert_close(predict(network, picture, flip=flip, tile=64), expected, rtol=0, atol=1e-5)
    assert max(max(side) for side in network.sides) <= 64
    assert (network.resolution, network.normalize) == (resolution, True)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("resolution", [None, 130])
@pytest.mark.parametrize("tile", [None, 64])
def test_the_expected_error_is_that_of_the_raw_map_and_of_the_mean_with_its_mirror(flip, resolution, tile):
    network = Local(resolution=resolution, concentration=0.3)
    pixels = np.random.default_rng(1).integers(0, 256, (101, 150, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        raw = network(images, normalize=False)
        if flip:
            mirrored = network(images.flip(-1), normalize=False).flip(-1)
            raw = (raw + torch.stack([-mirrored[:, 0], mirrored[:, 1], mirrored[:, 2]], 1)) / 2
    normals, error = predict_with_error(network, pixels, flip=flip, tile=tile)
    length = raw.norm(dim=1)
    torch.testing.assert_close(normals, (raw / length)[0], rtol=0, atol=1e-4)
    k = 0.3 * length[0].double()
    expected = torch.rad2deg(2 * k / (k**2 + 1) + math.pi * (-math.pi * k).exp() / (1 + (-math.pi * k).exp()))
    torch.testing.assert_close(error.double(), expected, rtol=1e-3, atol=1e-3)
    assert (network.resolution, network.normalize) == (resolution, True)


def test_a_network_that_was_not_trained_to_know_its_error_says_so(model, pixels):
    with pytest.raises(ValueError, match="train it with AngMFLoss"):
        predict_with_error(model, pixels)


def test_one_pixel_has_an_error_too():
    normals, error = predict_with_error(Local(concentration=1.0), np.zeros((1, 1, 3), np.uint8))
    assert (normals.shape, error.shape) == ((3, 1, 1), (1, 1))


@pytest.mark.parametrize("flip", [False, True])
def test_tiles_give_a_plain_convolution_s_answer_for_the_whole(flip):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 3, 5, padding=2))
    picture = np.random.default_rng(1).random((95, 201, 3))
    expected = predict(network, picture, flip=flip)
    torch.testing.assert_close(predict(network, picture, flip=flip, tile=64), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("resolution", [None, 32, 90])
def test_a_picture_no_larger_than_a_tile_is_answered_as_without(model, pixels, flip, resolution):
    network = UNetNormals("test_resnet", pretrained=False, decoder_channels=(8, 8, 8, 8, 8), resolution=resolution)
    network.load_state_dict(model.state_dict())
    expected = predict(network, pixels, flip=flip)
    torch.testing.assert_close(predict(network, pixels, flip=flip, tile=90), expected, rtol=0, atol=1e-5)


def test_a_constant_model_is_constant_to_the_last_pixel():
    direction = torch.tensor([0.36, -0.48, -0.8]).view(1, 3, 1, 1)
    network = Answer(lambda images: 7 * direction.expand_as(images))
    expected = direction[0].expand(3, 99, 170)
    torch.testing.assert_close(predict(network, np.zeros((99, 170, 3)), tile=40), expected)
    mirrored = torch.tensor([0.0, -0.48, -0.8]).div(0.87040**0.5).view(3, 1, 1).expand(3, 99, 170)
    torch.testing.assert_close(
        predict(network, np.zeros((99, 170, 3)), tile=40, flip=True), mirrored, atol=1e-5, rtol=0
    )


def test_tiles_that_disagree_are_blended_without_a_seam():
    """Neighbouring tiles answer directions 90 degrees apart, and the blend turns from one to the other."""
    count = 0

    def next_direction(images):
        nonlocal count
        count += 1
        axis = torch.eye(3)[count % 2 * 2]
        return -axis.view(1, 3, 1, 1).expand_as(images)

    normals = predict(Answer(next_direction), np.zeros((20, 400, 3)), tile=128)
    assert count > 3
    torch.testing.assert_close(normals.norm(dim=0), torch.ones(20, 400))
    turn = (normals[..., 1:] * normals[..., :-1]).sum(0).clamp(-1, 1).acos().rad2deg()
    # 90 degrees over at least 16 pixels, and twice as fast as evenly at the steepest.
    assert turn.max() < 2.5 * 90 / 16
    assert turn.sum(-1).min() > 90


def test_a_tile_without_a_direction_leaves_it_to_the_others():
    def dead_at_the_left(images):
        answer = torch.zeros_like(images)
        answer[:, 2] = -1
        answer[..., : images.shape[-1] // 8] = float("nan")
        return answer

    normals = predict(Answer(dead_at_the_left), np.zeros((30, 200, 3)), tile=64)
    assert not normals[..., :8].any()
    assert (normals[2, :, 8:] == -1).all()


def test_an_error_in_a_tile_leaves_the_model_as_it_was():
    network = Local(resolution=50).train()
    network.raw_map = None
    with pytest.raises(TypeError):
        predict(network, np.zeros((99, 99, 3)), tile=32)
    assert (network.resolution, network.normalize, network.training) == (50, True, True)


@pytest.mark.parametrize(("tile", "error"), [(15, ValueError), (True, TypeError), (64.5, TypeError)])
def test_what_is_no_tile_is_refused_before_the_picture_is_read(tile, error):
    with pytest.raises(error, match=f"tile={tile}: wanted"):
        predict(Answer(None), "nowhere.jpg", tile=tile)


LARGE = """
import re, sys, torch
from pathlib import Path
from torch import nn
from normalkit.inference import predict
from normalkit.models.unet import UNetNormals

def memory(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

torch.set_num_threads(1)
network = nn.Conv2d(3, 3, 1)
if sys.argv[1] == "scaled":
    network = UNetNormals("test_resnet", pretrained=False, decoder_channels=(8, 8, 8, 8, 8), resolution=640)
predict(network, torch.rand(3, 300, 300), tile=64)
picture = torch.zeros(3, 10_000, 10_000, dtype=torch.uint8)
picture[:] = torch.arange(10_000) % 256
before = memory("VmRSS")
normals = predict(network, picture, tile=1024)
assert normals.shape == (3, 10_000, 10_000)
assert (normals[:, ::999, ::999].norm(dim=0) - 1).abs().max() < 1e-5
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["as it is", "scaled"])
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's counters")
def test_a_hundred_megapixels_need_the_picture_the_result_and_a_tile(kind):
    done = subprocess.run([sys.executable, "-c", LARGE, kind], capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    # 300 MB of bytes are copied, the result has 1200 MB, and a tile with what is made of it is some hundred.
    assert float(done.stdout) < 300 + 1200 + 250
