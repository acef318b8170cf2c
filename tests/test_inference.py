import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from normalkit.inference import evaluation_mode, predict, predict_batch
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

    with pytest.raises(MemoryError, match="a picture of 5 x 4 does not fit into memory; shrink it"):
        predict(Answer(full), np.zeros((4, 5, 3)))


def test_other_errors_of_a_model_are_its_own():
    def broken(images):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        predict(Answer(broken), np.zeros((4, 5, 3)))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        predict(Answer(broken), "nowhere.jpg")
