"""Surface normals: networks, losses, metrics, transforms and files, with the axes always stated.

Each public name is loaded when it is first used, so `import normalkit` itself is immediate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__: str
"""Of the installed package."""

__all__ = [
    "AngMFLoss",
    "AngularLoss",
    "AngularMetrics",
    "BaseNet",
    "BilinearHead",
    "BilinearNormals",
    "Convention",
    "ImprovedNet",
    "NormalFolder",
    "NormalHead",
    "PublishedNormals",
    "RGBDNormals",
    "SMPNormals",
    "ShardedNormals",
    "SurfaceNormalMetrics",
    "SurfaceNormals",
    "SyntheticRooms",
    "TimmEncoder",
    "UNetDecoder",
    "UNetNormals",
    "__version__",
    "angular_error",
    "angular_loss",
    "convert_normals",
    "depth_to_normals",
    "export_onnx",
    "export_program",
    "guess_convention",
    "load_model",
    "normals_to_rgb",
    "predict",
    "read_normals",
    "rgb_to_normals",
    "rotate_normals",
    "save_model",
    "surface_normal_metrics",
    "write_normals",
    "write_shards",
]

# The same names twice: type checkers and editors read the imports, the interpreter reads the table.
if TYPE_CHECKING:
    from normalkit.axes import guess_convention
    from normalkit.codec import normals_to_rgb, read_normals, rgb_to_normals, write_normals
    from normalkit.data.folder import NormalFolder
    from normalkit.data.published import PublishedNormals
    from normalkit.data.rgbd import RGBDNormals
    from normalkit.data.sharding import write_shards
    from normalkit.data.shards import ShardedNormals
    from normalkit.data.synthetic.rooms import SyntheticRooms
    from normalkit.export import export_onnx, export_program
    from normalkit.geometry import Convention, angular_error, convert_normals, depth_to_normals, rotate_normals
    from normalkit.inference import predict
    from normalkit.losses import AngMFLoss, AngularLoss, angular_loss
    from normalkit.metrics import AngularMetrics, SurfaceNormalMetrics, surface_normal_metrics
    from normalkit.models.bilinear import BilinearNormals
    from normalkit.models.checkpoint import load_model, save_model
    from normalkit.models.cifar import BaseNet, ImprovedNet
    from normalkit.models.smp import SMPNormals
    from normalkit.models.unet import UNetNormals
    from normalkit.nn.decoder import UNetDecoder
    from normalkit.nn.encoder import TimmEncoder
    from normalkit.nn.heads import BilinearHead, NormalHead
    from normalkit.transforms import SurfaceNormals
else:
    _HOMES = {
        "AngMFLoss": "losses",
        "AngularLoss": "losses",
        "AngularMetrics": "metrics",
        "BaseNet": "models.cifar",
        "BilinearHead": "nn.heads",
        "BilinearNormals": "models.bilinear",
        "Convention": "geometry",
        "ImprovedNet": "models.cifar",
        "NormalFolder": "data.folder",
        "NormalHead": "nn.heads",
        "PublishedNormals": "data.published",
        "RGBDNormals": "data.rgbd",
        "SMPNormals": "models.smp",
        "ShardedNormals": "data.shards",
        "SurfaceNormalMetrics": "metrics",
        "SurfaceNormals": "transforms",
        "SyntheticRooms": "data.synthetic.rooms",
        "TimmEncoder": "nn.encoder",
        "UNetDecoder": "nn.decoder",
        "UNetNormals": "models.unet",
        "angular_error": "geometry",
        "angular_loss": "losses",
        "convert_normals": "geometry",
        "depth_to_normals": "geometry",
        "export_onnx": "export",
        "export_program": "export",
        "guess_convention": "axes",
        "load_model": "models.checkpoint",
        "normals_to_rgb": "codec",
        "predict": "inference",
        "read_normals": "codec",
        "rgb_to_normals": "codec",
        "rotate_normals": "geometry",
        "save_model": "models.checkpoint",
        "surface_normal_metrics": "metrics",
        "write_normals": "codec",
        "write_shards": "data.sharding",
    }

    def __getattr__(name: str) -> object:
        """Load a public name from its module and keep it (PEP 562)."""
        value: object
        if name == "__version__":
            from importlib.metadata import version

            value = version(__name__)
        elif name in _HOMES:
            from importlib import import_module

            value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Every public name, loaded or not."""
        return sorted({*globals(), *__all__})
