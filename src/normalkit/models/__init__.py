"""Ready networks: images in, unit normals or class scores out."""

from normalkit.models.base import ImageModel, NormalEstimator
from normalkit.models.bilinear import BilinearNormals
from normalkit.models.cifar import BaseNet, Classifier, ImprovedNet
from normalkit.models.smp import SMPNormals
from normalkit.models.unet import UNetNormals

__all__ = [
    "BaseNet",
    "BilinearNormals",
    "Classifier",
    "ImageModel",
    "ImprovedNet",
    "NormalEstimator",
    "SMPNormals",
    "UNetNormals",
]
