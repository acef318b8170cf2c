"""The convolution of an up-sampled map against the plain way in double precision, and against loops."""

import itertools

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from normalkit.nn import upsample
from normalkit.nn.upsample import doubled_conv2d, upsampled_conv2d


@pytest.fixture
def fast(monkeypatch):
    """The fast way, also where the plain one would be taken."""
    monkeypatch.setattr(upsample, "_is_fast", lambda features, weight, scale: True)


def plain(features, weight, bias, scale):
    """The plain way, in double precision."""
    features, weight = features.double(), weight.double()
    large = F.interpolate(features, scale_factor=float(scale), mode="bilinear")
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return F.conv2d(large, weight, None if bias is None else bias.double(), padding=padding)


def loops(features, weight, bias, scale):
    """One map by the definitions, pixel by pixel: (C, H, W) lists to (O, scale H, scale W)."""
    height, width = len(features[0]) * scale, len(features[0][0]) * scale

    def interpolated(channel, y, x):
        if not (0 <= y < height and 0 <= x < width):
            return 0.0  # the padding of the convolution
        sides = []
        for place, size in ((y, height // scale), (x, width // scale)):
            centre = min(max((place + 0.5) / scale - 0.5, 0), size - 1)
            first = min(int(centre), size - 1)
            sides.append(((first, 1 - (centre - first)), (min(first + 1, size - 1), centre - first)))
        return sum(a * b * channel[i][j] for (i, a), (j, b) in itertools.product(*sides))

    def output(kernel, offset, y, x):
        total = offset
        for channel, taps in zip(features, kernel, strict=True):
            for p, row in enumerate(taps):
                for q, tap in enumerate(row):
                    total += tap * interpolated(channel, y + p - len(taps) // 2, x + q - len(row) // 2)
        return total

    return [
        [[output(kernel, offset, y, x) for x in range(width)] for y in range(height)]
        for kernel, offset in zip(weight, bias, strict=True)
    ]


def random_case(channels=3, outputs=2, kernel=(3, 3), size=(4, 3), batch=2, **options):
    features = torch.randn(batch, channels, *size, **options)
    weight = torch.randn(outputs, channels, *kernel, **options)
    return features, weight, torch.randn(outputs, **options)


@pytest.mark.parametrize(("scale", "kernel", "size"), [(3, (3, 3), (2, 3)), (2, (3, 5), (1, 4)), (4, (7, 1), (2, 1))])
def test_equals_loops_over_the_definitions(fast, scale, kernel, size):
    features, weight, bias = random_case(kernel=kernel, size=size, batch=1, dtype=torch.float64)
    expected = torch.tensor(loops(features[0].tolist(), weight.tolist(), bias.tolist(), scale), dtype=torch.float64)
    torch.testing.assert_close(upsampled_conv2d(features, weight, bias, scale=scale)[0], expected)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (9, 9), (1, 5), (5, 3)])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3), (2, 9)])
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 7, 8, 16, 32])
def test_equals_the_plain_way(fast, scale, size, kernel):
    features, weight, bias = random_case(kernel=kernel, size=size, dtype=torch.float64)
    for offset in (bias, None):
        found = upsampled_conv2d(features, weight, offset, scale=scale)
        torch.testing.assert_close(found, plain(features, weight, offset, scale), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [8, 32])
def test_single_precision_is_as_exact_as_the_plain_way(scale):
    case = [tensor.requires_grad_() for tensor in random_case(256, 32, size=(3, 4))]
    expected, found = plain(*case, scale), upsampled_conv2d(*case, scale=scale)
    assert found.dtype == torch.float32
    assert float((found - expected).detach().abs().max() / expected.detach().abs().max()) < 1e-6
    upstream = torch.randn_like(found)
    wanted = torch.autograd.grad(expected, case, upstream.double())
    for ours, theirs in zip(torch.autograd.grad(found, case, upstream), wanted, strict=True):
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5


