"""Building blocks of the networks, each usable alone."""

from normalkit.nn.decoder import UNetDecoder
from normalkit.nn.encoder import TimmEncoder
from normalkit.nn.heads import BilinearHead, NormalHead

__all__ = ["BilinearHead", "NormalHead", "TimmEncoder", "UNetDecoder"]
