"""Building blocks of the networks, each usable alone."""

from normalkit.nn.decoder import UNetDecoder
from normalkit.nn.encoder import TimmEncoder
from normalkit.nn.heads import BilinearHead, NormalHead
from normalkit.nn.upsample import upsampled_conv2d

__all__ = ["BilinearHead", "NormalHead", "TimmEncoder", "UNetDecoder", "upsampled_conv2d"]