@pytest.mark.parametrize(("scale", "kernel", "size"), [(2, (3, 3), (2, 3)), (3, (5, 1), (1, 2)), (4, (1, 1), (2, 1))])
def test_gradients_of_both_orders(fast, scale, kernel, size):
    case = [tensor.requires_grad_() for tensor in random_case(2, 2, kernel, size, 2, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda *tensors: upsampled_conv2d(*tensors, scale=scale), case)
    assert torch.autograd.gradgradcheck(lambda *tensors: upsampled_conv2d(*tensors, scale=scale), case)


def test_memory_layout_of_the_input_changes_nothing():
    features, weight, bias = random_case(6, 4, size=(5, 4))
    expected = plain(features, weight, bias, 8).float()
    padded = torch.randn(2, 6, 7, 8)
    padded[..., 1:6, 2:6] = features
    for layout in (features.to(memory_format=torch.channels_last), padded[..., 1:6, 2:6]):
        found = upsampled_conv2d(layout, weight.to(memory_format=torch.channels_last), bias, scale=8)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("scale", [3, 32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_off_by_its_rounding_alone(dtype, scale):
    case = [tensor.to(dtype) for tensor in random_case(64, 8)]
    found = upsampled_conv2d(*case, scale=scale)
    assert found.dtype == dtype
    # About five roundings, of the two matrices and the three results, each of at most eps / 2 of the sum of the sizes.
    sizes = plain(*(tensor.abs() for tensor in case), scale)
    assert ((found - plain(*case, scale)).abs() <= 2.5 * torch.finfo(dtype).eps * sizes).all()


def test_autocast_computes_in_bfloat16():
    features, weight, bias = (tensor.requires_grad_() for tensor in random_case(64, 8))
    with torch.autocast("cpu", torch.bfloat16):
        found = upsampled_conv2d(features, weight, bias, scale=8)
    assert found.dtype == torch.bfloat16
    assert float((found - plain(features, weight, bias, 8)).detach().abs().max()) < 0.02 * float(found.detach().max())
    found.float().square().mean().backward()
    assert [tensor.grad.dtype for tensor in (features, weight, bias)] == [torch.float32] * 3


class Largest(TorchDispatchMode):
    """The number of values of the largest tensor that an operation gives."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, (tuple, list)) else [result]
        self.values = max([self.values, *(tensor.numel() for tensor in tensors if isinstance(tensor, torch.Tensor))])
        return result


def test_upsampled_map_never_exists():
    case = [tensor.requires_grad_() for tensor in random_case(64, 4, size=(3, 5))]
    with Largest() as largest:
        found = upsampled_conv2d(*case, scale=16)
        found.sum().backward()
    assert largest.values == found.numel()


@pytest.mark.parametrize(
    ("channels", "kernel", "size", "scale", "layout"),
    [
        (64, (3, 3), (7, 7), 8, torch.channels_last),
        (64, (3, 3), (7, 7), 1, torch.contiguous_format),
        (4, (5, 3), (3, 9), 2, torch.contiguous_format),
        (4, (3, 5), (9, 3), 2, torch.contiguous_format),
        (4, (3, 3), (7, 7), 2, torch.channels_last),
        (4, (5, 5), (7, 7), 2, torch.contiguous_format),
    ],
)
def test_plain_way_is_taken_where_it_is_faster(channels, kernel, size, scale, layout):
    features, weight, bias = random_case(channels, 2, kernel, size)
    found = upsampled_conv2d(features, weight, bias, scale=scale)
    torch.testing.assert_close(found.double(), plain(features, weight, bias, scale), rtol=1e-4, atol=1e-4)
    assert found.is_contiguous(memory_format=layout)


class Convolution(torch.nn.Module):
    def forward(self, features, weight, bias):
        return upsampled_conv2d(features, weight, bias, scale=2)


def test_exported_program_takes_other_sizes():
    batch, height, width = (torch.export.Dim.DYNAMIC,) * 3
    shapes = ({0: batch, 2: height, 3: width}, None, None)
    program = torch.export.export(Convolution(), random_case(), dynamic_shapes=shapes).module()
    # The second is one for which the plain way would be taken.
    for size in [(2, 5), (3, 20), (1, 1)]:
        case = random_case(size=size, batch=3)
        torch.testing.assert_close(program(*case).double(), plain(*case, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiled_function_gives_the_same():
    compiled = torch.compile(Convolution(), fullgraph=True)
    for size in [(4, 3), (5, 2), (3, 20)]:
        case = [tensor.requires_grad_() for tensor in random_case(size=size)]
        found, expected = compiled(*case), plain(*case, 2)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
        wanted = torch.autograd.grad(expected.sum(), case)
        for ours, theirs in zip(torch.autograd.grad(found.sum(), case), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("features", "weight", "scale", "message"),
    [
        ((4, 3, 4), (2, 3, 3, 3), 2, r"features has shape \(4, 3, 4\)"),
        ((1, 3, 4, 4), (2, 3, 3), 2, r"weight \(2, 3, 3\)"),
        ((1, 3, 4, 4), (2, 4, 3, 3), 2, "with the same C"),
        ((1, 3, 4, 4), (2, 3, 3, 2), 2, r"kernel of \(3, 2\): wanted odd"),
        ((1, 3, 4, 4), (2, 3, 4, 3), 2, r"kernel of \(4, 3\): wanted odd"),
        ((1, 3, 4, 4), (2, 3, 3, 3), 0, "scale=0"),
        ((1, 3, 4, 4), (2, 3, 3, 3), 2.5, "scale=2.5: wanted an integer"),
    ],
)
def test_arguments_that_cannot_be_are_refused(features, weight, scale, message):
    with pytest.raises(ValueError, match=message):
        upsampled_conv2d(torch.zeros(features), torch.zeros(weight), scale=scale)


def doubled(features, weight, bias):
    """The plain way, in double precision."""
    large = features.double().repeat_interleave(2, 2).repeat_interleave(2, 3)
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return F.conv2d(large, weight.double(), None if bias is None else bias.double(), padding=padding)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (1, 5), (7, 3)])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3)])
def test_doubled_map_is_convolved_as_the_plain_way_does(size, kernel):
    features, weight, bias = random_case(kernel=kernel, size=size, dtype=torch.float64)
    for offset in (bias, None):
        found = doubled_conv2d(features, weight, offset)
        torch.testing.assert_close(found, doubled(features, weight, offset), rtol=1e-11, atol=1e-11)


def test_doubled_map_never_exists_and_gradients_agree():
    case = [tensor.requires_grad_() for tensor in random_case(64, 4, size=(30, 50))]
    with Largest() as largest:
        found = doubled_conv2d(*case)
        gradients = torch.autograd.grad(found.square().sum(), case)
    assert largest.values == case[0].numel()
    expected = doubled(*case)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    wanted = torch.autograd.grad(expected.square().sum(), case)
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


@pytest.mark.parametrize(("features", "weight"), [((4, 3, 4), (2, 3, 3, 3)), ((1, 3, 4, 4), (2, 3, 2, 3))])
def test_doubled_refuses_shapes_that_do_not_fit(features, weight):
    with pytest.raises(ValueError, match=r"features has shape|odd sides"):
        doubled_conv2d(torch.zeros(features), torch.zeros(weight))
