"""UNetDecoder: sizes, skips, up-samplers and refusals; its numbers are checked in tests/models/test_unet.py."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from normalkit.nn import upsample
from normalkit.nn.decoder import DecoderBlock, UNetDecoder

CHANNELS, LEVELS, WIDTHS = (3, 4, 5, 6), (1, 2, 3, 4), (9, 8, 7, 2)


def pyramid(output_stride=16):
    return {
        level: torch.rand(2, channels, 48 // min(2**level, output_stride), 32 // min(2**level, output_stride))
        for level, channels in zip(LEVELS, CHANNELS, strict=True)
    }


@pytest.mark.parametrize("upsample", ["transpose", "bilinear", "nearest"])
@pytest.mark.parametrize("skips", [s for n in range(4) for s in itertools.combinations((3, 1, 2), n)])
def test_exactly_the_chosen_skips_reach_the_output(upsample, skips):
    decoder = UNetDecoder(CHANNELS, LEVELS, WIDTHS, skips=skips, upsample=upsample)
    assert decoder.skips == tuple(sorted(skips))
    features = {level: feature.requires_grad_() for level, feature in pyramid().items()}
    decoded = decoder(features)
    assert decoded.shape == (2, 2, 48, 32)
    decoded.square().sum().backward()
    assert {level for level, feature in features.items() if feature.grad is not None} == {*skips, 4}


def test_none_takes_every_level_below_the_deepest():
    assert UNetDecoder(CHANNELS, LEVELS, WIDTHS).skips == (1, 2, 3)
    assert UNetDecoder(CHANNELS[1:], LEVELS[1:], WIDTHS).skips == (2, 3)


@pytest.mark.parametrize("upsample", ["transpose", "bilinear", "nearest"])
def test_upsampler_is_the_one_named(upsample):
    block = DecoderBlock(4, 0, 6, upsample=upsample)
    below = torch.rand(1, 4, 3, 5)
    expected = {
        "transpose": lambda: nn.functional.conv_transpose2d(
            below, block.upsample.weight, block.upsample.bias, stride=2
        ),
        "bilinear": lambda: nn.functional.interpolate(below, size=(6, 10), mode="bilinear", align_corners=False),
        "nearest": lambda: below.repeat_interleave(2, 2).repeat_interleave(2, 3),
    }[upsample]()
    torch.testing.assert_close(block.upsample(below), expected)


@pytest.mark.parametrize("output_stride", [4, 8])
def test_dilated_levels_are_not_doubled(output_stride):
    decoder = UNetDecoder(CHANNELS, LEVELS, WIDTHS, output_stride=output_stride)
    assert decoder(pyramid(output_stride)).shape == (2, 2, 48, 32)
    doubling = [not isinstance(block.upsample, nn.Identity) for block in decoder.blocks]
    assert sum(doubling) == {4: 2, 8: 3}[output_stride]
    # The deep blocks are those that keep the size.
    assert doubling == sorted(doubling)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"skips": (1, 4)}, ValueError, r"skips=\(1, 4\): level 4 does not exist; the encoder has levels 1-3"),
        ({"skips": (0,)}, ValueError, "level 0 does not exist"),
        ({"skips": (2, 1, 2)}, ValueError, r"skips=\(2, 1, 2\): a level is named twice"),
        ({"skips": (1.0,)}, TypeError, "skips=.*sequence of levels"),
        ({"skips": 2}, TypeError, "skips=2"),
        ({"skips": "12"}, TypeError, "skips='12'"),
        ({"upsample": "cubic"}, ValueError, "upsample='cubic': wanted one of 'transpose', 'bilinear', 'nearest'"),
        ({"upsample": ["nearest"]}, ValueError, "upsample="),
        ({"decoder_channels": (8, 8, 8)}, ValueError, "3 numbers; wanted 4, one for each doubling from stride 16 to 1"),
        ({"decoder_channels": (8, 8, 8, 0)}, ValueError, "at least 1"),
        ({"decoder_channels": (8, 8, 8, True)}, ValueError, "at least 1"),
        ({"decoder_channels": 8}, TypeError, "decoder_channels=8: wanted a sequence of 4"),
        ({"encoder_channels": (3, 4)}, ValueError, "one number of channels for each level"),
        ({"encoder_levels": (2, 1, 3, 4)}, ValueError, "rising levels"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, error, message):
    fitting = {"encoder_channels": CHANNELS, "encoder_levels": LEVELS, "decoder_channels": WIDTHS}
    with pytest.raises(error, match=message):
        UNetDecoder(**{**fitting, **arguments})


class Operations(TorchDispatchMode):
    """The names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.__name__.partition(".")[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("skip_channels", [0, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_nearest_block_is_computed_from_the_small_map_where_it_is_faster(monkeypatch, skip_channels, bias):
    block = DecoderBlock(4, skip_channels, 6, upsample="nearest").double()
    if bias:
        block.conv1[0].bias = nn.Parameter(torch.randn(6, dtype=torch.float64))
    below = torch.randn(2, 4, 16, 16, dtype=torch.float64)
    skip = torch.randn(2, skip_channels, 32, 32, dtype=torch.float64) if skip_channels else None
    with Operations() as fast:
        found = block(below, skip)
    assert "upsample_nearest2d" not in fast.names
    found.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in block.parameters()]

    block.zero_grad()
    monkeypatch.setattr(upsample, "DOUBLED_PIXELS", 513)
    with Operations() as plain:
        expected = block(below, skip)
    assert "upsample_nearest2d" in plain.names
    torch.testing.assert_close(found, expected)
    expected.square().sum().backward()
    for gradient, parameter in zip(gradients, block.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-7, atol=1e-7)
