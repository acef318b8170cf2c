"""Heads against plain torch modules."""

import pytest
import torch
from torch import nn

from normalkit.nn.heads import BilinearHead, NormalHead


def report_head():
    """The report's head, as it wrote it."""
    return nn.Sequential(
        nn.Upsample(scale_factor=32.0, mode="bilinear"),
        nn.Conv2d(512, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 128, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(128, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 3, 1),
    )


def test_bilinear_head_prints_and_saves_as_the_report():
    ours, theirs = BilinearHead(), report_head()
    assert str(ours) == str(theirs)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_bilinear_head_computes_as_the_report():
    ours, theirs = BilinearHead(), report_head()
    ours.load_state_dict(theirs.state_dict())
    features = torch.randn(1, 512, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(ours(features), theirs(features), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [(), (4,), (6, 4)])
@pytest.mark.parametrize("scale", [1, 4])
def test_bilinear_head_trains_as_plain_modules(channels, scale):
    ours = BilinearHead(8, channels, scale).double()
    theirs = nn.Sequential(*ours.children())
    features = torch.randn(2, 8, 3, 2, dtype=torch.float64, requires_grad=True)
    tensors = [features, *ours.parameters()]
    upstream = torch.randn(2, 3, 3 * scale, 2 * scale, dtype=torch.float64)
    expected = torch.autograd.grad(theirs(features), tensors, upstream)
    for found, wanted in zip(torch.autograd.grad(ours(features), tensors, upstream), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    # Gradients of the weights alone, and none at all.
    torch.testing.assert_close(torch.autograd.grad(ours(features.detach()), tensors[1:], upstream), expected[1:])
    before = features.detach().clone()
    with torch.no_grad():
        torch.testing.assert_close(ours(features), theirs(features))
    torch.testing.assert_close(features, before, rtol=0, atol=0)


def test_bilinear_head_takes_any_widths_and_scale():
    assert BilinearHead(5, (), 4)(torch.rand(2, 5, 3, 2)).shape == (2, 3, 12, 8)
    assert BilinearHead(5, (7, 6), 8)(torch.rand(2, 5, 3, 2)).shape == (2, 3, 24, 16)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_normal_head_keeps_the_size(kernel_size):
    head = NormalHead(4, kernel_size=kernel_size)
    features = torch.rand(2, 4, 6, 7)
    expected = nn.functional.conv2d(features, head.weight, head.bias, padding=kernel_size // 2)
    assert head(features).shape == (2, 3, 6, 7)
    torch.testing.assert_close(head(features), expected)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: NormalHead(0), ValueError, "in_channels=0"),
        (lambda: NormalHead(4, kernel_size=2), ValueError, "kernel_size=2: wanted an odd"),
        (lambda: BilinearHead(4, (8, 0)), ValueError, "channels=0"),
        (lambda: BilinearHead(4, 8), TypeError, "channels=8: wanted a sequence"),
        (lambda: BilinearHead(4, (8,), 0), ValueError, "scale=0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
