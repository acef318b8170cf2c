"""Ready networks: images in, unit normals out."""

from normalkit.models.base import NormalEstimator
from normalkit.models.bilinear import BilinearNormals
from normalkit.models.unet import UNetNormals

__all__ = ["BilinearNormals", "NormalEstimator", "UNetNormals"]
